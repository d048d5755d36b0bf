"""Small charts as inline SVG: effects and points with intervals, all pairs at a glance, tracked paths.

Each is a pure function of numbers. Colours come from classes of the page's style sheet, so one drawing serves light,
dark and print; what a colour says is said again by shape and by the label for screen readers. Lines are in eval.plot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from eval.result import bounds, finite

Tone = Literal["better", "worse", "unclear"]
Trail = Sequence[Sequence[float] | None]  # (x, y) of an object in each frame
# name, share right, low, high, share of the majority's answer, share right by chance
Accuracy = tuple[str, float, float | None, float | None, float | None, float | None]

EFFECT_WIDTH, EFFECT_HEIGHT = 220, 28
RATING_LIMITS = (1.0, 2.0, 4.0, 8.0)  # half the width of the axis of ratings; the first that holds all intervals


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, a true minus sign, a dash for what is not there."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    magnitude = abs(value)
    if magnitude == 0:
        return "0"
    if not 1e-3 <= magnitude < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "\u2212")
    decimals = max(0, digits - 1 - math.floor(math.log10(magnitude)))
    return f"{value:.{decimals}f}".replace("-", "\u2212")


def plain_number(value: float, decimals: int) -> str:
    """As many decimals for any value, more only for one that would lose all but its first two digits."""
    needed = 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(decimals, needed)}f}"


def share(value: float | None) -> str:
    """A share in per cent, a dash for what is not there."""
    return "\u2013" if value is None else f"{100 * value:.0f}\u2009%"


def bounded(value: float, low: float, high: float) -> str:
    """A value and its interval."""
    return f"{number(value)} ({number(low)} \u2026 {number(high)})"


def tick_text(value: float, in_percent: bool = False) -> str:
    """A round number, as short as it can be. in_percent: it is a share of 1."""
    if in_percent:
        return f"{100 * value:.3g}\u2009%"
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    return (f"{mantissa}e{int(exponent)}" if exponent else mantissa).replace("-", "\u2212")


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers inside [low, high]: about `count` of them, steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= count + 1)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def effect(value: float, low: float, high: float, limit: float, tone: Tone, label: str) -> Markup:
    """A point with its interval on an axis from -limit to limit with 0 in the middle; an arrow where it goes on.

    Args:
        value, low, high: in the units of the axis, right is better.
    """
    half = EFFECT_WIDTH / 2

    def x(place: float) -> float:
        return half + max(-1.0, min(1.0, place / limit)) * (half - 8)

    middle = EFFECT_HEIGHT / 2
    parts = [
        stroke(half, 2, half, EFFECT_HEIGHT - 2, "zero"),
        stroke(x(low), middle, x(high), middle, f"whisker {tone}"),
    ]
    for end, direction in ((low, -1), (high, 1)):
        if abs(end) > limit and end * direction > 0:
            tip = x(end) + 5 * direction
            parts.append(shape(f"M{x(end):.1f} {middle - 4}L{tip:.1f} {middle}L{x(end):.1f} {middle + 4}Z", tone))
        else:
            parts.append(stroke(x(end), middle - 4, x(end), middle + 4, f"whisker {tone}"))
    parts.append(_mark(x(value), middle, tone))
    return drawing(EFFECT_WIDTH, EFFECT_HEIGHT, "effect", label, parts)


def effect_axis(limit: float) -> Markup:
    """The axis under a column of `effect`."""
    half = EFFECT_WIDTH / 2
    parts = [stroke(8, 4, EFFECT_WIDTH - 8, 4, "axis")]
    for tick in ticks(-limit, limit, 4):
        place = half + tick / limit * (half - 8)
        parts += [stroke(place, 4, place, 8, "axis"), text_at(place, 19, tick_text(tick), "middle")]
    return drawing(EFFECT_WIDTH, 22, "effect", f"axis from {tick_text(-limit)} to {tick_text(limit)}", parts)


def ratings(standings: Sequence[Mapping[str, Any]]) -> tuple[list[Markup], Markup]:
    """An `effect` per row of a leaderboard, right is better than the average model, and the axis under them."""
    rows = [[finite(one[key]) for key in ("rating", "low", "high")] for one in standings]
    furthest = max((abs(end) for row in rows for end in row[1:] if end is not None), default=0.0)
    limit = next((limit for limit in RATING_LIMITS if furthest <= limit), RATING_LIMITS[-1])
    drawn = []
    for value, low, high in rows:
        if value is None or low is None or high is None:
            drawn.append(Markup(""))
            continue
        tone: Tone = "better" if low > 0 else "worse" if high < 0 else "unclear"
        label = f"rating {number(value)}, interval {number(low)} to {number(high)}"
        drawn.append(effect(value, low, high, limit, tone, label))
    return drawn, effect_axis(limit)


def accuracies(rows: Sequence[Accuracy], label: str) -> Markup:
    """Shares of right answers with intervals (discs), beside the majority's (diamonds) and chance (squares)."""
    width, height, left = 380, 30, 122
    bottom = height * len(rows) + 4

    def x(value: float) -> float:
        return left + max(0.0, min(1.0, value)) * (width - left - 16)

    parts = []
    for tick in ticks(0.0, 1.0):
        parts += [stroke(x(tick), 2, x(tick), bottom, "grid"), text_at(x(tick), bottom + 15, share(tick), "middle")]
    for index, (name, value, low, high, majority, random) in enumerate(rows):
        middle = index * height + height / 2 + 2
        parts.append(text_at(left - 8, middle + 4, name, "end"))
        if random is not None:
            parts.append(shape(f"M{x(random) - 3.5:.1f} {middle - 3.5}h7v7h-7Z", "hollow"))
        if majority is not None:
            parts.append(shape(f"M{x(majority):.1f} {middle - 5.5}l5.5 5.5l-5.5 5.5l-5.5 -5.5Z", "hollow"))
        if low is not None and high is not None:
            parts.append(stroke(x(low), middle, x(high), middle, "whisker"))
        parts.append(_point(x(value), middle, f"{name}: {share(value)}"))
    said = ", ".join(f"{name} {share(value)}" for name, value, *_ in rows)
    return drawing(width, bottom + 20, "accuracies", f"{label}: {said}", parts)


def intervals(rows: Sequence[tuple[str, float, float | None, float | None]], label: str, in_percent: bool) -> Markup:
    """(name, value, low, high) as points with whiskers, a line each, on one axis that holds them all."""
    width, height, left = 360, 24, 122
    low, high = padded([end for _, *ends in rows for end in ends if end is not None])
    if in_percent:
        low, high = max(0.0, low), min(1.0, high)
    bottom = height * len(rows) + 4

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 14)

    def said(value: float) -> str:
        return f"{number(100 * value)}\u2009%" if in_percent else number(value)

    parts = [stroke(left, bottom, width - 14, bottom, "axis")]
    for tick in ticks(low, high, 3):
        parts += [stroke(x(tick), 2, x(tick), bottom, "grid")]
        parts.append(text_at(x(tick), bottom + 15, tick_text(tick, in_percent), "middle"))
    for index, (name, value, from_, to) in enumerate(rows):
        middle = index * height + height / 2 + 2
        parts.append(text_at(left - 8, middle + 4, name if len(name) <= 19 else f"\u2026{name[-18:]}", "end"))
        if from_ is not None and to is not None:
            parts.append(stroke(x(from_), middle, x(to), middle, "whisker"))
        parts.append(_point(x(value), middle, f"{name}: {said(value)}"))
    words = ", ".join(f"{name} {said(value)}" for name, value, *_ in rows)
    return drawing(width, bottom + 20, "intervals", f"{label}: {words}", parts)


def metric(name: str, entries: Mapping[str, Mapping[str, Any]]) -> Markup:
    """`intervals` of one metric from its entries in results.json, set -> entry; empty where no set has a value."""
    rows = []
    for one, entry in entries.items():
        if (value := finite(entry.get("value"))) is not None:
            rows.append((one, value, *bounds(entry)))
    unit = next((str(entry.get("unit")) for entry in entries.values() if entry.get("unit")), "")
    return intervals(rows, name, is_share(unit)) if rows else Markup("")


def is_share(unit: str) -> bool:
    """Whether a unit is a share of 1, which is shown in per cent."""
    return unit.split()[:1] in (["share"], ["rate"], ["probability"])


def all_pairs(differences: Sequence[float], tie_band: float, label: str) -> Markup:
    """Every pair as a thin bar, sorted: how many won, how many lost, and by how much; grey inside the tie band."""
    width, height = 720, 96
    ordered = sorted(differences, reverse=True)
    largest = max((abs(value) for value in ordered), default=0.0) or 1.0
    step, middle = width / max(1, len(ordered)), height / 2

    def block(index: int, value: float) -> str:
        tip = middle - value / largest * (middle - 2)
        left, right = index * step, index * step + step * 0.82
        return f"M{left:.2f} {middle:.1f}V{tip:.1f}H{right:.2f}V{middle:.1f}Z"

    blocks: dict[Tone, str] = {"better": "", "unclear": "", "worse": ""}
    for index, value in enumerate(ordered):
        tone: Tone = "unclear" if abs(value) <= tie_band else "better" if value > 0 else "worse"
        blocks[tone] += block(index, value)
    parts = [shape(path, tone) for tone, path in blocks.items()] + [stroke(0, middle, width, middle, "zero")]
    return drawing(width, height, "pairs-chart", label, parts, aspect="none")


@dataclass(frozen=True)
class Panel:
    """A video's place in a picture: the corner in px of the picture, px of the picture per px of the video (x and y),
    and per object where it was seen in each frame, px of the video, None where it was not."""

    corner: tuple[float, float]
    scale: tuple[float, float]
    trails: Sequence[Trail]


def paths(panels: Sequence[Panel], width: int, height: int) -> Markup:
    """The ways of tracked objects, to lay over a film of width x height: a line with a spot a frame, gaps where unseen.

    Spots that lie close say slow, far apart fast. Empty where nothing was tracked.
    """
    groups = []
    for panel in panels:
        line = "".join(_trail(trail) for trail in panel.trails)
        if line:
            spots = "".join(f"M{at[0]:g} {at[1]:g}h0" for trail in panel.trails for at in trail if at)
            parts = shape(line, "under") + shape(line, "trail") + shape(spots, "spots")
            place = Markup("translate({:g} {:g}) scale({:g} {:g})").format(*panel.corner, *panel.scale)
            groups.append(Markup('<g transform="{}">{}</g>').format(place, parts))
    head = Markup('<svg class="paths" viewBox="0 0 {} {}" aria-hidden="true">').format(width, height)
    return head + Markup("").join(groups) + Markup("</svg>") if groups else Markup("")


def _trail(trail: Trail) -> str:
    """A line through the places where an object was seen, broken where it was not."""
    steps = zip([None, *trail], trail, strict=False)
    return "".join(f"{'L' if before else 'M'}{at[0]:g} {at[1]:g}" for before, at in steps if at)


def padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - pad, high + pad


def _mark(x: float, y: float, tone: Tone) -> Markup:
    """Shape says what colour says: disc for better, diamond for worse, ring for unclear."""
    if tone == "worse":
        return shape(f"M{x:.1f} {y - 6}L{x + 6:.1f} {y}L{x:.1f} {y + 6}L{x - 6:.1f} {y}Z", "worse")
    return Markup('<circle cx="{:.1f}" cy="{}" r="5" class="{}"/>').format(x, y, tone)


def _point(x: float, y: float, title: str) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{}" r="4.5" class="point"><title>{}</title></circle>').format(x, y, title)


def stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def shape(path: str, kind: str) -> Markup:
    return Markup('<path d="{}" class="{}"/>').format(path, kind)


def text_at(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def drawing(width: float, height: float, kind: str, label: str, parts: Sequence[Markup], aspect: str = "") -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"').format(kind, width, height, label)
    head += Markup(' preserveAspectRatio="{}">').format(aspect) if aspect else Markup(">")
    return head + Markup("").join(parts) + Markup("</svg>")
