"""Reading run folders: whole, partial, running and broken ones."""

import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from demo_folder import COMPARISON, PROMPTS, write_demo

from core.preferences import Vote
from dashboards import charts, export, reward_report, runs
from dashboards.views import leaderboard, optimisation
from eval.leaderboard import rankable
from eval.result import finite
from eval.scene import Judged, Scene, by_gap, read_set, read_tracks, side_by_side


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("runs") / "demo")


def only(folder: Path) -> runs.Experiment:
    (experiment,) = runs.find([folder])
    return experiment


def read_reward(folder: Path) -> tuple[reward_report.Report, list[str]]:
    path = only(folder).reward
    assert path is not None
    return reward_report.read(path)


def test_a_demo_folder_is_one_experiment(demo: Path) -> None:
    experiment = only(demo.parent)
    assert (experiment.name, experiment.folder) == ("demo", demo)
    assert list(experiment.sets) == ["base", "aligned"]
    assert experiment.training == demo / "align" and experiment.store == demo / "preferences.db"
    assert runs.state(experiment) == "finished"


def test_parts_are_experiments_of_their_own_when_asked_for(demo: Path) -> None:
    assert only(demo / "base").sets == {"base": demo / "base"}
    assert only(demo / "align").training == demo / "align"


def test_names_tell_equal_folders_apart(tmp_path: Path) -> None:
    for parent in ("monday", "tuesday"):
        (tmp_path / parent / "run").mkdir(parents=True)
        (tmp_path / parent / "run" / "config.yaml").write_text("seed: 0\n")
    assert {experiment.name for experiment in runs.find([tmp_path])} == {"monday/run", "tuesday/run"}


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert runs.find([tmp_path, tmp_path / "missing"]) == []


def test_the_comparison_is_read_with_verdicts_and_headlines_first(demo: Path) -> None:
    rows, problems = runs.compare(only(demo))
    verdicts = {row.name: row.verdict for row in rows}
    assert problems == []
    assert [row.name for row in rows][:3] == ["gold_win_rate", "physics_pass_rate", "clip_sim[sandbox]"]
    assert verdicts["fvd[sandbox,dct]"] == "better"  # fell, and lower is better
    assert verdicts["flicker"] == "worse" and verdicts["diversity"] == "unclear"
    assert verdicts["clip_sim[sandbox]"] == "maybe better"  # p < .05, but not after Holm's correction


def test_without_a_comparison_results_stand_side_by_side_untested(tmp_path: Path) -> None:
    demo = write_demo(tmp_path / "demo", steps=1)
    (demo / "compare.json").unlink()
    (row,), problems = runs.compare(only(demo))
    assert (row.name, row.base, row.aligned, row.verdict) == ("physics_pass_rate", 0.25, 0.75, "no test")
    assert problems == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"metrics": 3}', '{"metrics": {"x": {"a": "high", "p": NaN}}}'])
def test_a_broken_comparison_is_said_or_shown_empty_never_raised(tmp_path: Path, content: str) -> None:
    (tmp_path / "compare.json").write_text(content)
    rows, problems = runs.compare(only(tmp_path))
    assert problems or all(row.base is None and row.p is None for row in rows)


def test_only_what_a_float_can_hold_is_a_number() -> None:
    assert [finite(value) for value in (2, np.float32(0.5), 10**400, math.inf, "1", None)] == [2.0, 0.5, *[None] * 4]


def test_numbers_that_are_none_stay_none(tmp_path: Path) -> None:
    metric = {"a": None, "b": float("nan"), "higher_is_better": None, "n": None, "reason": "no I3D weights"}
    (tmp_path / "compare.json").write_text(json.dumps({"metrics": {"fvd[i3d]": metric}}))
    (row,), _ = runs.compare(only(tmp_path))
    assert (row.base, row.aligned, row.n, row.verdict) == (None, None, None, "not measured")
    assert row.reason == "no I3D weights"


def test_a_set_that_stands_alone_is_shown_untested(demo: Path) -> None:
    (row,), problems = runs.compare(only(demo / "aligned"))
    assert (row.base, row.aligned, row.verdict, problems) == (None, 0.75, "no test", [])


def test_a_run_counts_as_running_while_its_metrics_grow(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 5.0, "samples": 8}\n{"step": 2, "ti')
    experiment = only(tmp_path)
    os.utime(tmp_path / "metrics.jsonl", (1000, 1000))
    assert runs.state(experiment, now=1000 + runs.LIVE_SECONDS - 1) == "running"
    assert runs.state(experiment, now=1000 + runs.LIVE_SECONDS + 1) == "partial"
    assert runs.metrics(experiment) == ([{"step": 1, "time": 5.0, "samples": 8}], [])


def test_a_broken_metrics_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("nonsense\n{}\n")
    rows, problems = runs.metrics(only(tmp_path))
    assert rows == [] and "metrics.jsonl:1" in problems[0]


def test_scenes_are_of_the_same_prompt_and_seed_in_every_set(demo: Path) -> None:
    experiment = only(demo)
    (a, _), (b, _) = read_set(experiment.sets["base"]), read_set(experiment.sets["aligned"])
    scenes = side_by_side({"a": a, "b": list(reversed(b))})
    assert [scene.prompt for scene in scenes] == list(PROMPTS)
    assert all(one and two and one.seed == two.seed for one, two in (scene.videos.values() for scene in scenes))
    short = side_by_side({"a": a, "b": b[1:], "c": a})
    assert short[0].videos["b"] is None and short[0].gap("flicker") == 0
    assert short[1:] == side_by_side({"a": a[1:], "b": b[1:], "c": a[1:]})


def test_several_videos_of_a_prompt_without_seeds_are_matched_in_their_order(tmp_path: Path) -> None:
    sets = {name: [Judged(f"{name}{index}", tmp_path, "p", None) for index in range(2)] for name in ("a", "b")}
    scenes = side_by_side(sets)
    assert [[cell.id for cell in scene.videos.values() if cell] for scene in scenes] == [["a0", "b0"], ["a1", "b1"]]


def test_scenes_sort_by_the_gap_with_unmeasured_ones_last(tmp_path: Path) -> None:
    def scene(name: str, a: float | None, b: float | None) -> Scene:
        cells = (Judged(name, tmp_path, name, 0, {} if value is None else {"x": value}) for value in (a, b))
        return Scene(name, 0, dict(zip("ab", cells, strict=True)))

    scenes = [scene("unmeasured", None, 1.0), scene("loss", 1.0, 0.0), scene("gain", 0.0, 2.0)]
    assert [one.prompt for one in by_gap(scenes, "x")] == ["gain", "loss", "unmeasured"]
    assert [one.prompt for one in by_gap(scenes, "x", ascending=True)] == ["loss", "gain", "unmeasured"]


def test_conflicts_are_pairs_on_which_people_and_a_metric_disagree(tmp_path: Path) -> None:
    samples = [Judged(str(i), tmp_path / f"{i}.mp4", "p", i, {"x": float(i)}) for i in range(4)]

    def vote(a: int, b: int, choice: str) -> Vote:
        one, two = samples[a].path, samples[b].path
        return Vote(a * 10 + b, "p", one, two, "ada", "overall", choice, 0.0, None)

    votes = [vote(0, 3, "a"), vote(0, 3, "a"), vote(0, 3, "b"), vote(1, 2, "b"), vote(0, 1, "a"), vote(1, 3, "tie")]
    found = runs.conflicts(votes, samples, "x")
    assert [(one.liked.id, one.refused.id, one.gap, one.votes) for one in found] == [("0", "3", 3, 3), ("0", "1", 1, 1)]
    assert [one.liked.id for one in runs.conflicts(votes, samples, "x", higher_is_better=False)] == ["2"]
    assert runs.conflicts(votes, samples, "y") == []


def test_a_set_that_lacks_a_metric_does_not_turn_its_direction(tmp_path: Path) -> None:
    for name, entries in (("real", {}), ("base", {"inertia": {"value": 0.1, "higher_is_better": False}}), ("last", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({"metrics": entries}))
    folders = [tmp_path / name for name in ("none", "real", "base", "last")]
    assert not runs.higher_is_better(folders, "inertia") and runs.higher_is_better(folders, "motion")


def test_sets_of_several_runs_are_named_by_their_run(demo: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_demo(tmp_path / name, steps=1)
    found = runs.evaluated(runs.find([tmp_path]))
    assert set(found) == {f"{run} / {name}" for run in ("one", "two") for name in ("base", "aligned")}
    assert list(runs.evaluated([only(demo)])) == ["base", "aligned"]


def test_tracks_and_results_are_read_or_said_to_be_broken(tmp_path: Path) -> None:
    assert read_tracks(tmp_path) == ({}, []) and runs.results(tmp_path) == ({}, [])
    (tmp_path / "tracks.jsonl").write_text('{"id": "v", "objects": []}\n{"id": 3}\n')
    assert list(read_tracks(tmp_path)[0]) == ["v"]
    places = ([[1, 2], None], [[1, 2], 3], [["x", 2]], [[1, 2, 3]], "no list")
    lines = [{"id": str(row), "objects": [{"position": trail}]} for row, trail in enumerate(places)]
    (tmp_path / "tracks.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in [*lines, {"id": "5", "objects": 3}])
    )
    assert list(read_tracks(tmp_path)[0]) == ["0"]
    (tmp_path / "tracks.jsonl").write_text("nonsense\n{}\n")
    (tmp_path / "results.json").write_text("{")
    assert read_tracks(tmp_path)[1] and runs.results(tmp_path)[1]


@pytest.mark.parametrize("kind", ["CSV", "JSON", "Parquet"])
def test_exports_hold_every_row_and_number(kind: str, demo: Path) -> None:
    rows, _ = runs.compare(only(demo))
    data = io.BytesIO(export.encode(export.records({"demo": rows}), kind))
    reader = {"CSV": pd.read_csv, "JSON": pd.read_json, "Parquet": pd.read_parquet}[kind]
    back = reader(data).set_index("metric")
    assert len(back) == len(rows) and back.loc["physics_pass_rate", "aligned"] == 0.75
    assert back.loc["gold_win_rate", "verdict"] == "better"


def test_a_count_that_is_not_known_everywhere_stays_whole() -> None:
    rows = [
        {"metric": "one, two", "n": 288, "p": 1.0, "reason": None},
        {"metric": "three", "n": None, "p": None, "reason": None},
    ]
    assert export.encode(rows, "CSV").decode() == 'metric,n,p,reason\n"one, two",288,1.0,\nthree,,,\n'
    assert pyarrow.parquet.read_table(io.BytesIO(export.encode(rows, "Parquet"))).to_pylist() == rows


def test_the_markdown_is_a_model_cards_table(demo: Path) -> None:
    text = export.markdown({"demo": runs.compare(only(demo))[0]})
    assert text.startswith("## demo\n\n**Alignment helped") and "| clip_sim\\[sandbox] |" in text
    assert text.count("|---|---|---|---|---|---|---|") == 1


def test_the_turn_of_a_held_out_judge_is_found() -> None:
    rows = [{"step": n, "judge/gold": value} for n, value in enumerate([0.1, 0.4, 0.6, 0.5, 0.3])]
    assert optimisation.turn(rows, "judge/gold", "step") == {"step": 2, "at": 2, "fell": True}
    assert optimisation.turn(rows[:3], "judge/gold", "step") == {"step": 2, "at": 2, "fell": False}
    assert optimisation.turn(rows, "judge/other", "step") is None


def test_a_radar_shares_the_possible_range_not_the_range_of_the_sets() -> None:
    def entry(value: float, higher: bool, most: float | None = 1.0) -> dict[str, object]:
        return {"value": value, "range": [0.0, most], "higher_is_better": higher}

    entries = {
        "a": {"x": entry(0.2, True), "y": entry(0.1, False), "z": entry(5, True, None)},
        "b": {"x": entry(0.9, True), "y": entry(0.3, False), "z": entry(6, True, None)},
    }
    shares = {(row["set"], row["metric"]): row["share"] for row in leaderboard.shares(entries)}
    assert shares == pytest.approx({("a", "x"): 0.2, ("b", "x"): 0.9, ("a", "y"): 0.9, ("b", "y"): 0.7})
    assert rankable(entries) == ["x", "y", "z"]


def test_points_of_best_of_n_are_drawn_with_or_without_intervals_and_broken_ones_left_out(tmp_path: Path) -> None:
    whole = {"n": 1, "kl": 0.0, "proxy": {}, "gold": {"value": 0.5, "low": 0.4, "high": 0.6}}
    alone = {"n": 2, "kl": 0.2, "gold": {"value": 0.6, "low": None, "high": None}}
    points = [
        whole,
        alone,
        3,
        {"n": 4},
        {"n": 5, "kl": "x", "gold": {"value": 1}},
        {"n": 6, "kl": 1, "gold": {"low": 1}},
    ]
    (tmp_path / "best_of_n.json").write_text(json.dumps({"points": points}))
    read, problems = runs.best_of_n(tmp_path)
    assert [point["n"] for point in read["points"]] == [1, 2] and problems == []
    assert "N = 2" in charts.best_of_n(read["points"], "proxy", "gold")
    assert runs.best_of_n(tmp_path / "none") == ({"points": []}, [])


def test_config_difference_lists_changed_keys_only() -> None:
    configs = {"one": {"seed": 0, "rate": 1e-3}, "two": {"seed": 0, "rate": 2e-3, "eta": 1}}
    assert runs.config_difference(configs) == {"rate": {"one": 1e-3, "two": 2e-3}, "eta": {"two": 1}}


def test_checkpoints_are_the_sample_sets_by_step(demo: Path) -> None:
    assert list(runs.checkpoints(only(demo))) == [0, 6, 12]


def test_the_reward_report_is_read_beside_its_baselines(demo: Path) -> None:
    report, problems = read_reward(demo)
    assert problems == [] and len(report.accuracies) == 6  # three aspects were asked about, with and without ties
    text = report.accuracies[0]
    assert (text.aspect, text.kind, text.value, text.majority, text.n) == (
        "text_alignment",
        "without ties",
        0.81,
        0.52,
        200,
    )


@pytest.mark.parametrize("content", ["{", '{"aspects": [1]}', '{"aspects": {"overall": {"accuracy": 0.5}}}'])
def test_a_broken_reward_report_gives_no_rows(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    report, problems = read_reward(tmp_path)
    assert report == reward_report.Report() and bool(problems) == (content == "{")


def test_the_errors_that_a_model_is_surest_of_are_read_from_its_report(demo: Path, tmp_path: Path) -> None:
    (error,) = read_reward(demo)[0].worst
    assert error.confidence == 0.93 and error.liked.is_relative_to(demo / "base") and error.prompt == "a red ball"
    (tmp_path / "report.json").write_text(
        '{"aspects": {}, "worst_errors": [3, {"confidence": "x"}, {"confidence": 0.7}]}'
    )
    assert [one.confidence for one in read_reward(tmp_path)[0].worst] == [0.7]


def test_a_pinned_baseline_is_compared_prompt_by_prompt(demo: Path, tmp_path: Path) -> None:
    rows, reason = runs.against(demo / "base", demo / "aligned", ("gold", "physics_pass_rate"))
    (row,) = rows
    assert (row.name, row.difference, row.n, reason) == ("physics_pass_rate", 0.5, 4, "") and row.p is not None
    other = write_demo(tmp_path / "other")
    path = other / "aligned" / "samples.jsonl"
    path.write_text(path.read_text().replace('"seed": ', '"seed": 9'))
    rows, reason = runs.against(demo / "base", other / "aligned")
    assert "but no seed of one" in reason and rows[0].p is None and rows[0].aligned == 0.75


def test_the_learning_curve_ends_with_the_model_itself(tmp_path: Path) -> None:
    demo = write_demo(tmp_path / "demo", steps=1)
    path = demo / "reward" / "report.json"
    curve = [{"num_pairs": 75, "accuracy": {"value": 0.6, "low": 0.5, "high": 0.7}}, {"num_pairs": 150}]
    told = json.loads(path.read_text()) | {
        "learning_curve": curve,
        "levels": {"0.3": (share := {"value": 0.7, "low": 0.6, "high": 0.8}), "nan": share, "9" * 400: share},
    }
    told["aspects"]["overall"] = told["aspects"].pop("overall")  # the closing aspect stands last
    path.write_text(json.dumps(told))
    report, _ = read_reward(demo)
    assert report.by_pairs == {75: (0.6, 0.5, 0.7), 600: pytest.approx((0.78, 0.73, 0.83))}
    assert report.by_noise == {0.3: (0.7, 0.6, 0.8)}


@pytest.mark.parametrize("spoilt", [{"aspects": None}, {"num_pairs": None}, {"aspects": {"overall": 3}}])
def test_a_learning_curve_stands_without_the_model_that_a_damaged_report_lacks(
    tmp_path: Path, spoilt: dict[str, object]
) -> None:
    demo = write_demo(tmp_path / "demo", steps=1)
    path = demo / "reward" / "report.json"
    curve = [{"num_pairs": 75, "accuracy": {"value": 0.6, "low": 0.5, "high": 0.7}}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"learning_curve": curve} | spoilt))
    report, _ = read_reward(demo)
    assert (report.by_pairs, report.by_noise) == ({75: (0.6, 0.5, 0.7)}, {})


def test_reading_writes_nothing(demo: Path) -> None:
    def listing() -> dict[str, float]:
        return {str(path): path.stat().st_mtime for path in demo.rglob("*")}

    before = listing()
    experiment = only(demo)
    runs.compare(experiment), runs.metrics(experiment), runs.config(experiment), runs.checkpoints(experiment)
    assert listing() == before and COMPARISON["a"] == "base"


def test_smoothing_keeps_a_constant_and_zero_keeps_everything() -> None:
    rows = [{"step": n, "time": 60.0 * n, "reward/total": 2.0} for n in range(5)]
    points = charts.logged(rows, "reward/total", "minutes")
    assert charts.smooth([value for *_, value in points], 0.9) == pytest.approx([2.0] * 5)
    assert [minutes for _, minutes, _ in points] == [0, 1, 2, 3, 4]
    assert charts.smooth([0.0, 1.0, 5.0], 0.0) == [0.0, 1.0, 5.0]


def test_long_runs_are_thinned() -> None:
    rows = [{"step": n, "time": float(n), "reward/total": 0.0} for n in range(10 * charts.MAX_POINTS)]
    assert charts.MAX_POINTS / 2 < len(charts.logged(rows, "reward/total", "step")) <= charts.MAX_POINTS
