"""Charts as functions of plain rows; colours that colour-blind readers tell apart, the theme's where there is one."""

from __future__ import annotations

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
        .mark_bar(height=18)
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
        .properties(height=max(60, 34 * len(counts)), description="Shares of answers by aspect")
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
