"""The project from above, for reviewers and admins: progress, agreement, people, and for admins what can be changed."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Callable

import streamlit as st

from core import preferences_people, preferences_quality
from core.errors import UserError
from core.preferences import Store
from core.stats import Interval
from dashboards import service
from dashboards.labeling import manage
from dashboards.labeling.entry import Visit
from dashboards.labeling.you import WHEN
from dashboards.views.common import plain

LIVE_SECONDS = 15
NUM_EVENTS = 50


def show(visit: Visit) -> None:
    """The page."""
    if not visit.person.may("reviewer"):
        st.error("This page is for reviewers and admins.")
        return
    store = visit.store
    projects = store.projects()
    left, right = st.columns([3, 1.2], vertical_alignment="bottom")
    left.title(plain(store.project))
    if len(projects) > 1:
        chosen = right.selectbox("Project", projects, index=projects.index(store.project))
        if chosen != store.project:
            st.query_params["project"] = chosen
            st.rerun()
    is_admin = visit.person.may("admin")
    names = ["Now", "Agreement", "People", "Export", *(["Add", "Rules"] if is_admin else []), "Log"]
    tabs = dict(zip(names, st.tabs(names), strict=True))
    if is_admin:  # what changes the project comes first, so that the other tabs show what it did
        with tabs["Add"]:
            manage.add(store)
        with tabs["Rules"]:
            manage.rules(store)
    with tabs["Now"]:
        live(now, store)
    with tabs["Agreement"]:
        live(agreement, store)
    with tabs["People"]:
        table = st.container()
        if is_admin:
            manage.invite(store)
        with table:
            live(people, store)
    with tabs["Export"]:
        manage.export(store)
    with tabs["Log"]:
        live(log, store)


@st.fragment(run_every=LIVE_SECONDS)
def live(draw: Callable[[Store], None], store: Store) -> None:
    """A part of the page that follows the labeling."""
    try:
        draw(store)
    except UserError as error:
        st.error(plain(str(error)))


def now(store: Store) -> None:
    """Counts."""
    pairs, votes = store.pairs(), store.votes(store.aspects[-1])
    wanted = sum(pair.target_votes for pair in pairs)
    judged = [vote for vote in votes if vote.choice != "skip"]
    columns = st.columns(4)
    columns[0].metric("Labels", f"{len(judged):,} of {wanted:,}", border=True, help="finished, of all that are wanted")
    complete = sum(pair.num_labels == pair.target_votes for pair in pairs)
    columns[1].metric("Full pairs", f"{complete:,} of {len(pairs):,}", border=True, help="those on a screen included")
    seconds = [vote.seconds for vote in votes if vote.seconds is not None]
    typical = statistics.median(seconds) if seconds else math.nan
    columns[2].metric("Time per label", _seconds(typical), border=True, help="median, in front of the pair")
    columns[3].metric(
        "Time left", service.duration(typical * (wanted - len(judged))), border=True, help="of one person's work"
    )
    st.progress(min(1.0, len(judged) / wanted) if wanted else 0.0)
    if not pairs:
        st.info("No pairs yet: the tab Add takes them from a video set.")
    skips = [vote for vote in votes if vote.choice == "skip"]
    if skips:
        st.caption(f"Skipped: {len(skips)}, the newest first")
        st.dataframe(
            [
                {"text": vote.prompt, "annotator": vote.annotator, "why": vote.comment or ""}
                for vote in skips[::-1][:20]
            ],
            hide_index=True,
            width="stretch",
        )


def agreement(store: Store) -> None:
    """How far annotators agree, aspect by aspect."""
    rows = [
        {
            "aspect": service.readable(one.aspect),
            "pairs with several labels": one.num_pairs,
            "Krippendorff's alpha": _interval(one.alpha),
            "Fleiss' kappa": _interval(one.fleiss),
            "Cohen's kappa, mean": _interval(one.cohen),
        }
        for one in _agreement(store, store.name, store.project, store.newest_vote())
    ]
    st.dataframe(rows, hide_index=True, width="stretch")
    st.caption(
        "1 is perfect, 0 is chance. Brackets: 95 % intervals, resampled over pairs. Skips are left out, gold pairs and "
        "repeats do not count."
    )


@st.cache_data(max_entries=16, show_spinner=False)
def _agreement(_store: Store, name: str, project: str, newest: int) -> list[preferences_quality.Agreement]:
    """Its intervals take a second or two, and change only with the votes."""
    return preferences_quality.agreement(_store)


def people(store: Store) -> None:
    """Everybody who labels, and what to look at."""
    found = preferences_quality.annotators(store)
    roles = {person.name: person.role for person in preferences_people.people(store)}
    for one in found:
        for flag in one.flags:
            st.warning(plain(f"{one.annotator}: {flag}"), icon=":material/flag:")
    rows = [
        {
            "annotator": one.annotator,
            "role": roles.get(one.annotator, ""),
            "labels": one.num_labels,
            "skips": one.num_skips,
            "per label": _seconds(one.median_seconds),
            "in all": service.duration(one.total_seconds),
            "left chosen": _interval(one.left),
            "ties": _share(one.ties),
            "watched": _share(one.watched),
            "gold right": _interval(one.gold),
            "same on repeats": _interval(one.consistency),
        }
        for one in found
    ]
    if rows:
        st.dataframe(rows, hide_index=True, width="stretch")
    else:
        st.info("Nobody has labeled in this project yet.")
    waiting = sorted(set(roles) - {one.annotator for one in found})
    if waiting:
        st.caption(plain(f"Known, without a label in this project: {', '.join(waiting)}."))


def log(store: Store) -> None:
    """What happened to the store."""
    rows = [
        {"UTC": datetime.datetime.fromtimestamp(when, datetime.UTC), "what": kind, "who": who or "", "detail": detail}
        for when, kind, who, detail in store.events(NUM_EVENTS)
    ]
    if rows:
        st.dataframe(rows, hide_index=True, width="stretch", column_config={"UTC": WHEN})
    else:
        st.info("Nothing noted yet.")


def _interval(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "–"
    if math.isnan(interval.low):
        return f"{interval.value:.2f}"
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"


def _seconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f} s"
