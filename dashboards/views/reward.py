"""Can the preference model be believed? Accuracy on held-out prompts, beside what no model at all would get."""

from __future__ import annotations

from collections.abc import Sequence
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
    if experiment.reward is None:
        common.empty("No preference model yet: `soralign reward train` writes one, with the report that is shown here.")
        return
    report, problems = reward_report.read(experiment.reward)
    common.report_problems(problems)
    rows = report.accuracies
    if not rows:
        common.empty("There is no accuracy in this model's report.json; `soralign reward train` writes it anew.")
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
    _varied(report)
    _worst(report.worst[:NUM_WORST], experiment)


def _accuracies(rows: Sequence[reward_report.Accuracy], kind: str) -> Markup:
    """A line an aspect, beside what needs no model."""
    lines: list[svg.Accuracy] = [
        (service.readable(row.aspect), row.value, row.low, row.high, row.majority, row.random)
        for row in rows
        if row.value is not None
    ]
    title = f"Accuracy {kind}"
    return plot.figure(title, svg.accuracies(lines, f"{title} by aspect"))


def _varied(report: reward_report.Report) -> None:
    """What more votes would bring, and for a reward of latents what noise costs, where training measured it."""
    drawn = []
    if report.by_pairs:
        curve = plot.accuracy(report.by_pairs, "Accuracy over training pairs", "training pairs")
        drawn.append(plot.figure("With fewer votes", curve))
    if report.by_noise:
        curve = plot.accuracy(report.by_noise, "Accuracy over noise levels", "noise level")
        drawn.append(plot.figure("In noise", curve))
    if drawn:
        st.subheader("What changes it?")
        components.charts(key="varied", data={"markup": "".join(drawn)})
        st.caption(
            "Accuracy on the same held-out votes, all aspects together, with 95 % intervals. A curve that still rises "
            "says that more votes would help; noise levels run from 0, the video, to 1, nothing but noise."
        )


def _worst(named: Sequence[reward_report.WorstError], experiment: runs.Experiment) -> None:
    """Pairs on which the model prefers what people refused: held-out ones that training named, or measured ones."""
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
        higher = runs.higher_is_better(experiment.sets.values(), metric)
        found = runs.conflicts(store.votes(store.aspects[-1]), samples, metric, higher)
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
    clips = [common.clip(one.liked, "chosen in the vote"), common.clip(one.refused, "chosen by the model")]
    return {"prompt": one.prompt, "clips": clips, "facts": f"the model was {svg.share(one.confidence)} sure"}


def _table(rows: Sequence[reward_report.Accuracy]) -> list[dict[str, Any]]:
    return [
        {
            "aspect": service.readable(row.aspect),
            "ties": row.kind,
            "accuracy": _percent(row.value),
            "95 % interval": f"{_percent(row.low)} … {_percent(row.high)}",
            "always the majority": _percent(row.majority),
            "guessing": _percent(row.random),
            "votes": row.n,
            "calibration error": _percent(row.calibration_error),
        }
        for row in rows
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}\u2009%"
