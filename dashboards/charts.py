"""Charts as functions of plain rows; colours that colour-blind readers tell apart, the theme's where there is one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

MAX_POINTS = 1500  # per line; more would be drawn on top of each other
AXES = {"step": "training step", "samples": "videos generated", "minutes": "minutes"}
# Paul Tol's and Okabe-Ito's advice: told apart by every kind of colour vision, and by lightness.
PALETTE = ("#3b82d6", "#e08a1e", "#2a9d74", "#c061a8", "#8a8f98", "#b8a300")


def tidy(runs: Mapping[str, Sequence[dict[str, Any]]]) -> pd.DataFrame:
    """Lines of metrics.jsonl of several runs as one table: run, step, samples, minutes, metric, value."""
    records = []
    for run, rows in runs.items():
        start = next((row["time"] for row in rows if isinstance(row.get("time"), int | float)), 0.0)
        for row in rows[:: len(rows) // MAX_POINTS + 1]:
            place = {
                "run": run,
                "step": row["step"],
                "samples": row.get("samples"),
                "minutes": (row.get("time", start) - start) / 60,
            }
            records += [
                place | {"metric": key, "value": float(value)}
                for key, value in row.items()
                if "/" in key and isinstance(value, int | float)
            ]
    return pd.DataFrame(records, columns=["run", "step", "samples", "minutes", "metric", "value"])


def smooth(values: pd.Series, smoothing: float) -> pd.Series:
    """Exponential moving average, unbiased at its start. smoothing in [0, 1): weight of the past; 0 changes nothing."""
    return values.ewm(alpha=1 - smoothing).mean()


def run_colours(table: pd.DataFrame) -> dict[str, str]:
    """The colour of each run, the same in every chart."""
    return {run: PALETTE[index % len(PALETTE)] for index, run in enumerate(dict.fromkeys(table["run"]))}


def curve(
    table: pd.DataFrame, metric: str, axis: str = "step", smoothing: float = 0.0
) -> alt.LayerChart | alt.FacetChart:
    """One metric over training, a line per run: what was logged, faint, under its moving average."""
    rows = table[table["metric"] == metric].copy()
    rows["smoothed"] = rows.groupby("run")["value"].transform(lambda values: smooth(values, smoothing))
    runs, colours = list(run_colours(table)), list(run_colours(table).values())
    base = alt.Chart(rows).encode(
        x=alt.X(
            f"{axis}:Q",
            title=AXES[axis],
            axis=alt.Axis(tickMinStep=1 if axis == "step" else 0, grid=False, tickCount=6),
        ),
        color=alt.Color("run:N", scale=alt.Scale(domain=runs, range=colours), legend=None),
    )
    number = alt.Tooltip("value:Q", format=".4g")
    tooltip = ["run:N", alt.Tooltip("step:Q"), number, alt.Tooltip("smoothed:Q", format=".4g")]
    line = alt.Y("smoothed:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(format="~g", tickCount=5))
    layers = [base.mark_line(strokeWidth=2.2, point=len(rows) <= 30 * len(runs)).encode(y=line, tooltip=tooltip)]
    if smoothing:
        layers.insert(0, base.mark_line(strokeWidth=1, opacity=0.3).encode(y=alt.Y("value:Q"), tooltip=tooltip))
    description = f"{metric} over {AXES[axis]} for {', '.join(runs)}"
    return alt.layer(*layers).properties(height=190, description=description)


def choices(counts: dict[str, dict[str, int]]) -> alt.Chart:
    """Shares of left, right, tie, ... per aspect as stacked bars."""
    names = {"a": "first", "b": "second", "tie": "tie", "both_bad": "both bad", "skip": "skipped"}
    rows = [
        {"aspect": aspect.replace("_", " "), "choice": names.get(choice, choice), "votes": count, "order": order}
        for aspect, of_aspect in counts.items()
        for order, (choice, count) in enumerate((c, of_aspect.get(c, 0)) for c in names)
        if count
    ]
    return (
        alt.Chart(pd.DataFrame(rows, columns=["aspect", "choice", "votes", "order"]))
        .mark_bar(height={"band": 0.7})
        .encode(
            x=alt.X("votes:Q", stack="normalize", title=None, axis=alt.Axis(format="%", grid=False, tickCount=4)),
            y=alt.Y("aspect:N", title=None, sort=None, axis=alt.Axis(labelLimit=200)),
            color=alt.Color(
                "choice:N",
                sort=list(names.values()),
                scale=alt.Scale(domain=list(names.values()), range=[PALETTE[0], PALETTE[1], "#8a8f98", "#555", "#ccc"]),
                legend=alt.Legend(orient="bottom", title=None),
            ),
            order="order:Q",
            tooltip=["aspect:N", "choice:N", "votes:Q"],
        )
        .properties(height=90 + 34 * len(counts), description="Shares of answers by aspect")
    )


def accuracies(rows: Sequence[dict[str, Any]]) -> alt.LayerChart | alt.FacetChart:
    """Held-out accuracy by aspect with its interval, beside the baselines that need no model.

    Args: rows with aspect, value, low, high, majority, random, all shares in [0, 1] or None.
    """
    names = ("model", "majority", "random")
    points = [
        {"aspect": row["aspect"].replace("_", " "), "kind": name, "share": row["value" if name == "model" else name]}
        | ({"low": row["low"], "high": row["high"]} if name == "model" else {})
        for row in rows
        for name in names
    ]
    table = pd.DataFrame(points, columns=["aspect", "kind", "share", "low", "high"])
    base = alt.Chart(table).encode(
        y=alt.Y("aspect:N", title=None, sort=None, axis=alt.Axis(labelLimit=220)),
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=list(names), range=[PALETTE[0], PALETTE[1], PALETTE[4]]),
            legend=alt.Legend(orient="bottom", title=None),
        ),
    )
    share = alt.X("share:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", tickCount=5))
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=list(names), range=["circle", "diamond", "square"]), legend=None)
    tooltip = ["aspect:N", "kind:N"] + [alt.Tooltip(f"{name}:Q", format=".3f") for name in ("share", "low", "high")]
    layers = (
        base.mark_rule(strokeWidth=3, opacity=0.5).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(size=110, filled=True, opacity=1).encode(x=share, shape=shape, tooltip=tooltip),
    )
    height = 70 + 42 * len(rows)
    return alt.layer(*layers).properties(height=height, description="Held-out accuracy by aspect beside baselines")


def over_optimisation(
    rows: Sequence[Mapping[str, Any]], proxy: str, golds: Sequence[str], axis: str
) -> alt.LayerChart | alt.FacetChart:
    """What was trained for, and what was held out, over the distance from the reference: who turns back first?

    Every curve is shown in its own range, 0 its lowest and 1 its highest value, because rewards have different units.

    Args: rows of metrics.jsonl; proxy and golds are logged names, axis the name on the horizontal axis.
    """
    kinds = {proxy: "trained for"} | dict.fromkeys(golds, "held out")
    records = []
    for name, kind in kinds.items():
        known = [row for row in rows if all(isinstance(row.get(key), int | float) for key in (name, axis))]
        values = [float(row[name]) for row in known]
        low, high = min(values, default=0.0), max(values, default=1.0)
        for row, value in zip(known, values, strict=True):
            place = {"x": float(row[axis]), "step": row["step"], "value": value}
            records.append(place | {"name": name, "kind": kind, "share": (value - low) / ((high - low) or 1.0)})
    table = pd.DataFrame(records, columns=["x", "step", "value", "name", "kind", "share"]).sort_values(["name", "step"])
    base = alt.Chart(table).encode(
        x=alt.X("x:Q", title=axis, axis=alt.Axis(grid=False, tickCount=6, format=".3~g")),
        y=alt.Y("share:Q", title="share of its own range", scale=alt.Scale(domain=[0, 1])),
        color=alt.Color(
            "name:N",
            sort=list(kinds),
            scale=alt.Scale(domain=list(kinds), range=[PALETTE[index % len(PALETTE)] for index in range(len(kinds))]),
            legend=alt.Legend(orient="bottom", title=None, labelLimit=320),
        ),
        strokeDash=alt.StrokeDash(
            "kind:N",
            scale=alt.Scale(domain=["trained for", "held out"], range=[[1, 0], [6, 4]]),
            legend=None,
        ),
        order="step:Q",
        tooltip=[
            "name:N",
            "step:Q",
            alt.Tooltip("x:Q", title=axis, format=".4g"),
            alt.Tooltip("value:Q", format=".4g"),
        ],
    )
    layers = (base.mark_line(strokeWidth=2.2), base.mark_point(size=16, filled=True))
    return alt.layer(*layers).properties(height=340, description=f"{proxy} and {', '.join(golds)} over {axis}")


def best_of_n(points: Sequence[Mapping[str, Any]], proxy: str, gold: str) -> alt.LayerChart | alt.FacetChart:
    """Gold of the proxy's favourite among N samples with its interval, over the KL that picking costs."""
    records = [{"n": point["n"], "kl": point["kl"], **point["gold"]} for point in points]
    table = pd.DataFrame(records, columns=["n", "kl", "value", "low", "high"])
    base = alt.Chart(table).encode(x=alt.X("kl:Q", title="KL from the model, nats", axis=alt.Axis(grid=False)))
    tooltip = ["n:Q"] + [alt.Tooltip(f"{name}:Q", format=".4g") for name in ("kl", "value", "low", "high")]
    scale = alt.Scale(zero=False)
    layers = (
        base.mark_area(opacity=0.2, color=PALETTE[0]).encode(y=alt.Y("low:Q", title=gold, scale=scale), y2="high:Q"),
        base.mark_line(strokeWidth=2.2, color=PALETTE[0]).encode(y=alt.Y("value:Q", scale=scale), tooltip=tooltip),
        base.mark_point(size=40, filled=True, color=PALETTE[0]).encode(y="value:Q", tooltip=tooltip),
        base.mark_text(dy=-12, color=PALETTE[4]).encode(y="value:Q", text="n:Q"),
    )
    return alt.layer(*layers).properties(height=300, description=f"{gold} of the best of N by {proxy}, over KL")


def radar(rows: Sequence[Mapping[str, Any]]) -> alt.LayerChart | alt.FacetChart:
    """Shares from 0 (centre) to 1 (rim) of several sets on one axis per metric.

    Args: rows with set, metric, share (of the way from worst to best), value.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    angle = {name: 2 * math.pi * index / len(metrics) for index, name in enumerate(metrics)}

    def at(name: str, share: float) -> dict[str, float]:
        return {"x": share * math.sin(angle[name]), "y": share * math.cos(angle[name])}

    sets = list(dict.fromkeys(row["set"] for row in rows))
    records = [dict(row) | at(row["metric"], row["share"]) for row in rows]
    for name in sets:  # closes the line
        own = [record for record in records if record["set"] == name]
        records.append(own[0] | {"order": len(metrics)})
    for record in records:
        record.setdefault("order", metrics.index(record["metric"]))
    rings = [
        {"ring": share, "order": index} | at(name, share)
        for share in (0.25, 0.5, 0.75, 1.0)
        for index, name in enumerate([*metrics, metrics[0]])
    ]
    labels = [{"metric": name} | at(name, 1.16) for name in metrics]
    scale = alt.Scale(domain=[-1.35, 1.35])
    across, up = alt.X("x:Q", axis=None, scale=scale), alt.Y("y:Q", axis=None, scale=scale)
    grid = alt.Chart(pd.DataFrame(rings)).mark_line(color=PALETTE[4], opacity=0.35, strokeWidth=1)
    lines = alt.Chart(pd.DataFrame(records)).encode(
        x=across,
        y=up,
        color=alt.Color(
            "set:N",
            scale=alt.Scale(domain=sets, range=[PALETTE[index % len(PALETTE)] for index in range(len(sets))]),
            legend=alt.Legend(orient="bottom", title=None),
        ),
        shape=alt.Shape("set:N", legend=None),
        order="order:Q",
        tooltip=["set:N", "metric:N", alt.Tooltip("value:Q", format=".4g"), alt.Tooltip("share:Q", format=".2f")],
    )
    words = alt.Chart(pd.DataFrame(labels)).mark_text(fontSize=11, color=PALETTE[4])
    layers = (
        grid.encode(x=across, y=up, detail="ring:N", order="order:Q"),
        lines.mark_line(strokeWidth=2.2),
        lines.mark_point(size=55, filled=True, opacity=1),
        words.encode(x=across, y=up, text="metric:N"),
    )
    return alt.layer(*layers).properties(height=420, description=f"{', '.join(sets)} on {', '.join(metrics)}")


def reliability(rows: Sequence[Mapping[str, Any]]) -> alt.LayerChart | alt.FacetChart:
    """How often the model was right where it said how sure it was; the diagonal is honesty.

    Args: rows with aspect, confidence, accuracy, n.
    """
    table = pd.DataFrame(list(rows), columns=["aspect", "confidence", "accuracy", "n"])
    ideal = alt.Chart(pd.DataFrame({"confidence": [0.5, 1.0], "accuracy": [0.5, 1.0]})).mark_line(
        color=PALETTE[4], strokeDash=[5, 4]
    )
    said = alt.X("confidence:Q", title="said", scale=alt.Scale(domain=[0.5, 1]), axis=alt.Axis(format="%", tickCount=5))
    was = alt.Y("accuracy:Q", title="was right", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", tickCount=5))
    aspects = list(dict.fromkeys(row["aspect"] for row in rows))
    base = alt.Chart(table).encode(
        x=said,
        y=was,
        color=alt.Color(
            "aspect:N",
            scale=alt.Scale(domain=aspects, range=[PALETTE[index % len(PALETTE)] for index in range(len(aspects))]),
            legend=alt.Legend(orient="bottom", title=None, labelLimit=200),
        ),
        shape=alt.Shape("aspect:N", legend=None),
        tooltip=["aspect:N", alt.Tooltip("confidence:Q", format=".3f"), alt.Tooltip("accuracy:Q", format=".3f"), "n:Q"],
    )
    layers = (ideal.encode(x=said, y=was), base.mark_line(strokeWidth=1.6), base.mark_point(size=60, filled=True))
    return alt.layer(*layers).properties(height=320, description="Share right over stated confidence, per aspect")
