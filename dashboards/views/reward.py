"""Can the preference model be believed? Accuracy on held-out prompts, beside what no model at all would get."""

from __future__ import annotations

from typing import Any

import streamlit as st
from markupsafe import Markup

from core.errors import UserError
from core.preferences import existing
from dashboards import charts, components, reward_report, runs, service
from dashboards.views import common
from dashboards.views.common import figure
from eval import plot, svg

NUM_WORST = 6


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Reward")
    experiment = common.choose([one for one in experiments if one.reward] or experiments)
    rows, problems = reward_report.accuracies(experiment)
    common.report_problems(problems)
    if not rows:
        common.empty("No preference model yet: `soralign reward train` writes one, with the report that is shown here.")
        return
    drawn = [_accuracies([row for row in rows if row.kind == kind], kind) for kind in ("without ties", "with ties")]
    components.charts(key="accuracy", data={"markup": "".join(drawn)})
    st.caption(
        "Share of held-out votes that the model predicts, with a 95 % interval over prompts. The diamond always names "
        "the side chosen most often, the square guesses. A model is worth using where its interval lies right of both."
    )
    common.table(_table(rows))
    curves = [{"aspect": service.readable(row.aspect), **one} for row in rows for one in row.reliability]
    if curves:
        st.subheader("Does it know when it is sure?")
        components.charts(key="reliability", data={"markup": charts.reliability(curves)})
        st.caption("Held-out votes in bins of the stated chance; on the thin line it is right as often as it says.")
    _varied(experiment)
    _worst(experiment)


def _accuracies(rows: list[reward_report.Accuracy], kind: str) -> Markup:
    """A line an aspect, beside what needs no model."""
    lines: list[svg.Accuracy] = [
        (service.readable(row.aspect), row.value, row.low, row.high, row.majority, row.random)
        for row in rows
        if row.value is not None
    ]
    title = f"Accuracy {kind}"
    return plot.figure(title, svg.accuracies(lines, f"{title} by aspect"))


def _varied(experiment: runs.Experiment) -> None:
    """What more votes would bring, and for a reward of latents what noise costs, where training measured it."""
    pairs, levels = reward_report.varied_accuracies(experiment)
    drawn = []
    if pairs:
        drawn.append(
            plot.figure("With fewer votes", plot.accuracy(pairs, "Accuracy over training pairs", "training pairs"))
        )
    if levels:
        drawn.append(plot.figure("In noise", plot.accuracy(levels, "Accuracy over noise levels", "noise level")))
    if drawn:
        st.subheader("What changes it?")
        components.charts(key="varied", data={"markup": "".join(drawn)})
        st.caption(
            "Accuracy on the same held-out votes, all aspects together, with 95 % intervals. A curve that still rises "
            "says that more votes would help; noise levels run from 0, the video, to 1, nothing but noise."
        )


def _worst(experiment: runs.Experiment) -> None:
    """Pairs on which the model prefers what people refused: held-out ones that training named, or measured ones."""
    named = reward_report.worst_errors(experiment)[:NUM_WORST]
    if named:
        st.subheader("Worst errors")
        components.gallery(key="worst", data={"cards": [_error(one) for one in named]})
        st.caption("Held-out votes that the model contradicts, those first of which it is surest.")
    if named or experiment.store is None:
        return
    samples = [sample for folder in experiment.sets.values() for sample in common.samples(folder)[0]]
    metrics = sorted({key for sample in samples for key in sample.metrics if key.startswith("reward[")})
    if not metrics:
        st.caption("Worst errors are shown once voted videos are measured with it: `--metrics 'reward[DIR]'`.")
        return
    st.subheader("Worst errors")
    metric = st.selectbox("Reward", metrics, key="reward", bind="query-params") or metrics[0]
    try:
        store = existing(experiment.store)
        found = runs.conflicts(store.votes(store.aspects[-1]), samples, metric)
    except (UserError, OSError) as error:
        common.report_problems([str(error)])
        return
    if not found:
        common.empty("No voted pair of these sets on which it is wrong.")
        return
    cards = [
        common.conflict_card(one, metric, "score", "reward", f"{one.votes} votes; off by {figure(one.gap)}")
        for one in found[:NUM_WORST]
    ]
    components.gallery(key="worst", data={"cards": cards})


def _error(one: reward_report.WorstError) -> dict[str, Any]:
    clips = [common.clip(one.liked, "people"), common.clip(one.refused, "model")]
    return {"prompt": one.prompt, "clips": clips, "facts": f"{svg.share(one.confidence)} sure"}


def _table(rows: list[reward_report.Accuracy]) -> list[dict[str, Any]]:
    return [
        {
            "aspect": service.readable(row.aspect),
            "ties": row.kind,
            "accuracy": figure(row.value),
            "95 % interval": f"{figure(row.low)} … {figure(row.high)}",
            "majority": figure(row.majority),
            "random": figure(row.random),
            "n": row.n,
            "calibration error": figure(row.calibration_error),
        }
        for row in rows
    ]
