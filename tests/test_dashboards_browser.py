"""Both apps in a real headless Chromium: label pairs by keyboard, look at a run. The store is the witness."""

import base64
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_folder import PROMPTS, disc, write_demo

from core import files, preferences_people, video
from core.preferences import Store, Vote
from dashboards.labeling import manage

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e '.[test]')")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE = 60_000  # milliseconds; how long a busy machine may take, not how long it should
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
ATTACK = '<img src=x onerror="window.hacked=1"> a ball & a <b>square</b>'


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


class Tab:
    """A browser tab that notes what it was sent and what went wrong in it."""

    def __init__(self, browser: Any, origin: str) -> None:
        self.received: list[str] = []
        self.faults: list[str] = []
        self.page = browser.new_page(viewport={"width": 1280, "height": 860})
        self.page.set_default_timeout(PATIENCE)
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._note))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self._check(request.url, origin))

    def _note(self, payload: Any) -> None:
        self.received.append(payload.decode("utf-8", "replace") if isinstance(payload, bytes) else payload)

    def _check(self, url: str, origin: str) -> None:
        if not url.startswith((origin, origin.replace("http", "ws"), "data:", "blob:")):
            self.faults.append(f"asked the network for {url}")


def serve(*words: str) -> Iterator[str]:
    """The address of a running app. Stopped as a person stops it, and then it must be gone."""
    command = [sys.executable, "-m", "dashboards", *words, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if found := re.search(r"http://\S+", line):
            break
    else:
        pytest.fail(f"the app did not start: {''.join(seen)}")
    yield found.group(0)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in rest, rest


NUM_PAIRS = 22


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Pairs of one vote each; the files are named after the models, which nobody may see."""
    store = Store(tmp_path / "preferences.db")
    for index in range(NUM_PAIRS):
        ids = []
        for model, speed in (("secretbase", 0.4), ("secretaligned", 1.3)):
            path = tmp_path / f"{model}-{index}.mp4"
            video.write(path, disc(index, speed + 0.01 * index), 8.0)
            ids.append(store.add_video(path, model=model))
        store.add_pair(f"{index} {ATTACK}", *ids)
    return store


@pytest.fixture
def label_url(store: Store) -> Iterator[str]:
    yield from serve("label", "--store", str(store.path))


@pytest.fixture
def report_url(tmp_path: Path) -> Iterator[str]:
    write_demo(tmp_path / "runs" / "demo")
    yield from serve("dashboard", str(tmp_path / "runs"))


def come_in(tab: Tab, url: str, name: str) -> None:
    tab.page.goto(url)
    tab.page.get_by_label("Your name").fill(name)
    tab.page.keyboard.press("Enter")


class Annotator:
    """Somebody at the labeling screen, and what they should have said according to what was in front of them."""

    def __init__(self, tab: Tab) -> None:
        self.page = tab.page
        self.screen, self.controls = tab.page.locator(".label"), tab.page.locator(".controls[data-ready=true]")
        self.said: list[tuple[str, bytes, str]] = []  # prompt, the left video's bytes, the answer

    def press(self, key: str, done: int) -> None:
        """Press, and wait until the server has acknowledged `done` labels."""
        self.page.keyboard.press(key)
        self.wait(done)

    def wait(self, done: int) -> None:
        playwright.expect(self.screen).to_have_attribute("data-done", str(done), timeout=PATIENCE)
        playwright.expect(self.screen).to_have_attribute("data-pending", "0", timeout=PATIENCE)

    def note(self, said: str) -> None:
        """Remember what is on the screen and what is about to be said of it."""
        self.controls.wait_for()
        url = self.page.locator(".panel:first-child video").evaluate("video => video.src")
        left = self.page.request.get(url).body()
        self.said.append((self.page.locator("h1.prompt").inner_text(), left, said))

    def vote(self, key: str, said: str) -> None:
        self.note(said)
        self.press(key, len(self.said))

    def agrees_with(self, votes: list[Vote]) -> bool:
        """Whether the store holds exactly this, in this order."""
        found = []
        for vote in votes:
            a_was_left = vote.left_is == "a"
            left = (vote.video_a if a_was_left else vote.video_b).read_bytes()
            side = {"a": "left" if a_was_left else "right", "b": "right" if a_was_left else "left"}
            found.append((vote.prompt, left, side.get(vote.choice, vote.choice)))
        return found == self.said


def test_label_twenty_pairs_by_keyboard(browser: Any, label_url: str, store: Store, record_property: Any) -> None:
    tab = Tab(browser, label_url)
    page, ada = tab.page, Annotator(tab)
    page.goto(label_url)
    page.get_by_label("Your name").press_sequentially("s b x z Ada")  # keys of the screen, typed as text
    page.keyboard.press("Enter")
    ada.controls.wait_for()
    assert page.url.rstrip("/") == label_url and store.votes() == []

    # The two videos run, in step, on their own. Half a frame is 62 ms; the rest is for a machine that is busy.
    page.wait_for_function(
        _walk("videos => videos.length === 2 && videos.every(v => v.currentTime > 0.3 && !v.paused)")
    )
    times = page.evaluate(_walk("videos => videos.map(v => v.currentTime)"))
    assert abs(times[0] - times[1]) < 0.125
    assert page.evaluate("window.hacked") is None and page.locator("h1.prompt img").count() == 0
    page.keyboard.press(" ")
    page.wait_for_function(_walk("videos => videos.every(v => v.paused)"))
    page.keyboard.press("0")
    page.keyboard.press(".")
    playwright.expect(page.locator(".counter")).to_have_text(re.compile(r"^\d+ / 17$"))
    for key in "cCrR":  # the browser's and Streamlit's own
        page.keyboard.press(key)
    assert store.votes() == []

    ada.vote("ArrowLeft", "left")
    ada.vote("ArrowRight", "right")
    page.reload()
    ada.controls.wait_for()
    lease = ada.screen.get_attribute("data-lease")
    page.reload()
    ada.controls.wait_for()
    assert ada.screen.get_attribute("data-lease") == lease

    ada.vote("ArrowDown", "tie")
    ada.press("z", 2)  # undo, and say something else
    ada.said.pop()
    assert len(store.votes()) == 2
    ada.vote("ArrowRight", "right")
    page.reload()
    ada.controls.wait_for()
    ada.press("z", 2)  # the page does not remember that label, the store does
    ada.said.pop()
    ada.vote("b", "both_bad")

    # Two presses in one instant are two answers, to two pairs.
    ada.note("left")
    page.evaluate(
        "() => { for (let i = 0; i < 2; i++) document.body.dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true, composed: true, repeat: i > 0})); }"
    )
    ada.wait(4)  # a key that is held down is one press

    # One optional aspect, a note that holds keys of the screen, then the question that closes the pair.
    page.keyboard.press("2")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("n")
    page.keyboard.type("bzs <b>blur</b>")
    page.keyboard.press("Enter")
    ada.vote("ArrowDown", "tie")
    (motion,) = store.votes("motion_quality")
    last = store.votes("overall")[-1]
    assert motion.pair_id == last.pair_id and motion.choice == motion.left_is
    assert last.comment == "bzs <b>blur</b>" and last.seconds is not None and last.watched is not None

    # Skips say why: one of the usual reasons, or words.
    ada.note("skip")
    page.keyboard.press("s")
    ada.press("3", 6)
    ada.note("skip")
    page.keyboard.press("s")
    page.keyboard.press("n")
    page.keyboard.type("two lefts")
    ada.press("Enter", 7)
    assert [vote.comment for vote in store.votes("overall")[-2:]] == ["I cannot decide", "two lefts"]

    # Faster than the server answers: each answer is about what was on the screen.
    waits = []
    for number in range(13):
        ada.note("right" if number % 2 else "left")
        if number > 3:  # at a person's pace; the first ones as fast as keys can come
            page.locator(".label[data-loaded='1'], .label[data-loaded='2']").wait_for()
        page.keyboard.press("ArrowRight" if number % 2 else "ArrowLeft")
        ada.controls.wait_for()
        if number > 3:
            waits.append(float(ada.screen.get_attribute("data-waited") or "nan"))
    ada.wait(20)
    assert ada.agrees_with(store.votes("overall"))
    waits.sort()
    record_property("next_pair_milliseconds", waits)
    print(f"next pair on the screen after {waits[len(waits) // 2]:.0f} ms (median), {waits[-1]:.0f} ms (slowest)")
    assert waits[len(waits) // 2] < 1000  # 150 is the aim; a shared machine shall not fail for its neighbours

    for number in (21, 22):
        ada.controls.wait_for()
        ada.press("ArrowLeft", number)
    page.keyboard.press("ArrowLeft")
    page.locator(".done h1").wait_for()
    assert len(store.votes("overall")) == 22
    page.get_by_role("link", name="You").click()
    page.get_by_text("Your latest labels").wait_for()
    assert tab.faults == []
    assert not [text for text in tab.received if "secret" in text]  # blind: no file and no model name was ever sent
    page.close()


def test_two_annotators_at_once(browser: Any, label_url: str, store: Store) -> None:
    for pair in store.pairs():
        store.raise_target(pair.id, 2)
    tabs = [Tab(browser, label_url) for _ in range(2)]
    both = [Annotator(tab) for tab in tabs]
    for name, tab in zip(("Ada", "Ben"), tabs, strict=True):
        come_in(tab, label_url, name)
    for number in range(4):
        for one, key, said in zip(both, ("ArrowLeft", "ArrowRight"), ("left", "right"), strict=True):
            one.note(said)
            one.page.keyboard.press(key)
        for one in both:
            one.wait(number + 1)
    votes = store.votes("overall")
    for name, one, tab in zip(("Ada", "Ben"), both, tabs, strict=True):
        assert one.agrees_with([vote for vote in votes if vote.annotator == name])
        assert tab.faults == []
        tab.page.close()
    assert max(pair.num_labels for pair in store.pairs()) <= 2


def test_a_replaced_video_and_a_lost_lease_are_said_and_nothing_is_lost(
    browser: Any, label_url: str, store: Store
) -> None:
    tab = Tab(browser, label_url)
    ada = Annotator(tab)
    first, second = store.queue("Ada", 2, 900)
    video.write(first.left, disc(3, 0.9), 8.0)
    come_in(tab, label_url, "Ada")
    playwright.expect(tab.page.locator(".broken")).to_contain_text("was replaced", timeout=PATIENCE)
    tab.page.keyboard.press("ArrowLeft")
    playwright.expect(tab.page.locator(".notice")).to_contain_text("skip it with S")
    tab.page.keyboard.press("s")
    ada.press("1", 1)
    assert [vote.comment for vote in store.votes()] == ["a video is broken"]

    ada.controls.wait_for()
    with store.transaction() as connection:  # Ada is away for long, and somebody else judges her pair
        connection.execute("UPDATE lease SET expires = 0 WHERE id = ?", (second.id,))
    while store.num_labels(second.pair_id) == 0 or store.claim("Ben") is not None:
        lease = store.claim("Ben")
        if lease is None:
            break
        store.vote(lease.id, "overall", "tie")
    tab.page.keyboard.press("ArrowLeft")
    playwright.expect(tab.page.locator(".notice")).to_contain_text("went to somebody else", timeout=PATIENCE)
    assert [vote.choice for vote in store.votes() if vote.annotator == "Ada"] == ["skip"]
    ada.controls.wait_for()
    ada.press("ArrowRight", 2)
    assert tab.faults == []
    tab.page.close()


def test_a_screen_without_pairs_says_so_and_fills_by_itself(browser: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "preferences.db")
    for url in serve("label", "--store", str(store.path)):
        tab = Tab(browser, url)
        come_in(tab, url, "Ada")
        playwright.expect(tab.page.locator(".done")).to_contain_text("No pairs yet", timeout=PATIENCE)
        ids = []
        for speed in (0.4, 1.3):
            video.write(tmp_path / f"{speed}.mp4", disc(0, speed), 8.0)
            ids.append(store.add_video(tmp_path / f"{speed}.mp4"))
        store.add_pair("a ball", *ids)
        tab.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # as on coming back to the tab
        tab.page.locator(".controls[data-ready=true]").wait_for()
        assert tab.page.locator("h1.prompt").inner_text() == "a ball" and tab.faults == []


def test_an_invitation_lets_in_once_clicked_and_its_token_is_seen_nowhere(
    browser: Any, label_url: str, store: Store
) -> None:
    token = preferences_people.invite(store, "Ada")
    tab = Tab(browser, label_url)
    page, ada = tab.page, Annotator(tab)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.url} {request.headers.get('referer')}"))
    page.goto(manage.link(label_url, "Ada", "wrong", "default"))
    page.get_by_text("do not belong together").wait_for()
    assert page.url.rstrip("/") == label_url
    page.goto(manage.link(label_url, "Ada", token, "default"))  # only the # differs: the page hears of it all the same
    ada.controls.wait_for()
    assert page.url == f"{label_url}/?project=default"
    page.reload()
    ada.vote("ArrowLeft", "left")
    assert {vote.annotator for vote in store.votes()} == {"Ada"}
    (cookie,) = (one for one in page.context.cookies() if one["name"].startswith("soralign-"))
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    assert token not in page.evaluate("document.cookie + JSON.stringify(localStorage) + document.title + location.href")
    while page.evaluate("history.length") > 1 and page.url != "about:blank":
        assert token not in page.url
        if page.go_back() is None:
            break
    assert not [text for text in asked + tab.received if token in text]

    page.goto(label_url)
    page.get_by_role("link", name="You").click()
    page.get_by_role("button", name="I am not Ada").click()
    page.get_by_label("Your name").wait_for()
    assert tab.faults == []
    page.close()


def test_the_browser_turns_a_phones_video_as_we_do(browser: Any, clip: Any, turned: Any, tmp_path: Path) -> None:
    video.write(tmp_path / "flat.mp4", clip, 8.0)
    path = turned(tmp_path / "flat.mp4", 90)
    address = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"
    page = browser.new_page()
    page.set_content(f'<video src="{address}" muted preload="auto"></video>')
    page.wait_for_function("document.querySelector('video').readyState >= 2", timeout=PATIENCE)
    width, height, pixels = page.evaluate(
        """() => {
            const film = document.querySelector("video"), canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [film.videoWidth, film.videoHeight];
            const pen = canvas.getContext("2d");
            pen.drawImage(film, 0, 0);
            return [canvas.width, canvas.height, [...pen.getImageData(0, 0, canvas.width, canvas.height).data]];
        }"""
    )
    page.close()
    info, ours = video.probe(path), video.read(path).frames[0]
    assert (width, height) == (info.width, info.height)
    theirs = np.moveaxis(np.reshape(pixels, (height, width, 4))[..., :3] / 255, -1, 0)
    assert np.abs(theirs - ours).mean() < 0.02


def test_look_at_a_run(browser: Any, report_url: str) -> None:
    tab = Tab(browser, report_url)
    page = tab.page
    page.goto(report_url)
    row = page.locator(".sora-table tbody tr", has_text="gold_win_rate")
    playwright.expect(row).to_contain_text("▲ better", timeout=PATIENCE)
    playwright.expect(row).to_contain_text("78")

    page.get_by_role("link", name="Training").click()
    playwright.expect(page.get_by_text("approx_kl")).to_be_visible(timeout=PATIENCE)
    curve = page.locator("figure", has_text="total").locator("svg.lines")
    curve.hover()
    playwright.expect(page.locator(".values", has_text="step 6")).to_be_visible()
    curve.focus()
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator(".values", has_text="step 7")).to_be_visible()

    page.get_by_role("link", name="Gallery").click()
    playwright.expect(page.locator(".gallery .card")).to_have_count(len(PROMPTS), timeout=PATIENCE)
    playwright.expect(page.locator(".card h3").nth(2)).to_have_text(PROMPTS[2])
    page.wait_for_function(_walk("videos => videos.length >= 8 && videos.slice(0, 2).every(v => v.currentTime > 0.2)"))

    page.get_by_role("link", name="Physics").click()
    playwright.expect(page.locator(".tracks path.path")).to_have_count(len(PROMPTS), timeout=PATIENCE)
    playwright.expect(page.locator(".tracks").first).to_be_visible()
    page.keyboard.press("t")
    playwright.expect(page.locator(".tracks").first).to_be_hidden()

    page.get_by_role("link", name="Leaderboard").click()
    playwright.expect(page.get_by_text("Bradley-Terry")).to_be_visible(timeout=PATIENCE)
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV", exact=True).first.click()
    assert "aligned" in Path(saved.value.path()).read_text()
    assert page.request.get(report_url + "/clip/../../etc/passwd").text().find("root:") == -1
    assert page.request.get(report_url + "/clip/" + "0" * 32).status == 404
    assert tab.faults == []
    page.close()


@pytest.fixture
def going(tmp_path: Path) -> Path:
    """A training that has logged two steps."""
    log = tmp_path / "runs" / "going" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    for step in (1, 2):
        log_step(log, step)
    return log


def log_step(log: Path, step: int) -> None:
    files.append_line(log, {"step": step, "time": 1.0, "samples": 8 * step, "reward/total": step / 10})


@pytest.fixture
def going_url(going: Path) -> Iterator[str]:
    yield from serve("dashboard", str(going.parent.parent))


def test_curves_of_a_running_training_grow_while_one_looks(browser: Any, going_url: str, going: Path) -> None:
    tab = Tab(browser, going_url)
    tab.page.goto(f"{going_url}/training")
    playwright.expect(tab.page.get_by_text("going at step 2")).to_be_visible(timeout=PATIENCE)
    log_step(going, 3)
    playwright.expect(tab.page.get_by_text("going at step 3")).to_be_visible(timeout=PATIENCE)
    playwright.expect(tab.page.locator("svg.lines")).to_contain_text("0.3", timeout=PATIENCE)  # the last tick
    tab.page.close()


def _walk(use: str) -> str:
    """JavaScript that gives `use` every <video> of the page, those in open shadow roots included."""
    return (
        "() => { const found = []; const walk = root => { for (const element of root.querySelectorAll('*')) {"
        " if (element.tagName === 'VIDEO') found.push(element);"
        f" if (element.shadowRoot) walk(element.shadowRoot); }} }}; walk(document); return ({use})(found); }}"
    )
