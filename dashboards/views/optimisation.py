"""Is the reward being gamed? What was trained for beside what was held out, over the distance from the base model."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboards import charts, components, runs
from dashboards.views import common
from dashboards.views.common import figure

KL = ("align/kl_reference", "align/approx_kl")
PROXIES = ("judge/trained_reward", "reward/total")
REFRESH_SECONDS = 5


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Optimisation")
    experiment = common.choose([one for one in experiments if one.training] or experiments)
    running = experiment.training is not None and runs.state(experiment) == "running"
    st.fragment(_training, run_every=REFRESH_SECONDS if running else None)(experiment)
    _best_of_n(experiment)


def _training(experiment: runs.Experiment) -> None:
    rows, problems = runs.metrics(experiment)
    common.report_problems(problems)
    names = {key for row in rows for key, value in row.items() if isinstance(value, int | float)}
    proxy = next((name for name in PROXIES if name in names), None)
    if proxy is None:
        common.empty("No reward was logged yet: this page compares what is trained for with what is held out.")
        return
    golds = sorted(name for name in names if name.startswith(("judge/", "eval/")) and name not in PROXIES)
    axes = [name for name in KL if name in names] + ["step"]
    column, _ = st.columns([1, 2])
    axis = column.selectbox("Over", axes, key="over", bind="query-params") or axes[0]
    components.charts(key="turn", data={"markup": charts.over_optimisation(rows, proxy, golds, axis)})
    if golds:
        st.caption(
            "Every curve in its own range, 0 % its lowest and 100 % its highest value: look where they turn, not how "
            "high they are. The solid one was trained for. A held-out judge that falls while it rises is "
            "over-optimisation: stop."
        )
    else:
        st.caption("What was trained for, in its own range: 0 % is its lowest and 100 % its highest value.")
        st.info("No held-out judge was logged (`soralign align --judge NAME`): gaming cannot be seen from here.")
    for gold in golds:
        peak = turn(rows, gold, axis)
        if peak is not None:
            where = f"step {peak['step']}" + ("" if axis == "step" else f", {axis} {figure(peak['at'])}")
            fall = "and has fallen since" if peak["fell"] else "at the end of what was logged"
            st.markdown(f"**{common.plain(gold)}** was highest at {where}, {fall}.")


def turn(rows: list[dict[str, Any]], name: str, axis: str) -> dict[str, Any] | None:
    """Where a logged number was highest, and whether it fell by a tenth of its range since; None where never logged."""
    known = [row for row in rows if isinstance(row.get(name), int | float) and isinstance(row.get(axis), int | float)]
    if not known:
        return None
    best = max(known, key=lambda row: row[name])
    spread = best[name] - min(row[name] for row in known)
    return {"step": best["step"], "at": best[axis], "fell": best[name] - known[-1][name] > 0.1 * spread > 0}


def _best_of_n(experiment: runs.Experiment) -> None:
    for name, folder in experiment.sets.items():
        content, problems = runs.best_of_n(folder)
        common.report_problems(problems)
        if not content["points"]:
            continue
        st.subheader(f"Best of N, {common.plain(name)}")
        proxy, gold = str(content.get("proxy")), str(content.get("gold"))
        components.charts(key=f"best of n {name}", data={"markup": charts.best_of_n(content["points"], proxy, gold)})
        st.caption(
            f"{common.plain(gold)} of the best of N by {common.plain(proxy)}, with 95 % intervals over prompts; N is "
            f"beside the points. Best at N = {content.get('best_n')}."
        )
