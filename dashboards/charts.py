"""The dashboard's charts, as HTML with SVG in it: what rows of a run say, drawn by eval.plot and eval.svg.

All of a page's drawings go to the browser in one component (components.charts), so that a page with thirty curves
costs as much as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from eval import plot, svg
from eval.result import finite

Rows = Sequence[Mapping[str, Any]]  # lines of metrics.jsonl

MAX_POINTS = 500  # per line; more would be drawn on top of each other
AXES = {"step": "training step", "samples": "videos generated", "minutes": "minutes"}
CHOICES = {"a": "first", "b": "second", "tie": "tie", "both_bad": "both bad", "skip": "skipped"}


def curve(runs: Mapping[str, Rows], metric: str, axis: str = "step", smoothing: float = 0.0) -> Markup:
    """One metric over training, a line per run: what was logged, faint, under its moving average."""
    series = []
    for tone, (run, rows) in enumerate(runs.items()):
        points = logged(rows, metric, axis)
        values = [value for _, _, value in points]
        heads = [f"step {step:g}" + ("" if axis == "step" else f", {x:,.4g} {AXES[axis]}") for step, x, _ in points]
        if smoothing:
            series.append(plot.Series(run, [(x, value) for _, x, value in points], tone, "faint"))
        line = [(x, value) for (_, x, _), value in zip(points, smooth(values, smoothing), strict=True)]
        told = [
            svg.number(value, 4) + (f" (logged {svg.number(was, 4)})" if smoothing else "")
            for (_, value), was in zip(line, values, strict=True)
        ]
        series.append(plot.Series(run, line, tone, heads=heads, told=told))
    about = f"{metric} over {AXES[axis]} for {', '.join(runs)}"
    return plot.figure(metric.partition("/")[2], plot.plot(series, about))


def logged(rows: Rows, metric: str, axis: str) -> list[tuple[float, float, float]]:
    """(step, place on the axis, value) of at most MAX_POINTS lines that hold them all."""
    start = next((row["time"] for row in rows if finite(row.get("time")) is not None), 0.0)
    found = []
    for row in rows:
        place = (row.get("time", start) - start) / 60 if axis == "minutes" else finite(row.get(axis))
        value = finite(row.get(metric))
        if place is not None and value is not None:
            found.append((float(row["step"]), place, value))
    return found[:: len(found) // MAX_POINTS + 1]


def smooth(values: Sequence[float], smoothing: float) -> list[float]:
    """Exponential moving average, unbiased at its start. smoothing in [0, 1): weight of the past; 0 changes nothing."""
    means, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = smoothing * total + value, smoothing * weight + 1.0
        means.append(total / weight)
    return means


def choices(counts: Mapping[str, Mapping[str, int]]) -> Markup:
    """Shares of left, right, tie, ... per aspect as stacked bars."""
    width, height, left = 380, 34, 100
    parts, said = [], []
    for index, (aspect, of_aspect) in enumerate(counts.items()):
        total, start, top = sum(of_aspect.values()) or 1, float(left), index * height
        parts.append(svg.text_at(left - 8, top + 21, aspect.replace("_", " "), "end"))
        for tone, (choice, name) in enumerate(CHOICES.items()):
            count = of_aspect.get(choice, 0)
            end = start + count / total * (width - left - 4)
            if count:
                area = svg.shape(f"M{start:.1f} {top + 5}H{end - 1:.1f}V{top + 29}H{start:.1f}Z", f"area tone-{tone}")
                if end - start > 32:
                    words = Markup('<text x="{:.1f}" y="{}" text-anchor="middle" class="on-tone">{}</text>')
                    area += words.format((start + end) / 2, top + 21, svg.share(count / total))
                title = f"{aspect.replace('_', ' ')}, {name}: {count} votes, {svg.share(count / total)}"
                parts.append(Markup("<g><title>{}</title>{}</g>").format(title, area))
                said.append(title)
            start = end
    drawn = svg.drawing(width, height * len(counts), "choices", "; ".join(said), parts)
    return plot.figure("", drawn, plot.key(CHOICES.values()))


def over_optimisation(rows: Rows, proxy: str, golds: Sequence[str], axis: str) -> Markup:
    """What was trained for, and what was held out, over the distance from the reference: who turns back first?

    Every curve is shown in its own range, 0 its lowest and 1 its highest value, because rewards have different units.

    Args: rows of metrics.jsonl; proxy and golds are logged names, axis is "step" or a logged divergence.
    """
    series = []
    for tone, name in enumerate((proxy, *golds)):
        points = logged(rows, name, axis)
        values = [value for *_, value in points]
        low, high = min(values, default=0.0), max(values, default=1.0)
        series.append(
            plot.Series(
                name,
                [(x, (value - low) / ((high - low) or 1.0)) for _, x, value in points],
                tone,
                kind="dashed" if tone else "line",
                heads=[
                    f"step {step:g}" + ("" if axis == "step" else f", {axis} {svg.number(x)}") for step, x, _ in points
                ],
                told=[svg.number(value, 4) for value in values],
            )
        )
    about = f"{proxy} and {', '.join(golds)} over {axis}"
    drawn = plot.plot(
        series,
        about,
        x_name=axis if axis == "step" else f"{axis}, nats",
        y_name="share of its own range",
        up=(-0.02, 1.02),
        in_percent=(False, True),
        size=plot.LARGE,
    )
    return plot.figure("", drawn, plot.key((proxy, *golds)))


def best_of_n(points: Rows, proxy: str, gold: str) -> Markup:
    """Gold of the proxy's favourite among N samples with its interval, over the KL that picking costs."""
    golds = [point["gold"] for point in points]
    bounds = [(one["low"], one["high"]) for one in golds]
    line = plot.Series(
        gold,
        [(point["kl"], one["value"]) for point, one in zip(points, golds, strict=True)],
        heads=[f"N = {point['n']}, KL {svg.number(point['kl'])}" for point in points],
        told=[svg.bounded(one["value"], one["low"], one["high"]) for one in golds],
        bounds=bounds if all(None not in ends for ends in bounds) else (),
        notes=[str(point["n"]) for point in points],
    )
    about = f"{gold} of the best of N by {proxy}, over KL"
    return plot.figure("", plot.plot([line], about, x_name="KL from the model, nats", y_name=gold, size=plot.LARGE))


def radar(rows: Rows) -> Markup:
    """Shares from 0 (centre) to 1 (rim) of several sets on one axis per metric.

    Args: rows with set, metric, share (of the way from worst to best), value.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    sets = list(dict.fromkeys(row["set"] for row in rows))
    across, up, reach = 280, 170, 130  # the centre and the rim, in the drawing's own units

    def at(metric: str, share: float) -> tuple[float, float]:
        angle = 2 * math.pi * metrics.index(metric) / len(metrics)
        return across + reach * share * math.sin(angle), up - reach * share * math.cos(angle)

    def ring(places: Iterable[tuple[float, float]], kind: str) -> Markup:
        return svg.shape(f"M{'L'.join(f'{x:.1f} {y:.1f}' for x, y in places)}Z", kind)

    parts = [
        ring((at(metric, share) for metric in metrics), f"line faint tone-{plot.GREY}")
        for share in (0.25, 0.5, 0.75, 1.0)
    ]
    for metric in metrics:
        x, y = at(metric, 1.1)
        side = "middle" if abs(x - across) < 20 else "start" if x > across else "end"
        parts.append(svg.text_at(x, y + 4, metric, side))
    for tone, name in enumerate(sets):
        own = {row["metric"]: row for row in rows if row["set"] == name}
        tint = f"tone-{tone % plot.NUM_TONES}"
        parts.append(ring((at(metric, own[metric]["share"]) for metric in metrics), f"line {tint}"))
        for metric in metrics:
            x, y = at(metric, own[metric]["share"])
            title = f"{name}, {metric}: {svg.number(own[metric]['value'])}"
            spot = svg.shape(f"M{x:.1f} {y:.1f}h0", f"dots {tint}")
            parts.append(Markup("<g><title>{}</title>{}</g>").format(title, spot))
    drawn = svg.drawing(2 * across, 2 * up, "radar", f"{', '.join(sets)} on {', '.join(metrics)}", parts)
    return plot.figure("", drawn, plot.key(sets))


def reliability(rows: Rows) -> Markup:
    """How often the model was right where it said how sure it was; the diagonal is honesty.

    Args: rows with aspect, confidence, accuracy, n.
    """
    aspects = list(dict.fromkeys(row["aspect"] for row in rows))
    series = [plot.Series("", [(0.5, 0.5), (1.0, 1.0)], plot.GREY, "faint")]
    for tone, aspect in enumerate(aspects):
        own = [row for row in rows if row["aspect"] == aspect]
        series.append(
            plot.Series(
                aspect,
                [(row["confidence"], row["accuracy"]) for row in own],
                tone,
                heads=[f"said {svg.share(row['confidence'])}" for row in own],
                told=[f"{svg.share(row['accuracy'])} of {row['n']:.0f}" for row in own],
            )
        )
    drawn = plot.plot(
        series,
        "Share right over stated confidence, per aspect",
        x_name="said",
        y_name="was right",
        across=(0.5, 1.0),
        up=(0.0, 1.0),
        in_percent=(True, True),
        size=plot.LARGE,
    )
    return plot.figure("", drawn, plot.key(aspects))
