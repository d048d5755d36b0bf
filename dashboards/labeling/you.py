"""What an annotator may know of their own labels: how many, how fast, how far; nothing about checks or others."""

from __future__ import annotations

import datetime

import streamlit as st
from scipy import stats

from core import preferences_quality
from core.errors import UserError
from dashboards import components, service
from dashboards.labeling import api
from dashboards.labeling.entry import Visit
from dashboards.views.common import plain

NUM_SHOWN = 20
WHEN = st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm:ss")


def show(visit: Visit) -> None:
    """The page."""
    st.title(plain(visit.person.name))
    components.door(key="leave", data={"annotator": visit.person.name, "leaves": True, "route": api.DOOR})
    store, name = visit.store, visit.person.name
    try:
        progress = service.progress(store, name)
        mine = [one for one in preferences_quality.annotators(store) if one.annotator == name]
        given = [vote for vote in store.votes(store.aspects[-1]) if vote.annotator == name]
    except UserError as error:
        st.error(plain(str(error)))
        return
    columns = st.columns(4)
    columns[0].metric("Labels", f"{progress.done:,}", border=True)
    columns[1].metric("Still open", f"{progress.remaining:,}", border=True)
    pace = progress.pace_seconds
    columns[2].metric("Per label", "–" if pace is None else f"{pace:.1f} s", border=True, help="median of the last 30")
    left = "–" if pace is None else service.duration(pace * progress.remaining)
    columns[3].metric("Time left", left, border=True, help="at this pace, without pauses")
    if mine and mine[0].left.n:
        rate = mine[0].left
        num_left = round(rate.value * rate.n)
        note = f"You chose the left video in {num_left} of {rate.n} labels; sides are drawn by lot."
        if stats.binomtest(num_left, rate.n).pvalue < 0.05:
            note += " That is more one-sided than chance: look at both with the same patience."
        st.caption(note)
    if not given:
        st.info("No labels yet.")
        return
    st.subheader("Your latest labels")
    rows = [
        {
            "UTC": datetime.datetime.fromtimestamp(vote.time, datetime.UTC),
            "text": vote.prompt,
            "answer": _said(vote.choice, vote.left_is),
            "seconds": None if vote.seconds is None else round(vote.seconds, 1),
            "note": vote.comment or "",
        }
        for vote in reversed(given[-NUM_SHOWN:])
    ]
    st.dataframe(rows, hide_index=True, width="stretch", column_config={"UTC": WHEN})


def _said(choice: str, left_is: str | None) -> str:
    """As it stood on the screen: which video was A is nobody's business here."""
    if choice in ("a", "b") and left_is is not None:
        return "left" if choice == left_is else "right"
    return "one of them" if choice in ("a", "b") else service.readable(choice)
