"""Planted differences are found with their size, equal sets are not told apart, pairs are pairs."""

import json
from pathlib import Path

import numpy as np
import pytest

from core import cli, stats
from core.errors import UserError
from eval import compare, paired_tests, result
from eval.result import SetFeatures

UNITS = {"physics_pass_rate": True, "flicker": True, "motion": None, "gold": True, "physics/inertia": False}


def write_side(
    folder: Path, values: dict[str, np.ndarray], *, vectors: np.ndarray | None = None, reference=None
) -> Path:
    """An evaluated set of len(values) / 2 prompts with two seeds each."""
    folder.mkdir(parents=True)
    count = len(next(iter(values.values())))
    rows = [
        {"id": f"v{i}", "prompt": f"prompt {i // 2}", "seed": i % 2, "video": f"v{i}.mp4", "reasons": {}}
        | {name: None if np.isnan(column[i]) else float(column[i]) for name, column in values.items()}
        for i in range(count)
    ]
    result.write_samples(folder, rows)
    entry = {"interval": None, "n": count, "unit": "x", "version": "1", "backbone_sha256": None, "preprocessing": "p"}
    metrics = {
        name: entry | {"value": float(np.nanmean(column)), "higher_is_better": UNITS[name], "reason": None}
        for name, column in values.items()
    }
    if vectors is not None:
        features = SetFeatures(tuple(row["id"] for row in rows), vectors, reference)
        result.write_features(folder, {"sandbox,dct": features})
        for name in ("fvd[sandbox,dct]", "mmd[sandbox,dct]"):
            metrics[name] = entry | {"value": 1.0, "higher_is_better": False, "reason": None}
    provenance = {"reference_sha256": None if reference is None else str(reference.sum())}
    result.write_json(folder / result.RESULTS, {"metrics": metrics, "provenance": provenance})
    return folder


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_planted_difference_is_found_with_its_size(tmp_path: Path) -> None:
    noise = rng().standard_normal(200)
    a = {"flicker": 0.5 + 0.1 * noise, "physics/inertia": np.full(200, 0.3)}
    b = {
        "flicker": 0.55 + 0.1 * noise + 0.02 * rng(1).standard_normal(200),
        "physics/inertia": 0.3 + 0.1 * rng(2).random(200),
    }
    found = compare.compare(write_side(tmp_path / "a", a), write_side(tmp_path / "b", b))
    row = found["metrics"]["flicker"]
    assert row["low"] < 0.05 < row["high"] and row["high"] - row["low"] < 0.02  # paired: the common noise is gone
    assert row["p"] < 0.01 and row["verdict"] == "b better" and row["n"] == 200
    assert found["metrics"]["physics/inertia"]["verdict"] == "b worse"
    assert json.loads((tmp_path / "compare.json").read_text()) == found
    keys = {"a", "b", "difference", "low", "high", "p", "n", "unit", "higher_is_better", "method"}
    assert all(keys <= row.keys() for row in found["metrics"].values())


def test_equal_sets_are_not_told_apart(tmp_path: Path) -> None:
    """Under no difference p is below .05 about one time in twenty."""
    small = 0
    for seed in range(40):
        draw = rng(seed)
        sides = [write_side(tmp_path / f"{side}{seed}", {"flicker": draw.random(40)}) for side in "ab"]
        small += compare.compare(*sides)["metrics"]["flicker"]["p"] < 0.05
    assert small <= 6


def test_videos_without_a_prompt_each_stand_for_themselves(tmp_path: Path) -> None:
    sides = [
        write_side(tmp_path / name, {"flicker": np.linspace(0, 1, 20) + up}) for name, up in (("a", 0), ("b", 0.1))
    ]
    for side in sides:
        result.write_samples(side, [row | {"prompt": "", "seed": None} for row in result.read_samples(side)])
    found = compare.compare(*sides)
    assert found["num_prompts"] == 20 and found["metrics"]["flicker"]["p"] < 0.01


def test_p_counts_prompts_not_videos(tmp_path: Path) -> None:
    """Two seeds that always agree are one observation."""
    gain = np.repeat(rng(4).standard_normal(12) + 0.6, 2)
    doubled = compare.compare(
        write_side(tmp_path / "a", {"flicker": np.zeros(24)}), write_side(tmp_path / "b", {"flicker": gain})
    )["metrics"]["flicker"]
    signs = rng(0).choice([-1, 1], (20000, 12)) @ gain[::2]
    expected = float((np.abs(signs) >= abs(gain[::2].sum())).mean())
    assert doubled["p"] == pytest.approx(expected, abs=0.02)


def test_what_is_enough_alone_is_not_enough_as_one_of_two(tmp_path: Path) -> None:
    """Six prompts that all gain have p = 2 / 2^6; Holm doubles it beside a metric that says nothing."""
    gain = {"flicker": np.ones(12), "motion": np.repeat([0.1, -0.1] * 3, 2)}
    none = {name: np.zeros(12) for name in gain}
    for names, word in ((["flicker"], "b better"), (["flicker", "motion"], "no difference shown, alone it would be")):
        sides = [
            write_side(tmp_path / f"{side}{len(names)}", {name: values[name] for name in names})
            for side, values in (("a", none), ("b", gain))
        ]
        row = compare.compare(*sides)["metrics"]["flicker"]
        assert row["p"] == pytest.approx(2 / 64, abs=0.015)
        assert row["p_holm"] == pytest.approx(len(names) * row["p"]) and row["verdict"] == word


def test_win_rate_counts_ties_half_and_its_interval_is_its_own(tmp_path: Path) -> None:
    a = np.full(200, 0.5)
    b = np.concatenate([np.full(120, 0.6), np.full(40, 0.51), np.full(40, 0.4)])
    b = rng().permutation(b)
    row = compare.compare(write_side(tmp_path / "a", {"gold": a}), write_side(tmp_path / "b", {"gold": b}))["metrics"][
        "gold_win_rate"
    ]
    assert (row["wins"], row["ties"], row["losses"]) == (120, 40, 40)
    assert row["b"] == 0.7 and row["a"] == 0.5 and row["difference"] == pytest.approx(0.2)
    assert 0.5 < row["low"] < 0.7 < row["high"] and row["p"] < 0.001 and row["verdict"] == "b better"


def test_win_rate_of_a_set_over_itself_is_a_half(tmp_path: Path) -> None:
    values = {"gold": rng().random(40)}
    row = compare.compare(write_side(tmp_path / "a", values), write_side(tmp_path / "b", values))["metrics"][
        "gold_win_rate"
    ]
    assert row["b"] == 0.5 and row["p"] == 1 and row["ties"] == 40 and row["low"] < 0.5 < row["high"]


def test_seeds_of_one_prompt_that_agree_widen_the_win_interval(tmp_path: Path) -> None:
    gain = np.repeat(np.where(rng(2).random(30) < 0.7, 0.1, -0.1), 2)
    free = np.where(rng(3).random(60) < (gain > 0).mean(), 0.1, -0.1)

    def width(values: np.ndarray, name: str) -> float:
        sides = (
            write_side(tmp_path / f"a{name}", {"gold": np.zeros(60)}),
            write_side(tmp_path / f"b{name}", {"gold": values}),
        )
        row = compare.compare(*sides)["metrics"]["gold_win_rate"]
        return row["high"] - row["low"]

    assert width(gain, "tied") > 1.2 * width(free, "free")


def test_the_win_interval_is_wilsons_for_the_pairs_that_clustering_leaves() -> None:
    """Seven pairs of four prompts stand for 3.6, rounded to 4; the rate stays 5 of 7."""
    outcome, prompts = np.array([1, 1, 1, 1, -1, -1, 1.0]), np.array([0, 0, 1, 1, 2, 2, 3])
    found, alone = paired_tests.win_interval(outcome, prompts), stats.wilson(4 * 5 / 7, 0, 4)
    assert found.value == pytest.approx(5 / 7) and (found.low, found.high) == pytest.approx((alone.low, alone.high))
    free = paired_tests.win_interval(outcome, np.arange(7))
    assert (free.low, free.high) == pytest.approx((stats.wilson(5, 0, 7).low, stats.wilson(5, 0, 7).high))


def test_a_missing_value_leaves_its_pair_out_of_that_metric_only(tmp_path: Path) -> None:
    a = {"flicker": rng().random(20), "motion": rng(1).random(20)}
    b = {name: values + 0.1 for name, values in a.items()}
    b["flicker"] = np.where(np.arange(20) < 5, np.nan, b["flicker"])
    found = compare.compare(write_side(tmp_path / "a", a), write_side(tmp_path / "b", b))["metrics"]
    assert found["flicker"]["n"] == 15 and found["motion"]["n"] == 20
    assert found["motion"]["verdict"] == "changed: more"


def test_pairs_need_the_same_prompt_and_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (
        write_side(tmp_path / "a", {"flicker": rng().random(6)}),
        write_side(tmp_path / "b", {"flicker": rng(1).random(6)}),
    )
    rows = result.read_samples(b)
    rows[0]["seed"] = 99
    result.write_samples(b, list(reversed(rows)))
    found = compare.compare(a, b)
    assert found["num_pairs"] == 5 and found["unmatched"] == {"a": 1, "b": 1}
    compare.show(found)
    assert "left out, of no prompt and seed in the other: 1 of base, 1 of aligned" in capsys.readouterr().out
    kept = [row for row in result.read_samples(a) if row["id"] != "v0"]
    gap = np.mean([next(r for r in rows if r["id"] == row["id"])["flicker"] - row["flicker"] for row in kept])
    assert found["metrics"]["flicker"]["difference"] == pytest.approx(gap)
    result.write_samples(b, [row | {"prompt": "other"} for row in rows])
    with pytest.raises(UserError, match="share no prompt"):
        compare.compare(a, b)


def test_set_metrics_find_a_planted_shift_and_only_that(tmp_path: Path) -> None:
    reference, draw = rng(9).standard_normal((80, 6)), rng(5)
    near, far = draw.standard_normal((80, 6)), draw.standard_normal((80, 6)) + 1.0
    values = {"flicker": draw.random(80)}
    a = write_side(tmp_path / "a", values, vectors=far, reference=reference)
    b = write_side(tmp_path / "b", values, vectors=near, reference=reference)
    c = write_side(tmp_path / "c", values, vectors=draw.standard_normal((80, 6)), reference=reference)
    for name in ("fvd[sandbox,dct]", "mmd[sandbox,dct]"):
        row = compare.compare(a, b)["metrics"][name]
        assert row["difference"] < 0 and row["high"] < 0 and row["p"] == 0.001 and row["verdict"] == "b better", name
        assert compare.compare(b, c)["metrics"][name]["p"] > 0.05, name


def test_a_shift_in_many_dimensions_can_survive_holm(tmp_path: Path) -> None:
    """199 permutations say .005 at best, which ten other metrics take away."""
    draw = rng(5)
    reference, near = draw.standard_normal((2, 20, 70))
    values = {"flicker": draw.random(20)}
    a = write_side(tmp_path / "a", values, vectors=near + 3.0, reference=reference)
    b = write_side(tmp_path / "b", values, vectors=draw.standard_normal((20, 70)), reference=reference)
    assert compare.compare(a, b)["metrics"]["mmd[sandbox,dct]"]["p"] == 0.002


def test_sets_measured_against_different_references_are_not_compared(tmp_path: Path) -> None:
    values = {"flicker": rng().random(10)}
    vectors = rng().standard_normal((10, 3))
    a = write_side(tmp_path / "a", values, vectors=vectors, reference=rng(1).standard_normal((9, 3)))
    b = write_side(tmp_path / "b", values, vectors=vectors, reference=rng(2).standard_normal((9, 3)))
    row = compare.compare(a, b)["metrics"]["mmd[sandbox,dct]"]
    assert row["p"] is None and "references" in row["reason"] and row["verdict"] == "not compared"


def test_another_metric_version_is_not_compared(tmp_path: Path) -> None:
    a, b = (
        write_side(tmp_path / "a", {"flicker": rng().random(6)}),
        write_side(tmp_path / "b", {"flicker": rng(1).random(6)}),
    )
    content = result.read_results(b)
    content["metrics"]["flicker"]["version"] = "2"
    result.write_json(b / result.RESULTS, content)
    assert "version differs" in compare.compare(a, b)["metrics"]["flicker"]["reason"]


def test_the_same_seed_gives_the_same_table(tmp_path: Path) -> None:
    a, b = (
        write_side(tmp_path / "a", {"gold": rng().random(30)}),
        write_side(tmp_path / "b", {"gold": rng(1).random(30)}),
    )
    assert compare.compare(a, b, seed=3) == compare.compare(a, b, seed=3)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_side(tmp_path / "base", {"gold": np.full(60, 0.2)})
    b = write_side(tmp_path / "aligned", {"gold": np.full(60, 0.4) + 0.01 * rng().random(60)})
    assert cli.main(["compare", str(a), str(b), "--out", str(tmp_path / "table.json")]) == 0
    shown = capsys.readouterr().out
    assert "gold_win_rate" in shown and "1.000" in shown and (tmp_path / "table.json").exists()
    assert cli.main(["compare", str(a), str(tmp_path / "none")]) == 2
    assert "results.json is missing" in capsys.readouterr().err
    (b / "results.json").write_text("{")
    assert cli.main(["compare", str(a), str(b)]) == 2


def test_win_rates_by_any_metric_have_explicit_ties_and_directions(tmp_path: Path) -> None:
    base = rng().random(40)
    a = write_side(tmp_path / "a", {"flicker": base, "physics/inertia": base})
    b = write_side(tmp_path / "b", {"flicker": np.r_[base[:10], base[10:] + 0.1], "physics/inertia": base + 0.1})
    rows = compare.compare(a, b, win_by=("flicker", "physics/inertia"))["metrics"]
    row = rows["win_rate[flicker]"]
    assert (row["wins"], row["ties"], row["losses"], row["b"]) == (30, 10, 0, 0.875)
    assert rows["win_rate[physics/inertia]"]["b"] == 0  # lower is better there
    with pytest.raises(UserError, match="--win-by gold"):
        compare.compare(a, b, win_by=("gold",))
