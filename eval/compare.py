"""Is b better than a? Paired by prompt and seed, one test per metric, all of them corrected for being many.

Per-video metrics: mean of paired differences, bootstrap over prompts, p by flipping the signs of whole prompts. Set
metrics: their difference has no pairs, but its labels can be swapped, so p comes from a permutation of a and b within
prompts, and the interval from a jackknife over prompts. gold_win_rate counts pairs: b's share of wins, ties half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from core.stats import Difference, numbered
from eval import METRICS, result, select, svg
from eval.paired_tests import Sides, row_of, untested
from eval.pairs import Pair, Row, cluster
from eval.protocol import Metric
from eval.result import SIGNIFICANT, SetFeatures
from eval.set_interval import jackknife, parts_for

ENOUGH = 20  # permutations as extreme as what was seen: p is known well enough, and it is not small


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
    sides = Sides.of(dir_a, dir_b)
    for name in win_by:
        if not sides.have(name):
            raise UserError(
                f"--win-by {name}: not in both results; run `soralign eval` with --metrics '{name}' on both"
            )
    features = [result.read_features(folder) for folder in sides.folders]
    rows: dict[str, Row] = {}
    rewards = sorted(name for name in sides.results[0]["metrics"] if name.startswith(select.REWARD))
    for name in [*METRICS, *rewards]:
        if not sides.have(name):
            continue
        metric = select.metric(name) if name in METRICS else None
        if metric is None or metric.per_set is None:
            rows |= sides.tested(name, seed, win_by)
            continue
        row, reason = sides.beside(name)
        reason = reason or _incomparable_sets(sides.results, [kinds.get(metric.kind) for kinds in features])
        if reason is not None:
            rows[name] = row | untested(reason)
        else:
            one, two = (kinds[metric.kind] for kinds in features)
            rows[name] = row | _compare_sets(metric, sides.pairs, one, two, seed)
    compared = sides.document(rows, seed)
    result.write_json(Path(out) if out is not None else Path(dir_b).resolve().parent / "compare.json", compared)
    return compared


def _compare_sets(metric: Metric, pairs: Sequence[Pair], a: SetFeatures, b: SetFeatures, seed: int) -> Row:
    """Permutation test of one distance to the reference. a and b become the distances of the paired videos.

    The permutations stop once p is known not to be small. Source: Besag & Clifford 1991, sequential Monte Carlo p.
    """
    distance, reference = metric.per_set, a.reference
    assert distance is not None and reference is not None
    # A pair of videos gives as many rows on both sides; where their lengths differ it cannot be swapped.
    usable = [(x, y) for x, y in pairs if len(a.rows.get(x["id"], ())) == len(b.rows.get(y["id"], ())) > 0]
    if len(usable) < 3:
        return untested(f"{len(usable)} pairs have features on both sides")
    first = a.vectors[[row for x, _ in usable for row in a.rows[x["id"]]]]
    second = b.vectors[[row for _, y in usable for row in b.rows[y["id"]]]]
    prompts = [cluster(x) for x, _ in usable for _ in a.rows[x["id"]]]

    def gap(kept: NDArray[np.int_]) -> float:
        return distance(second[kept], reference) - distance(first[kept], reference)

    dim = reference.shape[1]
    interval = jackknife(gap, prompts, parts_for(dim))
    if not math.isfinite(interval.value):
        return untested(f"too few pairs for it ({len(usable)}, {dim} dimensions)")
    group = numbered(prompts)
    rng = numpy_generator(seed, "eval/set permutation")
    extreme = tries = 0
    most = _most_permutations(metric, dim)
    while tries < most and extreme < ENOUGH:
        swap = (rng.random(group.max() + 1) < 0.5)[group][:, None]
        one, two = np.where(swap, second, first), np.where(swap, first, second)
        extreme += abs(distance(two, reference) - distance(one, reference)) >= abs(interval.value)
        tries += 1
    p = extreme / tries if extreme == ENOUGH else (extreme + 1) / (tries + 1)
    means = {"a": distance(first, reference), "b": distance(second, reference)}
    method = f"{interval.method}, permutation p within prompts"
    return means | row_of(Difference(interval.value, interval.low, interval.high, p, len(usable), method), None)


def _most_permutations(metric: Metric, dim: int) -> int:
    """So many that p can survive Holm's correction, fewer where one distance takes a tenth of a second or is a line
    through many distances."""
    if dim <= 64:
        return 999
    return 199 if metric.name.startswith("fvd_infinity[") else 499


def _incomparable_sets(results: Sequence[Row], features: Sequence[SetFeatures | None]) -> str | None:
    digests = [content.get("provenance", {}).get("reference_sha256") for content in results]
    if digests[0] != digests[1]:
        return "measured against different references; evaluate both with the same --reference"
    if any(side is None or side.reference is None for side in features):
        return f"{result.FEATURES} is missing or holds no reference; evaluate again with --reference"
    return None


def show(
    compared: dict[str, Any], names: tuple[str, str] = ("base", "aligned"), console: Console | None = None
) -> None:
    """Print the comparison: a | b | difference | interval | p, and what it says. Narrow terminals lose Holm and n."""
    console = console or Console()
    is_wide = console.width >= 100
    table = Table(box=box.SIMPLE_HEAD if is_wide else None, pad_edge=False, padding=(0, 1) if is_wide else (0, 1, 0, 0))
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
    print(
        f"{compared['num_pairs']} pairs, {compared['num_prompts']} prompts; better and worse hold after Holm's"
        " correction for all rows, (in brackets) only alone"
    )
    alone = {name: compared["unmatched"][side] for name, side in zip(names, "ab", strict=True)}
    if any(alone.values()):
        print(
            f"left out, of no prompt and seed in the other: {', '.join(f'{n} of {name}' for name, n in alone.items())}"
        )
    rates = [name for name, row in compared["metrics"].items() if row["reason"] is None and "wins" in row]
    if rates:
        print(f"{', '.join(rates)}: {names[1]} over {names[0]}, ties half; the interval is that of the rate itself")
    for line in untested:
        print(f"not compared: {line}")


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
    """Three digits after the point, fewer for large numbers, more for small ones."""
    if value is None:
        return "-"
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3
    return ("+" if signed and value >= 0 else "") + svg.plain_number(value, decimals)


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<.001" if value < 0.001 else f"{value:.3f}"
