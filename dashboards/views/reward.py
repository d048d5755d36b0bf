"""Can the preference model be believed? Accuracy on held-out prompts, beside what no model at all would get."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import streamlit as st

from core.errors import UserError
from core.preferences import existing
from dashboards import charts, components, runs, service
from dashboards.views import common
from dashboards.views.common import figure

NUM_WORST = 6


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Reward")
    experiment = common.choose([one for one in experiments if one.reward] or experiments)
    rows, problems = runs.accuracies(experiment)
    common.report_problems(problems)
    if not rows:
        common.empty("No preference model yet: `soralign reward train` writes one, with the report that is shown here.")
        return
    for column, kind in zip(st.columns(2, gap="large"), ("without ties", "with ties"), strict=True):
        with column:
            st.subheader(f"Accuracy {kind}")
            chosen = [row for row in rows if row.kind == kind]
            st.altair_chart(charts.accuracies([asdict(row) for row in chosen]), width="stretch")
    st.caption(
        "Share of held-out votes that the model predicts, with a 95 % interval over prompts. Majority always names the "
        "side chosen most often; random guesses. A model is worth using where its interval lies right of both."
    )
    common.table(_table(rows))
    curves = [{"aspect": service.readable(row.aspect), **one} for row in rows for one in row.reliability]
    if curves:
        st.subheader("Does it know when it is sure?")
        st.altair_chart(charts.reliability(curves), width="stretch")
        st.caption("Held-out votes in bins of the stated chance; on the dashed line it is right as often as it says.")
    _worst(experiment)


def _worst(experiment: runs.Experiment) -> None:
    """Voted pairs on which a reward that was measured prefers what people refused."""
    if experiment.store is None:
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


def _table(rows: list[runs.Accuracy]) -> list[dict[str, Any]]:
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
