"""Curves of what was logged during training, live while a run is going."""

from __future__ import annotations

import streamlit as st
from markupsafe import Markup

from dashboards import charts, components, runs
from dashboards.views import common
from eval import plot
from eval.curves import is_telling, ordered
from eval.result import finite

REFRESH_SECONDS = 3


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Training")
    trained = [experiment for experiment in experiments if experiment.training]
    logged = [experiment for experiment in trained if runs.metrics(experiment)[0]]
    trained = logged or trained  # those that have only begun would be empty choices
    if not trained:
        common.empty("None of these folders holds a training run; `soralign align` makes one.")
        return
    names = [experiment.name for experiment in trained]
    left, middle, right, last = st.columns([3, 2.6, 1.8, 1.8], vertical_alignment="bottom")
    chosen = names
    if len(names) > 1:
        most = plot.NUM_TONES  # a colour must not stand for two runs
        chosen = left.multiselect(
            "Runs", names, default=names[:4], max_selections=most, key="runs", bind="query-params"
        )
    axis = middle.segmented_control("Against", list(charts.AXES), default="step", key="axis", bind="query-params")
    smoothing = right.slider("Smoothing", 0.0, 0.95, 0.0, 0.05, key="smoothing", bind="query-params")
    everything = last.toggle("Everything logged", key="everything", bind="query-params")
    shown = [experiment for experiment in trained if experiment.name in chosen]
    running = any(runs.state(experiment) == "running" for experiment in shown)
    st.fragment(_curves, run_every=REFRESH_SECONDS if running else None)(
        shown, axis or "step", smoothing, running, bool(everything)
    )


def _curves(shown: list[runs.Experiment], axis: str, smoothing: float, running: bool, everything: bool) -> None:
    read = {experiment.name: runs.metrics(experiment) for experiment in shown}
    common.report_problems(problem for _, problems in read.values() for problem in problems)
    rows = {name: lines for name, (lines, _) in read.items() if lines}
    if not rows:
        common.empty("The first training step has not been logged yet.")
        return
    if running:
        last = " · ".join(f"{common.plain(name)} at step {lines[-1]['step']}" for name, lines in rows.items())
        st.caption(f":blue-badge[live] {last}")
    names = {
        key
        for lines in rows.values()
        for line in lines
        for key, value in line.items()
        if "/" in key and finite(value) is not None
    }
    metrics = [name for name in ordered(names) if everything or is_telling(name)] or ordered(names)
    parts = [plot.key(rows)] if len(rows) > 1 else []
    for group in dict.fromkeys(metric.partition("/")[0] for metric in metrics):
        parts.append(Markup("<h3>{}</h3>").format(group))
        parts += [charts.curve(rows, name, axis, smoothing) for name in metrics if name.startswith(f"{group}/")]
    components.charts(key="curves", data={"markup": "".join(parts)})
