"""Curves of what was logged during training, live while a run is going."""

from __future__ import annotations

import streamlit as st

from dashboards import charts, runs
from dashboards.views import common
from eval.curves import is_telling, ordered

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
    chosen = left.multiselect("Runs", names, default=names[:4], key="runs") if len(names) > 1 else names
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
    table = charts.tidy(rows)
    metrics = list(dict.fromkeys(table["metric"]))
    if len(rows) > 1:
        st.html(_legend(charts.run_colours(table)))
    metrics = [name for name in ordered(metrics) if everything or is_telling(name)] or ordered(metrics)
    groups = dict.fromkeys(_group(metric) for metric in metrics)
    for group in groups:
        st.subheader(group)
        columns = st.columns(3)
        for index, metric in enumerate(metric for metric in metrics if _group(metric) == group):
            with columns[index % 3]:
                st.markdown(f"**{common.plain(metric.partition('/')[2])}**")
                st.altair_chart(charts.curve(table, metric, axis, smoothing), width="stretch", key=f"curve {metric}")


def _legend(colours: dict[str, str]) -> str:
    """Which colour is which run, once for all charts."""
    dot = "display:inline-block;width:.7rem;height:.7rem;border-radius:50%;margin:0 .4rem 0 0;background:"
    entries = (
        f'<span style="margin-right:1.2rem"><i style="{dot}{colour}"></i>{common.escape(run)}</span>'
        for run, colour in colours.items()
    )
    return f'<div style="font-size:.9rem">{"".join(entries)}</div>'


def _group(metric: str) -> str:
    return metric.partition("/")[0]
