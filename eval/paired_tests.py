"""Is b better than a by what is known of every video? Paired by prompt and seed. Torch-free: the dashboard tests too.

Mean of paired differences, bootstrap over prompts, p by flipping the signs of whole prompts. Win rates count pairs.
Rows are those of compare.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.stats import Difference, Interval, holm, numbered, paired_difference, permutation_p, wilson
from eval import result
from eval.pairs import Pair, Row, cluster, paired
from eval.result import SIGNIFICANT, TIE_BAND, finite


@dataclass(frozen=True)
class Sides:
    """Two evaluated sets: their folders, results.json, rows of samples.jsonl, and the rows that belong together."""

    folders: tuple[Path, Path]
    results: tuple[Row, Row]
    samples: tuple[list[Row], list[Row]]
    pairs: list[Pair]

    @classmethod
    def of(cls, dir_a: Path | str, dir_b: Path | str) -> Sides:
        """Raises: UserError when a folder was not evaluated or when no prompt and seed is in both."""
        a, b = Path(dir_a), Path(dir_b)
        results = result.read_results(a), result.read_results(b)
        samples = result.read_samples(a), result.read_samples(b)
        pairs = paired(*samples)
        if not pairs:
            shared = len({row["prompt"] for row in samples[0]} & {row["prompt"] for row in samples[1]})
            common = f"{shared} prompts, but no seed of one" if shared else "no prompt"
            raise UserError(f"{a} and {b} share {common}; generate both with the same prompts and seeds")
        return cls((a, b), results, samples, pairs)

    def have(self, name: str) -> bool:
        """Whether both results hold this metric."""
        return all(name in content["metrics"] for content in self.results)

    def beside(self, name: str) -> tuple[Row, str | None]:
        """Both values of a metric that both have, untested, and why they may not be compared."""
        a, b = (content["metrics"][name] for content in self.results)
        fine_print = {key: b.get(key) for key in ("unit", "higher_is_better", "version", "backbone", "flagged")}
        return {"a": a["value"], "b": b["value"]} | fine_print, _incomparable(a, b)

    def tested(self, name: str, seed: int = 0, win_by: Sequence[str] = ()) -> dict[str, Row]:
        """The row of one per-video metric, and those of its win rates."""
        row, reason = self.beside(name)
        rows = {name: row | (untested(reason) if reason else _tested_videos(name, self.pairs, seed))}
        if name == "gold":
            rows["gold_win_rate"] = win_rate(self.pairs, seed)
        if name in win_by:
            rows[f"win_rate[{name}]"] = win_rate(self.pairs, seed, name, 0.0, row["higher_is_better"] is not False)
        return rows

    def per_video(self) -> list[str]:
        """Metrics of both results that have a value of their own for some video, in the results' order."""
        known = {name for side in self.samples for row in side for name in row}
        return [name for name in self.results[0]["metrics"] if self.have(name) and name in known]

    def document(self, rows: dict[str, Row], seed: int = 0) -> dict[str, Any]:
        """The contents of compare.json: p corrected for all rows, what they say in words, and what was compared."""
        corrected = holm([number(row["p"]) for row in rows.values()])
        judged = {name: row | {"p_holm": finite(p)} for (name, row), p in zip(rows.items(), corrected, strict=True)}
        return {
            "metrics": {name: row | {"verdict": verdict(row)} for name, row in judged.items()},
            "a": str(self.folders[0]),
            "b": str(self.folders[1]),
            "num_pairs": len(self.pairs),
            "num_prompts": len({cluster(a) for a, _ in self.pairs}),
            "unmatched": {side: len(of) - len(self.pairs) for side, of in zip("ab", self.samples, strict=True)},
            "seed": seed,
            "alpha": SIGNIFICANT,
            "tie_band": TIE_BAND,
        }


def per_video(dir_a: Path | str, dir_b: Path | str, families: Iterable[str] = ()) -> dict[str, Any]:
    """What `compare` would write of the per-video metrics of these families ("flicker"; empty: all); nothing is
    written, and p is corrected for these alone.

    Raises: UserError as `Sides.of`.
    """
    sides, wanted = Sides.of(dir_a, dir_b), frozenset(families)
    rows: dict[str, Row] = {}
    for name in sides.per_video():
        if not wanted or name.partition("[")[0] in wanted:
            rows |= sides.tested(name)
    return sides.document(rows)


def win_rate(
    pairs: Sequence[Pair], seed: int = 0, by: str = "gold", tie_band: float = TIE_BAND, higher_is_better: bool = True
) -> Row:
    """Share of pairs in which b is better than a by one metric; a difference within the tie band is a tie, half a win.

    p flips the outcomes of whole prompts.
    """
    scores = np.array([[number(a.get(by)), number(b.get(by))] for a, b in pairs])
    known = np.isfinite(scores).all(axis=1)
    gaps = (scores[known, 1] - scores[known, 0]) * (1 if higher_is_better else -1)
    outcome = np.where(np.abs(gaps) <= tie_band, 0.0, np.sign(gaps))
    prompts = [cluster(a) for (a, _), ok in zip(pairs, known, strict=True) if ok]
    wins, ties, losses = (int((outcome == kind).sum()) for kind in (1, 0, -1))
    row: Row = {"a": 0.5, "b": None, "unit": "share of pairs", "higher_is_better": True}
    if not len(outcome):
        return row | untested(f"no pair has {by} on both sides")
    interval = win_interval(outcome, numbered(prompts))
    return row | {
        "b": interval.value,
        "difference": interval.value - 0.5,
        "low": interval.low,
        "high": interval.high,
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


def win_interval(outcome: NDArray[np.float64], prompts: NDArray[np.int_]) -> Interval:
    """Share of pairs won, ties half, with Wilson's interval for as many pairs as the clustering by prompt leaves.

    Args:
        outcome: [n] of every pair, one at least: 1 won, 0 tied, -1 lost.
        prompts: [n] number of its prompt.
    """
    rate = (1 + float(outcome.mean())) / 2
    effective = max(1, round(len(outcome) / _design_effect(outcome, prompts)))
    return wilson(rate * effective, 0, effective)


def _design_effect(outcome: NDArray[np.float64], prompts: NDArray[np.int_]) -> float:
    """How much larger the variance of the mean is because pairs share prompts; at least 1. Source: Kish 1965."""
    residual = outcome - outcome.mean()
    independent = float((residual**2).sum())
    clustered = float((np.bincount(prompts, residual) ** 2).sum())
    return max(1.0, clustered / independent) if independent > 0 else 1.0


def _tested_videos(name: str, pairs: Sequence[Pair], seed: int) -> Row:
    """Paired test of one per-video metric. a and b become the means over the pairs that both sides have."""
    a, b = (np.array([number(pair[side].get(name)) for pair in pairs]) for side in (0, 1))
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return untested("no pair has a value on both sides")
    difference = paired_difference(a, b, [cluster(a) for a, _ in pairs], seed)
    spread = float((b - a)[both].std(ddof=1)) if both.sum() > 1 else 0.0
    means = {"a": float(a[both].mean()), "b": float(b[both].mean())}
    return means | row_of(difference, difference.difference / spread if spread > 0 else None)


def _incomparable(a: Row, b: Row) -> str | None:
    """Why two numbers of one name may not be compared; None when they may."""
    for side, entry in (("a", a), ("b", b)):
        if entry["value"] is None:
            return f"{side}: {entry['reason']}"
    for key in ("version", "backbone_sha256", "preprocessing"):
        if a.get(key) != b.get(key):
            return f"{key} differs: {a.get(key)} and {b.get(key)}; evaluate both again"
    return None


def row_of(found: Difference, effect: float | None) -> Row:
    """What a test found, as compare.json holds it."""
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


def untested(reason: str) -> Row:
    """The same where there was no test."""
    return dict.fromkeys(("difference", "low", "high", "p", "effect", "method")) | {"n": 0, "reason": reason}


def number(value: float | None) -> float:
    """NaN for what is not there."""
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
