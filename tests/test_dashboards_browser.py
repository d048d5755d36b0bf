"""Both apps in a real headless Chromium: label pairs by keyboard, look at a run. The store is the witness."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_folder import PROMPTS, disc, write_demo

from core import video
from core.preferences import Store

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


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Seven pairs, one vote each; the files are named after the models, which nobody may see."""
    store = Store(tmp_path / "preferences.db")
    for index in range(7):
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


def test_label_five_pairs_by_keyboard(browser: Any, label_url: str, store: Store) -> None:
    tab = Tab(browser, label_url)
    page = tab.page
    page.goto(label_url)
    page.get_by_label("Your name").press_sequentially("s b x z Ada")  # keys of the screen, typed as text
    page.keyboard.press("Enter")
    screen, controls = page.locator(".label"), page.locator(".controls[data-ready=true]")
    controls.wait_for()
    annotator = "s b x z Ada"
    assert "annotator=s+b+x+z+Ada" in page.url and store.votes() == []

    def left_bytes() -> bytes:
        url = page.locator(".panel:first-child video").evaluate("video => video.src")
        return page.request.get(url).body()

    def press(key: str, done: int) -> None:
        page.keyboard.press(key)
        playwright.expect(screen).to_have_attribute("data-done", str(done), timeout=PATIENCE)
        controls.wait_for()

    expected: list[tuple[str, bytes, str | None]] = []  # prompt, the left video's bytes, the side that was chosen

    def vote(key: str, side: str | None) -> None:
        expected.append((page.locator("h1.prompt").inner_text(), left_bytes(), side))
        press(key, len(expected))

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

    vote("ArrowLeft", "left")
    vote("ArrowRight", "right")
    page.reload()
    controls.wait_for()
    pair = screen.get_attribute("data-pair")
    page.reload()
    controls.wait_for()
    assert screen.get_attribute("data-pair") == pair

    vote("ArrowDown", None)
    press("z", 2)  # undo, and say something else
    expected.pop()
    assert len(store.votes()) == 2
    vote("ArrowRight", "right")

    # Two presses in one instant are one vote; the second must not fall on the next pair.
    expected.append((page.locator("h1.prompt").inner_text(), left_bytes(), "left"))
    page.evaluate(
        "() => { for (let i = 0; i < 2; i++) document.body.dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true, composed: true})); }"
    )
    playwright.expect(screen).to_have_attribute("data-done", "4", timeout=PATIENCE)
    controls.wait_for()

    # One optional aspect, then the question that closes the pair.
    page.keyboard.press("2")
    page.keyboard.press("ArrowLeft")
    vote("b", None)

    votes = store.votes("overall")
    assert [vote.annotator for vote in votes] == [annotator] * 5
    for given, (prompt, left, side) in zip(votes, expected, strict=True):
        a_was_left = given.video_a.read_bytes() == left
        assert given.prompt == prompt and given.left_is == ("a" if a_was_left else "b")
        if side is not None:
            assert given.choice == ("a" if a_was_left == (side == "left") else "b")
    assert votes[-1].choice == "both_bad"
    (motion,) = store.votes("motion_quality")
    assert motion.pair_id == votes[-1].pair_id and motion.choice == motion.left_is

    press("s", 6)
    page.keyboard.press("ArrowLeft")
    page.locator(".done h1").wait_for()
    assert tab.faults == []
    assert not [text for text in tab.received if "secret" in text]  # blind: no file and no model name was ever sent
    page.close()


def test_look_at_a_run(browser: Any, report_url: str) -> None:
    tab = Tab(browser, report_url)
    page = tab.page
    page.goto(report_url)
    row = page.locator(".sora-table tbody tr", has_text="gold_win_rate")
    playwright.expect(row).to_contain_text("▲ better", timeout=PATIENCE)
    playwright.expect(row).to_contain_text("78")

    page.get_by_role("link", name="Training").click()
    page.locator("[data-testid=stVegaLiteChart] :is(canvas, svg)").first.wait_for()
    playwright.expect(page.get_by_text("approx_kl")).to_be_visible(timeout=PATIENCE)

    page.get_by_role("link", name="Gallery").click()
    playwright.expect(page.locator(".gallery .card")).to_have_count(len(PROMPTS), timeout=PATIENCE)
    playwright.expect(page.locator(".card h3").nth(2)).to_have_text(PROMPTS[2])
    page.wait_for_function(_walk("videos => videos.length >= 8 && videos.slice(0, 2).every(v => v.currentTime > 0.2)"))
    assert page.request.get(report_url + "/clip/../../etc/passwd").text().find("root:") == -1
    assert page.request.get(report_url + "/clip/" + "0" * 32).status == 404
    assert tab.faults == []
    page.close()


def _walk(use: str) -> str:
    """JavaScript that gives `use` every <video> of the page, those in open shadow roots included."""
    return (
        "() => { const found = []; const walk = root => { for (const element of root.querySelectorAll('*')) {"
        " if (element.tagName === 'VIDEO') found.push(element);"
        f" if (element.shadowRoot) walk(element.shadowRoot); }} }}; walk(document); return ({use})(found); }}"
    )
