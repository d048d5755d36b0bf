"""Small charts as inline SVG: effects, curves, bars and points with intervals, all pairs at a glance, tracked paths.

Each is a pure function of numbers. Colours come from classes of the page's style sheet, so one drawing serves light,
dark and print; what a colour says is said again by shape and by the label for screen readers. Left out: interaction
beyond the titles that browsers show on hover; the dashboard has that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup

from eval.result import finite

Tone = Literal["better", "worse", "unclear"]
Point = tuple[float, float | None]
Trail = Sequence[Sequence[float] | None]  # (x, y) of an object in each frame

EFFECT_WIDTH, EFFECT_HEIGHT = 220, 28
CURVE_WIDTH, CURVE_HEIGHT = 320, 168
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24  # the curve's margins, in its own units
SMOOTHED = 5  # points in the running mean of a curve
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


def share(value: float | None) -> str:
    """A share in per cent, a dash for what is not there."""
    return "\u2013" if value is None else f"{100 * value:.0f}\u2009%"


def tick_text(value: float) -> str:
    """A round number, as short as it can be."""
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
    parts = [_line(half, 2, half, EFFECT_HEIGHT - 2, "zero"), _line(x(low), middle, x(high), middle, f"whisker {tone}")]
    for end, direction in ((low, -1), (high, 1)):
        if abs(end) > limit and end * direction > 0:
            tip = x(end) + 5 * direction
            parts.append(_path(f"M{x(end):.1f} {middle - 4}L{tip:.1f} {middle}L{x(end):.1f} {middle + 4}Z", tone))
        else:
            parts.append(_line(x(end), middle - 4, x(end), middle + 4, f"whisker {tone}"))
    parts.append(_mark(x(value), middle, tone))
    return _svg(EFFECT_WIDTH, EFFECT_HEIGHT, "effect", label, parts)


def effect_axis(limit: float) -> Markup:
    """The axis under a column of `effect`."""
    half = EFFECT_WIDTH / 2
    parts = [_line(8, 4, EFFECT_WIDTH - 8, 4, "axis")]
    for tick in ticks(-limit, limit, 4):
        place = half + tick / limit * (half - 8)
        parts += [_line(place, 4, place, 8, "axis"), _text(place, 19, tick_text(tick), "middle")]
    return _svg(EFFECT_WIDTH, 22, "effect", f"axis from {tick_text(-limit)} to {tick_text(limit)}", parts)


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


def curve(points: Sequence[Point], name: str) -> Markup:
    """One logged number over training steps: a dot per step, and a running mean where there are enough of them.

    Args:
        points: (step, value) in the order of steps; None is a gap.
    """
    seen = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    if not seen:
        return Markup("")
    low, high = _padded([value for _, value in seen])
    first, last = points[0][0], points[-1][0]

    def x(step: float) -> float:
        return LEFT + (step - first) / ((last - first) or 1) * (CURVE_WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return CURVE_HEIGHT - BOTTOM - (value - low) / (high - low) * (CURVE_HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks(low, high):
        parts += [_line(LEFT, y(tick), CURVE_WIDTH - RIGHT, y(tick), "grid")]
        parts += [_text(LEFT - 6, y(tick) + 4, tick_text(tick), "end")]
    for tick in ticks(first, last, 5):
        parts.append(_text(x(tick), CURVE_HEIGHT - 8, tick_text(tick), "middle"))
    parts.append(_line(LEFT, CURVE_HEIGHT - BOTTOM, CURVE_WIDTH - RIGHT, CURVE_HEIGHT - BOTTOM, "axis"))
    smooth = len(seen) >= 2 * SMOOTHED
    line = running_mean([value for _, value in seen]) if smooth else [value for _, value in seen]
    path = "L".join(f"{x(step):.1f} {y(value):.1f}" for (step, _), value in zip(seen, line, strict=True))
    if len(seen) <= 400:
        dots = [
            Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.2" class="dot"><title>step {}: {}</title></circle>').format(
                x(step), y(value), tick_text(step), number(value, 4)
            )
            for step, value in seen
        ]
        parts += dots
    parts.append(_path(f"M{path}", "line"))
    (begin, was), (end, became) = seen[0], seen[-1]
    label = f"{name}: {number(was)} at step {tick_text(begin)}, {number(became)} at step {tick_text(end)}"
    return _svg(CURVE_WIDTH, CURVE_HEIGHT, "curve", label, parts)


def running_mean(values: Sequence[float], width: int = SMOOTHED) -> list[float]:
    """Mean of the `width` values around every place; of fewer, still symmetric, at the ends."""
    means = []
    for index in range(len(values)):
        reach = min(width // 2, index, len(values) - 1 - index)
        window = values[index - reach : index + reach + 1]
        means.append(sum(window) / len(window))
    return means


def bars(rows: Sequence[tuple[str, float, float | None, float | None]], label: str) -> Markup:
    """Shares from 0 to 1 as horizontal bars; (name, value, low, high), an interval where low and high are known."""
    width, height, left = 360, 30, 132
    scale = width - left - 56

    def x(share: float) -> float:
        return left + max(0.0, min(1.0, share)) * scale

    parts = []
    for index, (name, value, low, high) in enumerate(rows):
        top = index * height
        kind = "bar strong" if low is not None else "bar"
        parts.append(_path(f"M{left} {top + 7}H{x(value):.1f}V{top + 23}H{left}Z", kind))
        parts.append(_text(left - 8, top + 19, name, "end"))
        if low is not None and high is not None:
            parts.append(_line(x(low), top + 15, x(high), top + 15, "whisker"))
            parts += [_line(x(end), top + 11, x(end), top + 19, "whisker") for end in (low, high)]
        parts.append(_text(max(x(value), x(high or 0)) + 7, top + 19, f"{value:.1%}".replace("%", "\u2009%"), "start"))
    said = ", ".join(f"{name} {value:.1%}" for name, value, _, _ in rows)
    return _svg(width, height * len(rows), "bars", f"{label}: {said}", parts)


def intervals(rows: Sequence[tuple[str, float, float | None, float | None]], label: str, in_percent: bool) -> Markup:
    """(name, value, low, high) as points with whiskers, a line each, on one axis that holds them all."""
    width, height, left = 360, 24, 122
    low, high = _padded([end for _, *ends in rows for end in ends if end is not None])
    if in_percent:
        low, high = max(0.0, low), min(1.0, high)
    bottom = height * len(rows) + 4

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - 14)

    def said(value: float) -> str:
        return f"{number(100 * value)}\u2009%" if in_percent else number(value)

    parts = [_line(left, bottom, width - 14, bottom, "axis")]
    for tick in ticks(low, high, 3):
        parts += [_line(x(tick), 2, x(tick), bottom, "grid")]
        parts.append(
            _text(x(tick), bottom + 15, f"{100 * tick:.3g}\u2009%" if in_percent else tick_text(tick), "middle")
        )
    for index, (name, value, from_, to) in enumerate(rows):
        middle = index * height + height / 2 + 2
        parts.append(_text(left - 8, middle + 4, name if len(name) <= 19 else f"\u2026{name[-18:]}", "end"))
        if from_ is not None and to is not None:
            parts.append(_line(x(from_), middle, x(to), middle, "whisker"))
        point = Markup('<circle cx="{:.1f}" cy="{}" r="4.5" class="point"><title>{}: {}</title></circle>')
        parts.append(point.format(x(value), middle, name, said(value)))
    words = ", ".join(f"{name} {said(value)}" for name, value, *_ in rows)
    return _svg(width, bottom + 20, "intervals", f"{label}: {words}", parts)


def metric(name: str, entries: Mapping[str, Mapping[str, Any]]) -> Markup:
    """`intervals` of one metric from its entries in results.json, set -> entry; empty where no set has a value."""
    rows = []
    for one, entry in entries.items():
        low, high = entry.get("interval") or (None, None)
        if (value := finite(entry.get("value"))) is not None:
            rows.append((one, value, finite(low), finite(high)))
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
    parts = [_path(path, tone) for tone, path in blocks.items()] + [_line(0, middle, width, middle, "zero")]
    return _svg(width, height, "pairs-chart", label, parts, aspect="none")


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
            parts = _path(line, "under") + _path(line, "trail") + _path(spots, "spots")
            place = Markup("translate({:g} {:g}) scale({:g} {:g})").format(*panel.corner, *panel.scale)
            groups.append(Markup('<g transform="{}">{}</g>').format(place, parts))
    head = Markup('<svg class="paths" viewBox="0 0 {} {}" aria-hidden="true">').format(width, height)
    return head + Markup("").join(groups) + Markup("</svg>") if groups else Markup("")


def _trail(trail: Trail) -> str:
    """A line through the places where an object was seen, broken where it was not."""
    steps = zip([None, *trail], trail, strict=False)
    return "".join(f"{'L' if before else 'M'}{at[0]:g} {at[1]:g}" for before, at in steps if at)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - pad, high + pad


def _mark(x: float, y: float, tone: Tone) -> Markup:
    """Shape says what colour says: disc for better, diamond for worse, ring for unclear."""
    if tone == "worse":
        return _path(f"M{x:.1f} {y - 6}L{x + 6:.1f} {y}L{x:.1f} {y + 6}L{x - 6:.1f} {y}Z", "worse")
    return Markup('<circle cx="{:.1f}" cy="{}" r="5" class="{}"/>').format(x, y, tone)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def _path(path: str, kind: str) -> Markup:
    return Markup('<path d="{}" class="{}"/>').format(path, kind)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _svg(width: float, height: float, kind: str, label: str, parts: Sequence[Markup], aspect: str = "") -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}"').format(kind, width, height, label)
    head += Markup(' preserveAspectRatio="{}">').format(aspect) if aspect else Markup(">")
    return head + Markup("").join(parts) + Markup("</svg>")
