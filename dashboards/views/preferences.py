"""The labels: how many, by whom, how far they agree, whether a side was favoured; and the pairs themselves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import streamlit as st

from core import preferences_quality, stats
from core.errors import UserError
from core.preferences import Store, Vote
from dashboards import charts, components, runs, service
from dashboards.views import common
from dashboards.views.common import figure
from eval import svg

NUM_SHOWN = 6


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Preferences")
    experiment = common.choose([one for one in experiments if one.store] or experiments)
    if experiment.store is None:
        common.empty("No preference store (preferences.db) in this folder; `soralign preferences add` makes one.")
        return
    try:
        store = _open(str(experiment.store))
        counts, votes = preferences_quality.summary(store), store.votes()
    except UserError as error:
        common.report_problems([str(error)])
        return
    _counts(counts, votes, store.aspects)
    if not votes:
        common.empty(f"No votes yet. Label with `soralign label --store {experiment.store}`.")
        return
    st.subheader("Answers by aspect")
    components.charts(key="choices", data={"markup": charts.choices(counts["choices"])})
    st.subheader("Annotators")
    common.table(_annotators(store))
    st.caption("In brackets the number of labels that a share is of.")
    st.subheader("Agreement")
    agreement = _agreement(store)
    if any(row["pairs"] for row in agreement):
        common.table(agreement)
        st.caption("On pairs with several votes, 95 % intervals over pairs: 1 is perfect, 0 is chance.")
    else:
        st.caption("No pair has the votes of two people yet, so nobody can agree.")
    _latest(votes, store.aspects[-1])


@st.cache_resource
def _open(path: str) -> Store:
    return Store(path)


def _counts(counts: dict[str, Any], votes: list[Vote], aspects: tuple[str, ...]) -> None:
    closing = [vote for vote in votes if vote.aspect == aspects[-1]]  # the answers to one pair are not independent
    sides = preferences_quality.left_choices(closing)
    columns = st.columns(4)
    columns[0].metric("Pairs", f"{counts['pairs']:,}", border=True)
    columns[1].metric("Labels", f"{len(closing):,}", border=True, help="pairs judged, all annotators together")
    columns[2].metric("Complete pairs", f"{counts['complete_pairs']:,}", border=True)
    if sides:
        interval = stats.wilson(sum(sides), 0, len(sides))
        bounds = f"{svg.share(interval.low)} … {svg.share(interval.high)}"
        note = f"of {len(sides):,} labels that chose a side; 95 % interval {bounds}; 50 % means no side is favoured"
        columns[3].metric("Left chosen", svg.share(interval.value), border=True, help=note)
    else:
        columns[3].metric("Left chosen", "–", border=True, help="counted for votes given on a screen")


def _annotators(store: Store) -> list[dict[str, Any]]:
    """Pace, sides, checks and flags of everybody; a flag asks somebody to look, it removes nothing."""
    return [
        {
            "annotator": one.annotator,
            "labels": f"{one.num_labels:,}",
            "seconds per label": figure(one.median_seconds),
            "left": _share(one.left),
            "ties": svg.share(one.ties),
            "known pairs right": _share(one.gold),
            "same answer again": _share(one.consistency),
            "look at": ", ".join(one.flags) or "–",
        }
        for one in preferences_quality.annotators(store)
    ]


def _share(interval: stats.Interval) -> str:
    return f"{svg.share(interval.value)} ({interval.n:,})" if interval.n else "–"


def _agreement(store: Store) -> list[dict[str, Any]]:
    def told(interval: stats.Interval) -> str:
        between = "" if math.isnan(interval.low) else f" ({figure(interval.low)} … {figure(interval.high)})"
        return f"{figure(interval.value)}{between}"

    return [
        {
            "aspect": service.readable(one.aspect),
            "pairs": one.num_pairs,
            "Krippendorff": told(one.alpha),
            "Fleiss": told(one.fleiss),
            "Cohen": told(one.cohen),
        }
        for one in preferences_quality.agreement(store)
    ]


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
