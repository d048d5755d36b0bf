"""Is b better than a? Paired by prompt and seed, one test per metric, all of them corrected for being many.

Per-video metrics: mean of paired differences, bootstrap over prompts, p by flipping the signs of whole prompts. Set
metrics: their difference has no pairs, but its labels can be swapped, so p comes from a permutation of a and b within
prompts, and the interval from a jackknife over prompts. gold_win_rate counts pairs: b's share of wins, ties half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.errors import UserError
from core.randomness import numpy_generator
from core.stats import Difference, holm, numbered, paired_difference, permutation_p, wilson
from eval import METRICS, result, select
from eval.pairs import Pair, Row, paired
from eval.protocol import Metric
from eval.result import SIGNIFICANT, TIE_BAND, SetFeatures, finite
from eval.set_interval import jackknife, parts_for

NUM_PERMUTATIONS = 999
FEW_PERMUTATIONS = 199  # of features of many dimensions, whose distance takes a tenth of a second


def compare(
    dir_a: Path | str, dir_b: Path | str, out: Path | str | None = None, seed: int = 0, win_by: Sequence[str] = ()
) -> dict[str, Any]:
    """Compare two evaluated sets and write compare.json.

    Args:
        out: file to write; None for compare.json in the folder that holds dir_b.
        seed: of the resampling.
        win_by: per-video metrics whose win rates are added as win_rate[NAME]; gold_win_rate always is.
    Returns: what was written. low and high bound the difference b - a; for gold_win_rate they bound b, the win rate
        itself, whose a is .5 by definition (a set against itself).
    Raises: UserError when a folder was not evaluated or when no prompt and seed is in both.
    """
    compared = between(dir_a, dir_b, seed, win_by)
    result.write_json(Path(out) if out is not None else Path(dir_b).resolve().parent / "compare.json", compared)
    return compared


def between(
    dir_a: Path | str,
    dir_b: Path | str,
    seed: int = 0,
    win_by: Sequence[str] = (),
    is_wanted: Callable[[str], bool] = lambda name: True,
) -> dict[str, Any]:
    """What `compare` writes, of the metrics that are wanted; p is corrected for those. Raises: UserError as there."""
    results = [result.read_results(folder) for folder in (dir_a, dir_b)]
    samples = [result.read_samples(folder) for folder in (dir_a, dir_b)]
    pairs = paired(*samples)
    if not pairs:
        raise UserError(f"{dir_a} and {dir_b} share no (prompt, seed); generate both with the same prompts and seeds")
    features = [result.read_features(folder) for folder in (dir_a, dir_b)]
    rows: dict[str, Row] = {}
    for name in win_by:
        if any(name not in content["metrics"] for content in results):
            raise UserError(
                f"--win-by {name}: not in both results; run `soralign eval` with --metrics '{name}' on both"
            )
    shared = results[0]["metrics"].keys() & results[1]["metrics"].keys()
    for name in [*METRICS, *sorted(name for name in shared if name.startswith(select.REWARD))]:
        entries = [content["metrics"].get(name) for content in results]
        if entries[0] is None or entries[1] is None or not is_wanted(name):
            continue
        metric = select.metric(name) if name in METRICS else None
        row = {"a": entries[0]["value"], "b": entries[1]["value"]} | _fine_print(entries[1])
        reason = _incomparable(*entries)
        if reason is None and metric is not None and metric.per_set is not None:
            reason = _incomparable_sets(results, [kinds.get(metric.kind) for kinds in features])
        if reason is not None:
            rows[name] = row | _untested(reason)
        elif metric is not None and metric.per_set is not None:
            one, two = (kinds[metric.kind] for kinds in features)
            rows[name] = row | _compare_sets(metric, pairs, one, two, seed)
        else:
            rows[name] = row | _compare_videos(name, pairs, seed)
        if name == "gold":
            rows["gold_win_rate"] = win_rate(pairs, seed)
        if name in win_by:
            higher = entries[1].get("higher_is_better") is not False
            rows[f"win_rate[{name}]"] = win_rate(pairs, seed, name, 0.0, higher)
    for row, p in zip(rows.values(), holm([_nan(row["p"]) for row in rows.values()]), strict=True):
        row["p_holm"] = finite(p)
        row["verdict"] = verdict(row)
    unmatched = [len(side) - len(pairs) for side in samples]
    return {
        "metrics": rows,
        "a": str(dir_a),
        "b": str(dir_b),
        "num_pairs": len(pairs),
        "num_prompts": len({pair[0]["prompt"] for pair in pairs}),
        "unmatched": {"a": unmatched[0], "b": unmatched[1]},
        "seed": seed,
        "alpha": SIGNIFICANT,
        "tie_band": TIE_BAND,
    }


def win_rate(
    pairs: Sequence[Pair], seed: int = 0, by: str = "gold", tie_band: float = TIE_BAND, higher_is_better: bool = True
) -> Row:
    """Share of pairs in which b is better than a by one metric; a difference within the tie band is a tie, half a win.

    The Wilson interval is given the number of pairs that the clustering by prompt leaves (design effect, Kish 1965);
    p flips the outcomes of whole prompts.
    """
    scores = np.array([[_nan(a.get(by)), _nan(b.get(by))] for a, b in pairs])
    known = np.isfinite(scores).all(axis=1)
    gaps = (scores[known, 1] - scores[known, 0]) * (1 if higher_is_better else -1)
    outcome = np.where(np.abs(gaps) <= tie_band, 0.0, np.sign(gaps))
    prompts = [pair[0]["prompt"] for pair, ok in zip(pairs, known, strict=True) if ok]
    wins, ties, losses = (int((outcome == kind).sum()) for kind in (1, 0, -1))
    row: Row = {"a": 0.5, "b": None, "unit": "share of pairs", "higher_is_better": True}
    if not len(outcome):
        return row | _untested(f"no pair has {by} on both sides")
    shrink = 1 / _design_effect(outcome, prompts)
    interval = wilson(wins * shrink, ties * shrink, max(1, round(len(outcome) * shrink)))
    rate = (wins + ties / 2) / len(outcome)
    return row | {
        "b": rate,
        "difference": rate - 0.5,
        "low": min(rate, interval.low),
        "high": max(rate, interval.high),
        "p": finite(permutation_p(outcome, prompts, seed)),
        "n": len(outcome),
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "effect": None,
        "reason": None,
        "method": f"b over a, ties (within {tie_band:g}) half; low and high are the Wilson interval of b itself,"
        " design effect of prompts; sign-flip permutation p over prompts",
    }


def _design_effect(outcome: NDArray[np.float64], prompts: Sequence[str]) -> float:
    """How much larger the variance of the mean is because pairs share prompts; at least 1."""
    residual = outcome - outcome.mean()
    independent = float((residual**2).sum())
    clustered = float((np.bincount(numbered(prompts), residual) ** 2).sum())
    return max(1.0, clustered / independent) if independent > 0 else 1.0


def _compare_videos(name: str, pairs: Sequence[Pair], seed: int) -> Row:
    """Paired test of one per-video metric. a and b become the means over the pairs that both sides have."""
    a, b = (np.array([_nan(pair[side].get(name)) for pair in pairs]) for side in (0, 1))
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return _untested("no pair has a value on both sides")
    difference = paired_difference(a, b, [pair[0]["prompt"] for pair in pairs], seed)
    spread = float((b - a)[both].std(ddof=1)) if both.sum() > 1 else 0.0
    means = {"a": float(a[both].mean()), "b": float(b[both].mean())}
    return means | _tested(difference, difference.difference / spread if spread > 0 else None)


def _compare_sets(metric: Metric, pairs: Sequence[Pair], a: SetFeatures, b: SetFeatures, seed: int) -> Row:
    """Permutation test of one distance to the reference. a and b become the distances of the paired videos."""
    distance, reference = metric.per_set, a.reference
    assert distance is not None and reference is not None
    # A pair of videos gives as many rows on both sides; where their lengths differ it cannot be swapped.
    usable = [(x, y) for x, y in pairs if len(a.rows.get(x["id"], ())) == len(b.rows.get(y["id"], ())) > 0]
    if len(usable) < 3:
        return _untested(f"{len(usable)} pairs have features on both sides")
    first = a.vectors[[row for x, _ in usable for row in a.rows[x["id"]]]]
    second = b.vectors[[row for _, y in usable for row in b.rows[y["id"]]]]
    prompts = [x["prompt"] for x, _ in usable for _ in a.rows[x["id"]]]

    def gap(kept: NDArray[np.int_]) -> float:
        return distance(second[kept], reference) - distance(first[kept], reference)

    dim = reference.shape[1]
    interval = jackknife(gap, prompts, parts_for(dim))
    if not math.isfinite(interval.value):
        return _untested(f"too few pairs for it ({len(usable)}, {dim} dimensions)")
    group = numbered(prompts)
    rng = numpy_generator(seed, "eval/set permutation")
    extreme, tries = 0, NUM_PERMUTATIONS if dim <= 64 else FEW_PERMUTATIONS
    for _ in range(tries):
        swap = (rng.random(group.max() + 1) < 0.5)[group][:, None]
        one, two = np.where(swap, second, first), np.where(swap, first, second)
        extreme += abs(distance(two, reference) - distance(one, reference)) >= abs(interval.value)
    p = (extreme + 1) / (tries + 1)
    means = {"a": distance(first, reference), "b": distance(second, reference)}
    method = f"{interval.method}, permutation p within prompts"
    return means | _tested(Difference(interval.value, interval.low, interval.high, p, len(usable), method), None)


def _incomparable(a: Row, b: Row) -> str | None:
    """Why two numbers of one name may not be compared; None when they may."""
    for side, entry in (("a", a), ("b", b)):
        if entry["value"] is None:
            return f"{side}: {entry['reason']}"
    for key in ("version", "backbone_sha256", "preprocessing"):
        if a.get(key) != b.get(key):
            return f"{key} differs: {a.get(key)} and {b.get(key)}; evaluate both again"
    return None


def _incomparable_sets(results: Sequence[Row], features: Sequence[SetFeatures | None]) -> str | None:
    digests = [content.get("provenance", {}).get("reference_sha256") for content in results]
    if digests[0] != digests[1]:
        return "measured against different references; evaluate both with the same --reference"
    if any(side is None or side.reference is None for side in features):
        return f"{result.FEATURES} is missing or holds no reference; evaluate again with --reference"
    return None


def _tested(found: Difference, effect: float | None) -> Row:
    return {
        "difference": finite(found.difference),
        "low": finite(found.low),
        "high": finite(found.high),
        "p": finite(found.p),
        "n": found.n,
        "effect": finite(effect),
        "method": found.method,
        "reason": None,
    }


def _untested(reason: str) -> Row:
    return dict.fromkeys(("difference", "low", "high", "p", "effect", "method")) | {"n": 0, "reason": reason}


def _fine_print(entry: Row) -> Row:
    return {key: entry.get(key) for key in ("unit", "higher_is_better", "version", "backbone", "flagged")}


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def verdict(row: Row) -> str:
    """What a row says, in words; a claim only when p survives Holm's correction."""
    if row["reason"] is not None or row["p"] is None:
        return "not compared"
    if row["p_holm"] >= SIGNIFICANT:
        hint = ", alone it would be" if row["p"] < SIGNIFICANT else ""
        return f"no difference shown{hint}"
    if row["higher_is_better"] is None:
        return "changed: more" if row["difference"] > 0 else "changed: less"
    return "b better" if (row["difference"] > 0) == row["higher_is_better"] else "b worse"


def show(
    compared: dict[str, Any], names: tuple[str, str] = ("base", "aligned"), console: Console | None = None
) -> None:
    """Print the comparison: a | b | difference | interval | p, and what it says. Narrow terminals lose Holm and n."""
    console = console or Console()
    is_wide = console.width >= 100
    table = Table(box=box.SIMPLE_HEAD if is_wide else None, pad_edge=False, padding=(0, 1))
    table.add_column("metric", overflow="fold")
    for heading in (
        *names,
        "difference" if is_wide else "diff.",
        "95 % interval",
        "p",
        *(("Holm", "n") if is_wide else ()),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(f"{names[1]} is" if is_wide else "", no_wrap=True)
    untested = []
    for name, row in compared["metrics"].items():
        if row["reason"] is not None:
            untested.append(f"{name}: {row['reason']}")
            continue
        values = [_number(row["a"]), _number(row["b"]), _number(row["difference"], signed=True)]
        interval = "-" if row["low"] is None else f"{_number(row['low'])} .. {_number(row['high'])}"
        extra = [_p(row["p_holm"]), str(row["n"])] if is_wide else []
        table.add_row(escape(name), *values, interval, _p(row["p"]), *extra, _word(row))
    console.print(table)
    console.print(
        f"{compared['num_pairs']} pairs, {compared['num_prompts']} prompts; better and worse hold after Holm's"
        " correction for all rows, (in brackets) only alone"
    )
    if "gold_win_rate" in compared["metrics"]:
        console.print(f"gold_win_rate: {names[1]} over {names[0]}, ties half; its interval is that of the rate itself")
    for line in untested:
        console.print(f"not compared: {line}", markup=False)


def _word(row: Row) -> str:
    """better, worse or changed; in brackets where Holm's correction takes it back."""
    if row["p"] is None or row["p"] >= SIGNIFICANT:
        return ""
    better = None if row["higher_is_better"] is None else (row["difference"] > 0) == row["higher_is_better"]
    word = {None: "changed", True: "better", False: "worse"}[better]
    if row["p_holm"] >= SIGNIFICANT:
        return f"({word})"
    return {None: word, True: f"[bold green]{word}[/]", False: f"[bold red]{word}[/]"}[better]


def _number(value: float | None, signed: bool = False) -> str:
    """Three digits after the point, fewer for large numbers."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3
    return f"{value:{'+' if signed else ''}.{digits}f}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<.001" if value < 0.001 else f"{value:.3f}"
