"""The labels: how many, by whom, how far they agree, whether a side was favoured; and the pairs themselves."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from core import stats
from core.errors import UserError
from core.preferences import Store, Vote
from dashboards import charts, components, runs, service
from dashboards.pages import common
from dashboards.pages.common import figure

NUM_SHOWN = 6


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Preferences")
    experiment = common.choose([one for one in experiments if one.store] or experiments)
    if experiment.store is None:
        common.empty("No preference store (preferences.db) in this folder; `soralign preferences add` makes one.")
        return
    try:
        store = _open(str(experiment.store))
        counts, votes = store.stats(), store.votes()
    except UserError as error:
        common.report_problems([str(error)])
        return
    _counts(counts, votes, store.aspects)
    if not votes:
        common.empty(f"No votes yet. Label with `soralign label --store {experiment.store}`.")
        return
    st.subheader("Answers by aspect")
    st.altair_chart(charts.choices(counts["choices"]), width="stretch")
    left, right = st.columns(2)
    with left:
        st.subheader("Annotators")
        st.dataframe(_annotators(votes, store.aspects[-1]), hide_index=True, width="stretch")
    with right:
        st.subheader("Agreement")
        st.dataframe(_agreement(counts["agreement"]), hide_index=True, width="stretch")
        st.caption("Krippendorff's alpha on pairs with several votes: 1 is perfect, 0 is chance.")
    _latest(votes, store.aspects[-1])


@st.cache_resource
def _open(path: str) -> Store:
    return Store(path)


def _counts(counts: dict[str, Any], votes: list[Vote], aspects: tuple[str, ...]) -> None:
    sides = [vote.choice == vote.left_is for vote in votes if vote.left_is and vote.choice in ("a", "b")]
    columns = st.columns(4)
    columns[0].metric("Pairs", f"{counts['pairs']:,}", border=True)
    labels = sum(vote.aspect == aspects[-1] for vote in votes)
    columns[1].metric("Labels", f"{labels:,}", border=True, help="pairs judged, all annotators together")
    columns[2].metric("Complete pairs", f"{counts['complete_pairs']:,}", border=True)
    if sides:
        interval = stats.wilson(sum(sides), 0, len(sides))
        note = f"95 % interval {figure(interval.low)} … {figure(interval.high)}; 0.5 means no side is favoured"
        columns[3].metric("Left chosen", figure(interval.value), border=True, help=note)
    else:
        columns[3].metric("Left chosen", "–", border=True, help="counted for votes given on a screen")


def _annotators(votes: list[Vote], closing: str) -> pd.DataFrame:
    times: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        if vote.aspect == closing:
            times[vote.annotator].append(vote.time)
    records = []
    for name, given in sorted(times.items(), key=lambda entry: -len(entry[1])):
        gaps = [b - a for a, b in zip(given, given[1:], strict=False) if 0 < b - a < service.PAUSE_SECONDS]
        pace = f"{statistics.median(gaps):.1f} s" if gaps else "–"
        records.append({"annotator": name, "labels": len(given), "median time per label": pace})
    return pd.DataFrame(records)


def _agreement(agreement: dict[str, float | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {"aspect": [service.readable(aspect) for aspect in agreement], "alpha": [figure(v) for v in agreement.values()]}
    )


def _latest(votes: list[Vote], closing: str) -> None:
    st.subheader("Latest labels")
    shown = [vote for vote in reversed(votes) if vote.aspect == closing][:NUM_SHOWN]
    components.gallery(key="labels", data={"cards": [_card(vote) for vote in shown]})


def _card(vote: Vote) -> dict[str, object]:
    def clip(path: Path, side: str) -> dict[str, object]:
        return common.clip(path, "chosen" if vote.choice == side else "first" if side == "a" else "second")

    said = {"a": "preferred the first", "b": "preferred the second", "tie": "called it a tie"}
    facts = f"{vote.annotator} {said.get(vote.choice, f'said {service.readable(vote.choice)}')}"
    return {"prompt": vote.prompt, "clips": [clip(vote.video_a, "a"), clip(vote.video_b, "b")], "facts": facts}
