"""Lines over an axis as inline SVG: training curves, proxy against gold, best of N, calibration.

A line carries its numbers in `data-x` and `data-y`; plot.js shows them under the pointer, or under the arrow keys once
the plot has the focus. Without a script the drawing still stands. Reports and dashboard draw by this file, with one
style sheet, plot.css. Left out: zooming; a plot is as large as its page is wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from eval.svg import bounded, drawing, number, padded, shape, stroke, text_at, tick_text, ticks

Point = tuple[float, float | None]

NUM_TONES, GREY = 6, 4  # colours in plot.css, and which of them is grey
SMALL, LARGE = (320, 168), (420, 236)
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24  # margins in the plot's own units
TITLE = 14  # more of them for an axis' name
SMOOTHED = 5  # points in the running mean of a curve
FEW = 30  # so many points stand as dots on their line
MANY = 400  # more dots than this only hide the line


@dataclass(frozen=True)
class Series:
    """One line.

    Args:
        points: (x, y) in the order in which they are joined; None or a value that is not finite is a gap.
        tone: place of its colour in plot.css, taken modulo NUM_TONES.
        kind: "faint" and "dots" stand behind another line and are never read out.
        heads: what a point is called when it is read out; empty for its x.
        told: its value in words; empty for y.
        bounds: (low, high) of every point, drawn as a band; empty without.
        notes: words beside the points; empty without.
        is_marked: whether points, where they are few, stand as dots on the line.
    """

    name: str
    points: Sequence[Point]
    tone: int = 0
    kind: Literal["line", "dashed", "faint", "dots"] = "line"
    heads: Sequence[str] = ()
    told: Sequence[str] = ()
    bounds: Sequence[tuple[float, float]] = ()
    notes: Sequence[str] = ()
    is_marked: bool = True


def plot(
    series: Sequence[Series],
    label: str,
    *,
    x_name: str = "",
    y_name: str = "",
    across: tuple[float, float] | None = None,
    up: tuple[float, float] | None = None,
    in_percent: tuple[bool, bool] = (False, False),
    size: tuple[int, int] = SMALL,
) -> Markup:
    """Series over common axes; empty where no point is known.

    Args:
        label: what a screen reader says.
        across, up: ranges of the axes; None for those of the points.
        in_percent: whether x and y are shares of 1.
    """
    seen = [one for line in series for one in line.points if _known(one)]
    if not seen:
        return Markup("")
    ends = [end for line in series for bounds in line.bounds for end in bounds]
    low, high = up or padded([y for _, y in seen if y is not None] + ends)
    first, last = across or (min(x for x, _ in seen), max(x for x, _ in seen))
    width, height = size
    top, bottom = TOP + (TITLE if y_name else 0), height - BOTTOM - (TITLE if x_name else 0)

    def x(value: float) -> float:
        return LEFT + (value - first) / ((last - first) or 1) * (width - LEFT - RIGHT)

    def y(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    parts = []
    for tick in ticks(low, high):
        parts += [stroke(LEFT, y(tick), width - RIGHT, y(tick), "grid")]
        parts += [text_at(LEFT - 6, y(tick) + 4, tick_text(tick, in_percent[1]), "end")]
    parts += [text_at(x(tick), bottom + 16, tick_text(tick, in_percent[0]), "middle") for tick in ticks(first, last, 5)]
    parts += [text_at(width - RIGHT, height - 4, x_name, "end")] if x_name else []
    parts += [text_at(2, 12, y_name, "start")] if y_name else []
    parts.append(stroke(LEFT, bottom, width - RIGHT, bottom, "axis"))
    for line in series:
        places = [(x(a), y(b)) if _known((a, b)) and b is not None else None for a, b in line.points]
        parts += _drawn(line, places, [(y(one), y(two)) for one, two in line.bounds])
    return drawing(width, height, "lines", label, parts)


def figure(title: str, *parts: Markup) -> Markup:
    """A drawing under its title, above what its colours mean."""
    return Markup('<figure class="plot"><figcaption>{}</figcaption>{}</figure>').format(title, Markup("").join(parts))


def key(names: Iterable[str]) -> Markup:
    """Which colour is which series, in the order of their tones."""
    entries = [
        Markup('<li class="tone-{}"><i></i>{}</li>').format(tone % NUM_TONES, name) for tone, name in enumerate(names)
    ]
    return Markup('<ul class="key">{}</ul>').format(Markup("").join(entries))


def curve(points: Sequence[Point], name: str) -> Markup:
    """One logged number over training steps: a dot per step, and a running mean where there are enough of them.

    Args:
        points: (step, value) in the order of steps; None is a gap.
    """
    seen = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    if not seen:
        return Markup("")
    steps, values = [step for step, _ in seen], [value for _, value in seen]
    is_smooth = len(seen) >= 2 * SMOOTHED
    line = Series(
        name,
        list(zip(steps, running_mean(values) if is_smooth else values, strict=True)),
        heads=[f"step {tick_text(step)}" for step in steps],
        told=[number(value, 4) for value in values],
        is_marked=not is_smooth,
    )
    dots = [Series(name, seen, GREY, "dots")] if is_smooth and len(seen) <= MANY else []
    label = f"{name}: {number(values[0])} at step {tick_text(steps[0])}, {number(values[-1])} at step"
    across = (points[0][0], points[-1][0])
    return plot([*dots, line], f"{label} {tick_text(steps[-1])}", across=across)


def running_mean(values: Sequence[float], width: int = SMOOTHED) -> list[float]:
    """Mean of the `width` values around every place; of fewer, still symmetric, at the ends."""
    means = []
    for index in range(len(values)):
        reach = min(width // 2, index, len(values) - 1 - index)
        window = values[index - reach : index + reach + 1]
        means.append(sum(window) / len(window))
    return means


def accuracy(points: Mapping[float, tuple[float, float, float]], label: str, x_name: str) -> Markup:
    """Held-out accuracy with its interval over whatever was varied.

    Args:
        points: x -> (value, low, high), shares of 1.
    """
    rows = sorted(points.items())
    line = Series(
        label,
        [(x, value) for x, (value, _, _) in rows],
        heads=[f"{x_name} {x:g}" for x, _ in rows],
        told=[bounded(*share) for _, share in rows],
        bounds=[(low, high) for _, (_, low, high) in rows],
    )
    return plot([line], label, x_name=x_name, y_name="accuracy", in_percent=(False, True), size=LARGE)


def _drawn(
    line: Series, places: Sequence[tuple[float, float] | None], bounds: Sequence[tuple[float, float]]
) -> list[Markup]:
    """Band, line, dots and notes of one series."""
    parts, tone = [], f"tone-{line.tone % NUM_TONES}"
    ends = [(at[0], *end) for at, end in zip(places, bounds, strict=False) if at]
    if ends:
        outline = [f"{x:.1f} {high:.1f}" for x, _, high in ends]
        outline += [f"{x:.1f} {low:.1f}" for x, low, _ in reversed(ends)]
        parts.append(shape(f"M{'L'.join(outline)}Z", f"band {tone}"))
    if line.kind != "dots":
        steps = zip([None, *places], places, strict=False)
        path = "".join(f"{'L' if before else 'M'}{at[0]:.1f} {at[1]:.1f}" for before, at in steps if at)
        is_read = line.kind in ("line", "dashed")
        drawn = Markup('<path d="{}" class="line {} {}"{}/>')
        parts.append(drawn.format(path, line.kind, tone, _numbers(line) if is_read else ""))
    if line.kind == "dots" or (line.kind != "faint" and line.is_marked and len(places) <= FEW):
        parts.append(shape("".join(f"M{at[0]:.1f} {at[1]:.1f}h0" for at in places if at), f"dots {tone}"))
    parts += [text_at(at[0], at[1] - 8, note, "middle") for at, note in zip(places, line.notes, strict=False) if at]
    return parts


def _numbers(line: Series) -> Markup:
    """What plot.js reads out, one entry a point of the path."""
    heads = line.heads or [tick_text(x) for x, _ in line.points]
    told = line.told or [number(y, 4) for _, y in line.points]
    known = [index for index, point in enumerate(line.points) if _known(point)]
    return Markup(' data-name="{}" data-x="{}" data-y="{}"').format(
        line.name, "|".join(heads[index] for index in known), "|".join(told[index] for index in known)
    )


def _known(point: Point) -> bool:
    return point[1] is not None and math.isfinite(point[1])
