"""Can the preference model be believed? Accuracy on held-out prompts, beside what no model at all would get."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
import streamlit as st

from dashboards import charts, runs, service
from dashboards.pages import common
from dashboards.pages.common import figure


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
    st.dataframe(_table(rows), hide_index=True, width="stretch")


def _table(rows: list[runs.Accuracy]) -> pd.DataFrame:
    records = [
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
    return pd.DataFrame(records)
