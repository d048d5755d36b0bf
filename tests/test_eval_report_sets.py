"""Several evaluated sets on one page: ranked, compared, side by side, with the tracked paths over the films."""

import json
import re
import shutil
from pathlib import Path

import pytest
from demo_folder import PROMPTS, write_demo, write_set

from core.errors import UserError
from core.videoset import read
from eval import METRICS, commands, gallery, leaderboard, report, report_sets, result, select, svg
from eval.scene import Judged, Scene, read_set


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sets")
    for name, speed, pass_rate in (("slow", 0.3, 0.0), ("right", 1.2, 1.0), ("fast", 2.0, 0.25)):
        write_set(folder / name, name, speed, pass_rate)
    return report_sets.find([str(folder)])


@pytest.fixture(scope="module")
def page(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "sets.html"
    report_sets.write(sets, path)
    return path.read_text(encoding="utf-8")


def test_sets_are_found_in_a_folder_or_by_themselves(sets: dict[str, Path], tmp_path: Path) -> None:
    assert set(sets) == {"slow", "right", "fast"}
    demo = write_demo(tmp_path / "demo", steps=1)
    assert list(report_sets.find([str(demo), str(sets["slow"])])) == ["base", "aligned", "slow"]
    with pytest.raises(UserError, match=r"holds no results\.json"):
        report_sets.find([str(tmp_path)])


def test_the_best_is_named_and_beats_the_others_in_the_matrix(sets: dict[str, Path], page: str) -> None:
    assert report_sets.Sets.read(sets).metric == "physics_pass_rate"
    words = re.sub(r"<[^>]+>", " ", page.split("</head>")[1])
    assert "right is best of 3 by physics_pass_rate." in words
    # right passes on all four prompts, slow on none
    assert "&#9650; 100\u2009%" in words and "&#9660; 0\u2009%" in words and "never met" not in words


def test_every_metric_has_a_line_for_every_set(page: str) -> None:
    chart = re.search(r'<svg class="intervals"[^>]*aria-label="physics_pass_rate: ([^"]*)"', page)
    assert chart and all(name in chart[1] for name in ("slow 0\u2009%", "right 100\u2009%", "fast 25.0\u2009%"))


def test_the_page_is_self_contained_and_prompts_stay_text(page: str) -> None:
    assert not re.search(r"\b(src|href|poster)=\"(?!data:|#)", page) and "https://" not in page
    assert "<b>under</b>" not in page and "&lt;b&gt;under" in page
    assert page.count("<video") == 4 + 3  # all prompts at random, three furthest apart
    assert all("aria-label=" in tag or "aria-hidden=" in tag for tag in re.findall(r"<svg[^>]*>|<video[^>]*>", page))


def test_tracked_paths_lie_over_the_films_with_a_gap_where_nothing_was_seen(page: str) -> None:
    over = re.search(r'<svg class="paths" viewBox="0 0 (\d+) (\d+)" aria-hidden="true">(.*?)</svg>', page)
    assert over and (over[1], over[2]) == (str(3 * 32 + 2 * 2), "32")
    assert re.findall(r"translate\((\d+) 0\)", over[3]) == ["0", "34", "68"]
    trail = re.search(r'<path d="([^"]*)" class="trail"', over[3])
    assert trail and trail[1].count("M") == 2 and trail[1].count("L") == 14  # 16 of 17 frames, one missing inside


def test_paths_are_scaled_with_a_shrunk_film() -> None:
    over = svg.paths([svg.Panel((10, 0), (0.5, 0.25), [[(4, 8), None, (6, 8)]])], 20, 10)
    assert 'transform="translate(10 0) scale(0.5 0.25)"' in over and 'd="M4 8M6 8"' in over
    assert svg.paths([svg.Panel((0, 0), (1, 1), [[None, None]])], 20, 10) == ""


def test_five_videos_make_two_rows(sets: dict[str, Path]) -> None:
    paths = [read(sets["slow"])[index % 4].video for index in range(5)]
    film = gallery.film(paths)
    assert (film.width, film.height, film.problem) == (4 * 32 + 3 * 2, 2 * 32 + 2, "")


def test_a_failing_video_says_by_which_probes(tmp_path: Path) -> None:
    demo = write_demo(tmp_path / "demo", steps=1)
    rows = [json.loads(line) for line in (demo / "base" / "samples.jsonl").read_text().splitlines()]
    rows[1]["reasons"] = {"physics_pass_rate": "inertia, energy"}
    (demo / "base" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "fails: inertia, energy" in report.write(demo).read_text(encoding="utf-8")


def test_sets_without_a_prompt_and_seed_in_common_have_no_rank(sets: dict[str, Path], tmp_path: Path) -> None:
    folders = dict(sets)
    for name, other in (("slow", "strange"), ("fast", "stranger")):
        folders[other] = Path(shutil.copytree(sets[name], tmp_path / other))
        for file in ("manifest.jsonl", "samples.jsonl"):
            text = (folders[other] / file).read_text()
            (folders[other] / file).write_text(re.sub(r'"seed": (\d)', r'"seed": 9\1', text))
    told = report_sets.Sets.read(folders)
    assert "in 2 groups that never met" in report_sets.headline(told)
    assert any("No common scale" in note for note in told.notes)
    assert "| \u2013 | right |" in report_sets.markdown(folders)


def test_a_broken_set_is_noted_and_the_others_are_shown(sets: dict[str, Path], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(sets["fast"], tmp_path / "fast"))
    (broken / "tracks.jsonl").write_text("nonsense\n{}\n")
    (broken / "videos" / "0000.mp4").write_bytes(b"not a video")
    report_sets.write(sets | {"fast": broken}, tmp_path / "sets.html")
    page = (tmp_path / "sets.html").read_text(encoding="utf-8")
    assert "This cannot be shown: " in page and "fast/tracks.jsonl:1" in page and str(tmp_path) not in page


def test_the_markdown_has_ranking_matrix_and_metrics(sets: dict[str, Path]) -> None:
    text = report_sets.markdown(sets)
    assert text.startswith("**right is best of 3") and "| 1 | right |" in text
    assert "| right |  | " in text and "| physics_pass_rate | " in text


def test_the_command_writes_both_forms_and_refuses_others(sets: dict[str, Path], tmp_path: Path) -> None:
    folders = [str(folder) for folder in sets.values()]
    for ending in ("html", "md"):
        commands.report([*folders, "--out", str(tmp_path / f"page.{ending}")])
        assert "right is best of 3" in (tmp_path / f"page.{ending}").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="ends in"):
        commands.report([*folders, "--out", str(tmp_path / "page.pdf")])
    with pytest.raises(UserError, match="no folder given"):
        commands.report([])
    demo = write_demo(tmp_path / "demo", steps=1)
    commands.report([str(demo)])
    assert "Alignment helped" in (demo / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("interval", [3, "x", [1], [1, 2, 3], {"a": 1}, None, ["x", 2]])
def test_an_interval_that_is_none_is_left_out(interval: object) -> None:
    entry = {"value": 0.5, "interval": interval, "unit": "share"}
    assert result.bounds(entry) == (None, None) and "one: 50" in svg.metric("flicker", {"one": entry})


def test_a_gap_needs_both_ends(tmp_path: Path) -> None:
    videos = {name: Judged(name, tmp_path, "p", 0, {"x": value}) for name, value in (("a", 1.0), ("b", 3.0))}
    assert Scene("p", 0, videos).gap("x") == 2 and Scene("p", 0, videos | {"b": None}).gap("x") is None
    assert Scene("p", 0, videos).gap("y") is None


def test_a_set_is_read_with_its_reasons(sets: dict[str, Path]) -> None:
    videos, problems = read_set(sets["slow"])
    assert [one.prompt for one in videos] == list(PROMPTS) and problems == []
    assert "seed" not in videos[0].metrics and videos[0].reasons == {}


def test_metrics_of_whole_sets_are_never_ranked_by() -> None:
    families = {name.split("[")[0] for name in METRICS if select.metric(name).per_set is not None}
    assert families == set(leaderboard.OF_SETS)
