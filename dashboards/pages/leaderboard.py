"""Which model is best? All evaluated sets ranked by one metric or by people's votes, and who beats whom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from core.errors import UserError
from core.preferences import existing
from dashboards import charts, runs
from dashboards.pages import common
from dashboards.pages.common import figure
from eval import leaderboard, svg

TIE_BAND = 0.02
VOTES = "votes of people"
NUM_RADAR = 10  # axes
STYLE = """<style>
.sora-charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1.2rem; }
.sora-charts figure { margin: 0; font-size: .85rem; } .sora-charts svg { display: block; width: 100%; }
.sora-charts text { fill: currentColor; opacity: .7; font-size: 11px; }
.sora-charts .grid { stroke: rgba(128,128,128,.25); } .sora-charts .axis { stroke: rgba(128,128,128,.7); }
.sora-charts .whisker { stroke: currentColor; stroke-width: 2; } .sora-charts .point { fill: #3b82d6; }
</style>"""


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Leaderboard")
    sets = runs.evaluated(experiments)
    entries, problems = {}, []
    for name, folder in sets.items():
        entries[name], wrong = runs.results(folder)
        problems += wrong
    stores = [experiment for experiment in experiments if experiment.store]
    metrics = leaderboard.rankable(entries)
    if not metrics and not stores:
        common.report_problems(problems)
        common.empty("Nothing to rank yet: a leaderboard needs two sets evaluated on the same prompts and seeds.")
        return
    options = [*metrics, *([VOTES] if stores else [])]
    column, _ = st.columns([1, 2])
    by = column.selectbox("Ranked by", options, key="by", bind="query-params") or options[0]
    try:
        if by == VOTES:
            content = _by_votes(str(stores[0].store), runs.time_of(stores[0].store or Path()))
        else:
            having = tuple((name, str(folder)) for name, folder in sets.items() if by in entries[name])
            versions = tuple(runs.time_of(Path(folder) / "samples.jsonl") for _, folder in having)
            content = _by_metric(having, by, versions)
    except (UserError, OSError) as error:
        common.report_problems([*problems, str(error)])
        common.empty("This ranking cannot be made; choose another metric.")
        return
    common.report_problems(problems)
    _board(content)
    _metrics(entries)
    _radar(entries)


@st.cache_data(max_entries=32, show_spinner="ranking")
def _by_metric(sets: Sequence[tuple[str, str]], metric: str, versions: tuple[float, ...]) -> dict[str, Any]:
    return leaderboard.table(leaderboard.by_metric(dict(sets), metric, TIE_BAND), metric)


@st.cache_data(max_entries=8, show_spinner="ranking")
def _by_votes(path: str, version: float) -> dict[str, Any]:
    store = existing(path)
    return leaderboard.table(leaderboard.by_votes(store, store.aspects[-1]), VOTES)


def _board(content: dict[str, Any]) -> None:
    rows = content["standings"]
    if not content["comparable"]:
        groups = " | ".join(", ".join(group) for group in content["groups"])
        st.warning(f"Groups that never met have no common scale: {common.plain(groups)}", icon=":material/link_off:")
    left, right = st.columns(2, gap="large") if len(rows) <= charts.MANY else (st.container(), st.container())
    with left:
        st.subheader("Ratings")
        st.altair_chart(charts.standings(rows), width="stretch")
    with right:
        st.subheader("Win rate of row over column")
        st.altair_chart(charts.win_matrix(content["pairs"], [row["player"] for row in rows]), width="stretch")
    table = [
        {
            "rank": leaderboard.ranks(content, row),
            "model": row["player"],
            "rating": figure(row["rating"], signed=True),
            "95 % interval": f"{figure(row['low'], signed=True)} … {figure(row['high'], signed=True)}",
            "wins": "–" if row["win_rate"] is None else f"{row['win_rate']:.0%}",
            "comparisons": row["n"],
        }
        for row in rows
    ]
    st.dataframe(pd.DataFrame(table), hide_index=True, width="stretch")
    st.caption(
        f"Bradley-Terry ratings from {content['num_comparisons']:,} comparisons on {content['num_prompts']:,} prompts; "
        f"same prompt and seed, ties (within {TIE_BAND:g}) half. Intervals and ranks at 95 % over resampled prompts."
    )
    common.downloads("leaderboard", rows)


def _metrics(entries: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Every metric that several sets have, a line a set with its interval."""
    names = dict.fromkeys(name for metrics in entries.values() for name in metrics if "/" not in name.split("[")[0])
    drawn = {name: svg.metric(name, {one: metrics.get(name, {}) for one, metrics in entries.items()}) for name in names}
    with st.expander("Every metric of every set, with intervals"):
        figures = (f"<figure>{common.escape(name)}{chart}</figure>" for name, chart in drawn.items() if chart)
        st.html(f'{STYLE}<div class="sora-charts">{"".join(figures)}</div>')
        st.caption(
            "Each metric on an axis of its own, with 95 % intervals. Intervals that overlap do not say that there is "
            "no difference: `soralign compare` tests two sets in pairs."
        )


def shares(entries: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Per set and metric the share of the way from the worst to the best possible value.

    Only metrics that every set has, with a finite range and a better direction; those with the widest spread first.
    """
    common_names = set.intersection(*(set(metrics) for metrics in entries.values())) if entries else set()
    found: dict[str, list[dict[str, Any]]] = {}
    for name in sorted(common_names):
        rows = []
        for one, metrics in entries.items():
            entry = metrics[name]
            limits, value, higher = entry.get("range"), entry.get("value"), entry.get("higher_is_better")
            if not isinstance(limits, list) or None in limits or value is None or not isinstance(higher, bool):
                break
            share = (value - limits[0]) / ((limits[1] - limits[0]) or 1)
            rows.append({"set": one, "metric": name, "value": value, "share": share if higher else 1 - share})
        else:
            found[name] = rows
    spread = {
        name: max(row["share"] for row in rows) - min(row["share"] for row in rows) for name, rows in found.items()
    }
    chosen = sorted(sorted(found), key=lambda name: -spread[name])[:NUM_RADAR]
    return [row for name in chosen for row in found[name]]


def _radar(entries: dict[str, dict[str, dict[str, Any]]]) -> None:
    rows = shares(entries)
    if len({row["metric"] for row in rows}) < 3:
        return
    with st.expander("All metrics at a glance"):
        st.altair_chart(charts.radar(rows), width="stretch")
        st.caption(
            "Each axis runs from the worst possible value of its metric (centre) to the best possible one (rim), not "
            f"from the worst to the best set. Shown are the {NUM_RADAR} metrics with the widest spread; those without "
            "a finite range or a better direction cannot be drawn so. The area means nothing."
        )
        common.downloads("metrics", rows)
