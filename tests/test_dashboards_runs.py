"""Reading run folders: whole, partial, running and broken ones."""

import json
import os
from pathlib import Path

import pytest
from demo_folder import COMPARISON, PROMPTS, write_demo

from dashboards import charts, runs


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("runs") / "demo")


def only(folder: Path) -> runs.Experiment:
    (experiment,) = runs.find([folder])
    return experiment


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


def test_matches_are_of_the_same_prompt_and_seed(demo: Path) -> None:
    experiment = only(demo)
    (a, _), (b, _) = runs.samples(experiment.sets["base"]), runs.samples(experiment.sets["aligned"])
    matches = runs.match(a, list(reversed(b)))
    assert [pair.prompt for pair in matches] == list(PROMPTS)
    assert all(pair.a.seed == pair.b.seed and pair.a.path != pair.b.path for pair in matches)
    assert runs.match(a, b[1:]) == matches[1:]


def test_matches_sort_by_the_gap_with_unmeasured_ones_last(tmp_path: Path) -> None:
    def pair(name: str, a: float | None, b: float | None) -> runs.Match:
        first, second = (
            runs.Sample(name, tmp_path, name, 0, {} if value is None else {"x": value}) for value in (a, b)
        )
        return runs.Match(name, 0, first, second)

    pairs = [pair("unmeasured", None, 1.0), pair("loss", 1.0, 0.0), pair("gain", 0.0, 2.0)]
    assert [one.prompt for one in runs.sort_matches(pairs, "x")] == ["gain", "loss", "unmeasured"]
    assert [one.prompt for one in runs.sort_matches(pairs, "x", ascending=True)] == ["loss", "gain", "unmeasured"]
    assert runs.sort_matches(pairs, None) == pairs


def test_config_difference_lists_changed_keys_only() -> None:
    configs = {"one": {"seed": 0, "rate": 1e-3}, "two": {"seed": 0, "rate": 2e-3, "eta": 1}}
    assert runs.config_difference(configs) == {"rate": {"one": 1e-3, "two": 2e-3}, "eta": {"two": 1}}


def test_checkpoints_are_the_sample_sets_by_step(demo: Path) -> None:
    assert list(runs.checkpoints(only(demo))) == [0, 6, 12]


def test_the_reward_report_is_read_beside_its_baselines(demo: Path) -> None:
    rows, problems = runs.accuracies(only(demo))
    assert problems == [] and len(rows) == 6  # three aspects were asked about, with and without ties
    text = rows[0]
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
    rows, problems = runs.accuracies(only(tmp_path))
    assert rows == [] and bool(problems) == (content == "{")


def test_reading_writes_nothing(demo: Path) -> None:
    def listing() -> dict[str, float]:
        return {str(path): path.stat().st_mtime for path in demo.rglob("*")}

    before = listing()
    experiment = only(demo)
    runs.compare(experiment), runs.metrics(experiment), runs.config(experiment), runs.checkpoints(experiment)
    assert listing() == before and COMPARISON["a"] == "base"


def test_smoothing_keeps_a_constant_and_zero_keeps_everything() -> None:
    table = charts.tidy({"run": [{"step": n, "time": 60.0 * n, "reward/total": 2.0} for n in range(5)]})
    assert list(charts.smooth(table["value"], 0.9)) == pytest.approx([2.0] * 5)
    assert list(table["minutes"]) == [0, 1, 2, 3, 4]
    assert list(charts.smooth(table["step"], 0.0)) == list(table["step"])


def test_long_runs_are_thinned() -> None:
    rows = [{"step": n, "time": float(n), "reward/total": 0.0} for n in range(10 * charts.MAX_POINTS)]
    assert charts.MAX_POINTS / 2 < len(charts.tidy({"run": rows})) <= charts.MAX_POINTS
