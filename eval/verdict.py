"""What compare.json says, in words a person can act on: which metrics moved, which way, and how sure that is.

Rows keep the numbers as they are; this file only classifies and formats. A row is better or worse when p < .05 stands
after Holm's correction over all tested rows, maybe so when p < .05 holds for it alone; anything else is unclear,
however large the difference looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.stats import holm
from eval.result import SIGNIFICANT, finite
from eval.svg import Tone, is_share, number

SPREADS_PER_INTERVAL = 2 * 1.96  # a 95 % interval is this many standard errors wide
HEADLINES = ("gold_win_rate", "gold", "physics_pass_rate", "attributes", "clip_sim", "diversity", "fvd", "mmd")
DRAW = 0.5
WIN_RATES = ("gold_win_rate", "win_rate")  # whose low and high bound the rate itself in compare.json
KEPT_DIVERSITY = 0.8  # below this share of base, a model has begun to repeat itself

# The metric's name without its protocol -> one sentence for somebody who has not read the code.
MEANINGS = {
    "gold_win_rate": "share of same-seed pairs in which the judge prefers aligned; a tie is half a win",
    "win_rate": "share of same-seed pairs in which this metric prefers aligned; a tie is half a win",
    "gold": "the judge's score of one video: prompt fulfilled, physics obeyed, picture clean",
    "physics_pass_rate": "videos whose every physics probe lies where real simulations lie",
    "physics_quality": "graded physical plausibility of a video",
    "physics_coverage": "share of the probes that apply and could be measured",
    "clip_sim": "how well frames and prompt agree, by a CLIP model",
    "diversity": "how much videos of one prompt differ; falls when a model repeats itself",
    "attributes": "what the prompt says and the video shows: colours, shapes, sizes, number, motion, direction",
    "fvd": "distance to real videos, Fr\u00e9chet; compares only with the same protocol and number of videos",
    "mmd": "distance to real videos, unbiased at small numbers; 0 = not told apart",
    "flicker": "steadiness from frame to frame; a frozen video is perfect, so read it with motion",
    "motion": "how much moves; a guard against frozen videos, no direction is better",
    "consistency": "likeness of neighbouring frames; a frozen video is perfect, so read it with motion",
    "weakest_link": "the least alike neighbouring frames: jumps, vanishing, colour changes",
    "subject_consistency": "likeness to the first and to the previous frame; a frozen video is perfect",
    "warping_error": "what moving pixels along the flow leaves unexplained; a frozen video is perfect",
    "flow_agreement": "pixels whose motion there and back ends where it began",
    "motion_smoothness": "how well every second frame follows from its neighbours; a frozen video is perfect",
    "motion_strength": "how fast the fastest pixels are; a guard, no direction is better",
    "dynamic_degree": "videos that move clearly; a guard, no direction is better",
    "duplicate_frames": "frames shown twice; a guard, a static scene repeats itself rightly",
    "cuts": "scene changes in the middle of a video",
    "retrieval": "videos whose own prompt is the nearest of all prompts, by a CLIP model",
    "clip_best_frame": "how well the best frame and the prompt agree, by a CLIP model",
    "clip_score": "agreement of frames and prompt on Hessel's scale, 2.5 x cosine",
    "precision": "videos that look like some real one",
    "recall": "real videos that look like some made one",
    "density": "how many real neighbourhoods a video is in; 1 is expected",
    "coverage": "real videos with a made one beside them; low when a model repeats itself",
    "fvd_infinity": "Fr\u00e9chet distance extrapolated to infinitely many videos",
    "frame_frechet": "Fr\u00e9chet distance of single frames; blind to motion",
    "order_sensitivity": "consistency lost when frames are shuffled; a control, near 0 means that order is not seen",
}


@dataclass(frozen=True)
class Row:
    """One metric of base and aligned; None where it was not measured, with the `reason`.

    `low` and `high` bound `difference` = aligned - base at 95 %. `corrected_p` is p after Holm over all rows. `size` is
    the difference in standard deviations of the paired differences, where compare.json says it.
    """

    name: str
    base: float | None = None
    aligned: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    corrected_p: float | None = None
    n: int | None = None
    unit: str = ""
    higher_is_better: bool | None = None
    method: str = ""
    reason: str = ""
    caution: str = ""
    size: float | None = None

    @property
    def is_detail(self) -> bool:
        """Whether this is a part of another metric, as physics/gravity."""
        return "/" in self.name.split("[")[0]

    @property
    def meaning(self) -> str:
        return MEANINGS.get(self.name.split("[")[0], "")

    @property
    def tone(self) -> Tone:
        if self.p is None or self.difference is None or self.higher_is_better is None or self.p >= SIGNIFICANT:
            return "unclear"
        return "better" if (self.difference > 0) == self.higher_is_better else "worse"

    @property
    def shown_p(self) -> str:
        """p after correction for the number of tests, as text."""
        p = self.p if self.corrected_p is None else self.corrected_p
        return "\u2013" if p is None else "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")

    @property
    def is_sure(self) -> bool:
        """Whether the difference stands after correction for the number of tests."""
        return self.corrected_p is not None and self.corrected_p < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """One or two words, for the table and for screen readers."""
        if self.base is None and self.aligned is None:
            return "not measured"
        if self.p is None or self.difference is None:
            return "no test"
        if self.p >= SIGNIFICANT:
            return "unclear"
        word = "moved" if self.higher_is_better is None else self.tone
        return word if self.is_sure else f"maybe {word}"

    @property
    def effect(self) -> tuple[float, float, float] | None:
        """(value, low, high) of the difference in units of its spread between pairs, right = better (Cohen's d_z).

        Where compare.json does not say the spread, it is taken back from interval and n, as for independent pairs.
        """
        if self.difference is None or self.low is None or self.high is None or self.high <= self.low:
            return None
        if not self.n or self.n < 0:
            return None
        spread = (self.high - self.low) / SPREADS_PER_INTERVAL * math.sqrt(self.n)
        if self.size and self.difference:
            spread = self.difference / self.size
        ends = [value / spread for value in (self.difference, self.low, self.high)]
        return (-ends[0], -ends[2], -ends[1]) if self.higher_is_better is False else (ends[0], ends[1], ends[2])

    def shown(self, value: float | None) -> str:
        """A value of this row as text: shares in per cent, others with three digits."""
        if value is None:
            return "\u2013"
        return f"{number(100 * value)}\u2009%" if self.is_share else number(value)

    def change(self, value: float | None) -> str:
        """A difference or an end of its interval, signed, to two digits of half the interval; shares in points."""
        if value is None:
            return "\u2013"
        scale = 100 if self.is_share else 1
        sign = "+" if value > 0 else ""
        half = (self.high - self.low) * scale / 2 if self.low is not None and self.high is not None else 0.0
        if not 1e-5 < half < 1e5:
            return sign + number(value * scale)
        return f"{sign}{value * scale:.{max(0, 1 - math.floor(math.log10(half)))}f}".replace("-", "\u2212")

    @property
    def is_share(self) -> bool:
        return is_share(self.unit)


@dataclass(frozen=True)
class Tile:
    """A number to read first: what it is, the number, the fine print."""

    label: str
    value: str
    detail: str
    tone: Tone


def rows(compare: Mapping[str, Any], base: Mapping[str, Any], aligned: Mapping[str, Any]) -> list[Row]:
    """Every metric that one of the three files names, headlines first; without compare.json there are no tests.

    Args:
        compare: contents of compare.json; base, aligned: contents of the two results.json. Empty where missing.
    """
    tables = [_metrics(document) for document in (compare, base, aligned)]
    names = dict.fromkeys(name for table in tables for name in table)
    found = [_row(name, *(table.get(name, {}) for table in tables)) for name in names]
    if not any("p_holm" in row for row in tables[0].values()):
        corrected = holm([math.nan if row.p is None else row.p for row in found])
        found = [replace(row, corrected_p=finite(p)) for row, p in zip(found, corrected, strict=True)]
    return sorted(found, key=_rank)


def find(found: Sequence[Row], family: str) -> Row | None:
    """The row of a metric, whatever protocol stands in its brackets."""
    return next((row for row in found if row.name.split("[")[0] == family), None)


def headline(found: Sequence[Row]) -> str:
    """The answer in one sentence: did alignment help, says the judge it was never trained on."""
    win = find(found, "gold_win_rate")
    if win is None or win.aligned is None:
        return "No verdict yet: the win rate over base was not measured."
    low, high = win_interval(win)
    rate = f"{100 * win.aligned:.0f}\u2009%"
    if low is not None and low > DRAW:
        return f"Alignment helped: the judge prefers the aligned video in {rate} of pairs."
    if high is not None and high < DRAW:
        return f"Alignment hurt: the judge prefers the aligned video in only {rate} of pairs."
    return f"No clear difference: the judge prefers the aligned video in {rate} of pairs."


def tiles(found: Sequence[Row]) -> list[Tile]:
    """Win rate, physics, diversity, and what got worse; a tile that was not measured says so."""
    return [_win_tile(find(found, "gold_win_rate")), _physics_tile(find(found, "physics_pass_rate"))] + [
        _diversity_tile(find(found, "diversity")),
        _worse_tile(found),
    ]


def markdown_table(found: Sequence[Row]) -> list[str]:
    """The lines of a Markdown table, one a metric, for a model card."""
    lines = [
        "| metric | base | aligned | difference | 95 % interval | corrected p | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        interval = "\u2013" if row.low is None else f"{row.change(row.low)} to {row.change(row.high)}"
        cells = [row.name, row.shown(row.base), row.shown(row.aligned), row.change(row.difference), interval]
        lines.append("| " + " | ".join([*cells, row.shown_p, row.verdict]).replace("[", "\\[") + " |")
    return lines


def win_interval(win: Row) -> tuple[float | None, float | None]:
    """Interval of the win rate itself; `low` and `high` of its row bound the distance from a draw."""
    return (None, None) if win.low is None or win.high is None else (win.low + DRAW, win.high + DRAW)


def _win_tile(win: Row | None) -> Tile:
    label = "wins over base"
    if win is None or win.aligned is None:
        return Tile(label, "\u2013", "not measured", "unclear")
    low, high = win_interval(win)
    interval = "" if low is None or high is None else f"95\u2009% interval {100 * low:.0f} to {100 * high:.0f}\u2009%, "
    tone: Tone = "better" if (low or 0) > DRAW else "worse" if high is not None and high < DRAW else "unclear"
    return Tile(label, f"{100 * win.aligned:.0f}\u2009%", f"{interval}{win.n or 0} same-seed pairs; a draw is 50", tone)


def _physics_tile(row: Row | None) -> Tile:
    label = "videos that obey physics"
    if row is None or row.aligned is None or row.base is None:
        return Tile(label, "\u2013", "not measured", "unclear")
    value = f"{100 * row.base:.0f} \u2192 {100 * row.aligned:.0f}\u2009%"
    return Tile(label, value, _change(row), row.tone)


def _diversity_tile(row: Row | None) -> Tile:
    label = "diversity kept"
    if row is None or row.aligned is None or not row.base:
        return Tile(label, "\u2013", "not measured", "unclear")
    kept = row.aligned / row.base
    warning = "the model repeats itself; " if kept < KEPT_DIVERSITY else ""
    tone: Tone = "worse" if kept < KEPT_DIVERSITY else row.tone
    return Tile(label, f"{100 * kept:.0f}\u2009%", f"{warning}of base, among videos of one prompt", tone)


def _worse_tile(found: Sequence[Row]) -> Tile:
    tested = [row for row in found if row.p is not None and row.higher_is_better is not None]
    if not tested:
        return Tile("metrics that got worse", "\u2013", "nothing was tested", "unclear")
    sure, maybe = ([row.name for row in tested if row.verdict == word] for word in ("worse", "maybe worse"))
    named = [f"{_listed(sure)}"] if sure else []
    named += [f"maybe {_listed(maybe)} (p < .05 alone)"] if maybe else []
    detail = "; ".join(named) or "not even before correction for many tests"
    return Tile("metrics that got worse", f"{len(sure)} of {len(tested)}", detail, "worse" if sure else "unclear")


def _listed(names: Sequence[str]) -> str:
    """At most four names."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _change(row: Row) -> str:
    if row.difference is None:
        return "no test"
    interval = "" if row.low is None or row.high is None else f" ({row.change(row.low)} to {row.change(row.high)})"
    return f"{row.change(row.difference)} points{interval}, corrected p {row.shown_p}"


def _metrics(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found = document.get("metrics")
    if not isinstance(found, dict):
        return {}
    return {str(name): value for name, value in found.items() if isinstance(value, dict)}


def _row(name: str, compared: dict[str, Any], base: dict[str, Any], aligned: dict[str, Any]) -> Row:
    """One metric out of three files; compare.json has the last word."""
    about = base | aligned | compared
    direction, n = about.get("higher_is_better"), finite(about.get("n"))
    a, b = finite(compared.get("a", base.get("value"))), finite(compared.get("b", aligned.get("value")))
    difference = finite(compared.get("difference"))
    if difference is None and a is not None and b is not None:
        difference = b - a
    low, high = finite(compared.get("low")), finite(compared.get("high"))
    if name.split("[")[0] in WIN_RATES and low is not None and high is not None:  # written as bounds of the rate itself
        low, high = low - DRAW, high - DRAW
    p, fooled = finite(compared.get("p")), about.get("flagged")
    cautions = (
        [f"fooled by spoilt real videos: {', '.join(map(str, fooled))}"] if isinstance(fooled, list) and fooled else []
    )
    if p is not None and p < SIGNIFICANT and low is not None and high is not None and low < 0 < high:
        cautions.append("its test shows a difference, its interval does not: believe it when both do")
    return Row(
        name,
        base=a,
        aligned=b,
        difference=difference,
        low=low,
        high=high,
        p=p,
        corrected_p=finite(compared.get("p_holm")),
        n=None if not n else int(n),
        unit=str(about.get("unit") or ""),
        higher_is_better=direction if isinstance(direction, bool) else None,
        method=str(compared.get("method") or ""),
        reason=str(aligned.get("reason") or base.get("reason") or compared.get("reason") or ""),
        caution="; ".join(cautions),
        size=finite(compared.get("effect")),
    )


def _rank(row: Row) -> tuple[bool, bool, int]:
    """Headlines, then the others, then parts, each in the order of the file; what was not measured comes last."""
    family = row.name.split("[")[0]
    place = HEADLINES.index(family) if family in HEADLINES else len(HEADLINES)
    return row.base is None and row.aligned is None, row.is_detail, place
