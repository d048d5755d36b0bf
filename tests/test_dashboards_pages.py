"""Every page of the report app, and the labeling script, on whole, partial, broken and empty folders."""

import json
import sys
from pathlib import Path

import pytest
from demo_folder import write_demo
from streamlit.testing.v1 import AppTest

from core import preferences_people
from core.preferences import Settings, Store
from dashboards import PAGES
from dashboards.labeling import entry

DASHBOARDS = Path(__file__).parents[1] / "dashboards"


def page(name: str, folder: str) -> None:
    """Runs as a Streamlit script of its own, so it imports what it needs."""
    from pathlib import Path

    from core.registry import resolve
    from dashboards import PAGES, runs

    resolve(PAGES, name, "page")(runs.find([Path(folder)]))  # type: ignore[operator]


def shown(name: str, folder: Path) -> AppTest:
    app = AppTest.from_function(page, default_timeout=60, args=(name, str(folder))).run()
    assert not app.exception, app.exception
    return app


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo") / "demo")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo with every file damaged in its own way."""
    folder = write_demo(tmp_path_factory.mktemp("broken") / "demo", steps=2)
    (folder / "compare.json").write_text('{"metr')
    (folder / "align" / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 2}\n')
    (folder / "align" / "config.yaml").write_text("a: [1\n")
    (folder / "aligned" / "samples.jsonl").write_text("[]\n[]\n")
    (folder / "base" / "tracks.jsonl").write_text("nonsense\n{}\n")
    (folder / "base" / "videos" / "0001.mp4").write_bytes(b"no video")
    for path in folder.glob("preferences.db*"):
        path.unlink()  # a new file, because the connection that wrote the old one may still be open
    (folder / "preferences.db").write_bytes(b"no database" * 1000)
    (folder / "reward" / "report.json").write_text("")
    (folder / "align" / "samples" / "step-000006" / "manifest.jsonl").write_text("{}\n")
    return folder


@pytest.mark.parametrize("name", PAGES)
def test_a_whole_run_renders_without_warnings(name: str, demo: Path) -> None:
    app = shown(name, demo)
    assert not app.warning and not app.error and app.title[0].value == name.capitalize()


@pytest.mark.parametrize("name", PAGES)
def test_broken_files_are_named_and_the_page_goes_on(name: str, broken: Path) -> None:
    app = shown(name, broken)
    if name != "checkpoints":  # the broken step is not the one that is shown first
        assert app.warning


@pytest.mark.parametrize("name", PAGES)
def test_a_run_that_has_only_begun_renders(name: str, tmp_path: Path) -> None:
    (tmp_path / "align").mkdir()
    (tmp_path / "align" / "config.yaml").write_text("seed: 0\n")
    assert shown(name, tmp_path).info


@pytest.mark.parametrize("name", PAGES)
def test_several_runs_render(name: str, demo: Path, broken: Path, tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(demo)
    (tmp_path / "two").symlink_to(broken)
    shown(name, tmp_path)


def markup(app: AppTest) -> str:
    return "".join(element.proto.body for element in app.get("html"))


def drawn(app: AppTest) -> str:
    """The drawings of a page."""
    found = (one.proto for one in app.get("bidi_component") if one.proto.component_name == "soralign_charts")
    return "".join(json.loads(proto.json)["markup"] for proto in found)


def test_the_overview_shows_the_headline_and_its_mark(demo: Path) -> None:
    said = markup(shown("overview", demo))
    assert "wins over base" in said and "78" in said
    counts = {mark: said.count(f">{mark}<") for mark in ("▲ better", "△ maybe better", "▼ worse", "○ unclear")}
    assert counts == {"▲ better": 3, "△ maybe better": 1, "▼ worse": 1, "○ unclear": 1}


def test_a_pinned_baseline_stands_in_the_url_and_beside_every_run(demo: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(demo)
    app = AppTest.from_function(page, default_timeout=60, args=("overview", str(tmp_path)))
    app.query_params["baseline"] = "two / aligned"
    said = markup(app.run())
    assert not app.exception and said.count("the baseline") == 1 and "two / aligned" in app.selectbox[0].value


def test_the_chosen_step_and_runs_stand_in_the_url(demo: Path, tmp_path: Path) -> None:
    app = AppTest.from_function(page, default_timeout=60, args=("checkpoints", str(demo)))
    app.query_params["step"] = "6"
    assert app.run().select_slider[0].value == 6 and not app.exception
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(demo)
    app = AppTest.from_function(page, default_timeout=60, args=("training", str(tmp_path)))
    app.query_params["runs"] = "two"
    app.run()
    assert (
        not app.exception and app.multiselect[0].value == ["two"] and "two" in drawn(app) and ">one<" not in drawn(app)
    )


def test_what_is_folded_away_is_made_when_it_is_opened(demo: Path) -> None:
    app = shown("overview", demo)
    assert "physics/gravity" not in markup(app) and "learning_rate" not in markup(app)
    app.session_state["parts"], app.session_state["settings"] = True, True
    app.run()
    assert not app.exception and "physics/gravity" in markup(app) and "learning_rate" in markup(app)


def test_the_leaderboard_draws_ratings_and_who_beats_whom(demo: Path) -> None:
    app = shown("leaderboard", demo)
    said = markup(app)
    assert (
        said.count('alt="rating of') == 2
        and "<svg" not in said
        and 'title="aligned over base' in said
        and not drawn(app)
    )
    app.session_state["metrics"] = True
    assert "physics_pass_rate" in drawn(app.run()) and not app.exception


def test_streamlit_finds_no_pages_folder_to_run_files_of() -> None:
    """It would, where a link to a page is the first that a server hears of, and show an empty one."""
    assert not (DASHBOARDS / "pages").exists(), "delete dashboards/pages; older versions left it behind"


def test_names_from_files_cannot_inject_html(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script><img src=x onerror="alert(1)">'
    metric = {"a": 1, "b": 2, "difference": 1, "unit": evil, "method": evil, "reason": evil}
    (tmp_path / "compare.json").write_text(json.dumps({"metrics": {evil: metric}}))
    for element in shown("overview", tmp_path).get("html"):
        assert "<script" not in element.proto.body and "<img" not in element.proto.body


def test_the_app_without_runs_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path)])
    app = AppTest.from_file(str(DASHBOARDS / "report.py"), default_timeout=60).run()
    assert not app.exception and app.title[0].value == "Nothing to show yet"


@pytest.fixture
def labeling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[AppTest, Store]:
    demo = write_demo(tmp_path / "demo", steps=1)
    store = Store(tmp_path / "labels.db")
    for index in range(3):
        paths = [demo / name / "videos" / f"{index:04d}.mp4" for name in ("base", "aligned")]
        store.add_pair(f"prompt {index}", *(store.add_video(path) for path in paths))
    monkeypatch.setattr(sys, "argv", ["label.py", str(store.path)])
    app = AppTest.from_file(str(DASHBOARDS / "label.py"), default_timeout=60)
    return app, store


def door(app: AppTest) -> dict[str, object] | None:
    """What the door was told, or None where somebody is in."""
    (found,) = (one for one in app.get("bidi_component") if one.proto.component_name == "soralign_door")
    told: dict[str, object] = json.loads(found.proto.json)
    return None if told["annotator"] else told


def test_labeling_shows_newcomers_the_door(labeling: tuple[AppTest, Store]) -> None:
    app, _ = labeling
    app.run()
    assert not app.exception and (door(app) or {})["refused"] == ""


def test_a_missing_video_leaves_a_page_that_can_be_skipped(
    labeling: tuple[AppTest, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, store = labeling
    lease = store.claim("Ada")
    assert lease is not None
    lease.left.unlink()
    monkeypatch.setattr(entry, "credentials", lambda cookies: ("Ada", ""))
    app.run()
    assert not app.exception and not app.error and door(app) is None
    assert store.events()[0][1] == "video unreadable"


def test_a_wrong_token_a_borrowed_name_and_an_unknown_project_lead_to_the_door(
    labeling: tuple[AppTest, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = labeling
    preferences_people.invite(store, "Ada")
    for name, token, project, word in (
        ("Ada", "wrong", "default", "do not belong together"),
        ("admin", "", "default", "belongs to whoever started"),
        ("Bob", "", "none", "unknown"),
    ):
        monkeypatch.setattr(entry, "credentials", lambda cookies, who=(name, token): who)
        app = AppTest.from_file(str(DASHBOARDS / "label.py"), default_timeout=60)
        app.query_params["project"] = project
        app.run()
        assert not app.exception and word in str((door(app) or {})["refused"])


def project_page(path: str) -> None:
    from core.preferences import Store
    from core.preferences_people import Person
    from dashboards.labeling import admin, entry

    admin.show(entry.Visit(Store(path), Person("admin", "admin", True, 0.0)))


def test_pairs_that_were_added_are_counted_at_once(labeling: tuple[AppTest, Store]) -> None:
    _, other = labeling
    store = Store(other.folder / "new.db")
    app = AppTest.from_function(project_page, args=(str(store.path),), default_timeout=60).run()
    assert app.metric[0].value == "0 of 0"
    sets = next(one for one in app.multiselect if one.label == "Video sets")
    sets.select("demo/base").select("demo/aligned")
    next(one for one in app.button if one.label == "Add pairs").click().run()
    assert not app.exception and len(store.pairs()) > 0
    assert app.metric[0].value == f"0 of {len(store.pairs())}"


def test_the_project_page_shows_whatever_was_set_from_the_command_line(labeling: tuple[AppTest, Store]) -> None:
    _, store = labeling
    store.raise_target(1, 80)
    store.save_settings(Settings(fast_seconds=90))
    store.record_vote(1, "Ada", "overall", "a")
    store.log_event("exported", "1 row")
    app = AppTest.from_function(project_page, default_timeout=60, args=(str(store.path),)).run()
    assert not app.exception and not app.error
    assert [metric.value for metric in app.metric[:2]] == ["1 of 82", "0 of 3"]
    assert {80, 90} <= {field.value for field in app.number_input}
    agreement, people, log = (table.value for table in app.dataframe)
    assert list(agreement["pairs with several labels"]) == [0] * 4 and list(people["annotator"]) == ["Ada"]
    assert list(log["what"]) == ["exported"]
