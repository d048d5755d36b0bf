"""Which model is best? All evaluated sets ranked by one metric or by people's votes, and who beats whom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from core.errors import UserError
from core.preferences import existing
from dashboards import charts, components, runs
from dashboards.views import common
from dashboards.views.common import figure
from eval import leaderboard, plot, svg
from eval.result import TIE_BAND

VOTES = "votes of people"
NUM_RADAR = 10  # axes


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
    if content["left_out"]:
        names = ", ".join(content["left_out"])
        st.caption(f"Left out, because no prompt and seed is in another set: {common.plain(names)}.")
    if not content["comparable"]:
        groups = " | ".join(", ".join(group) for group in content["groups"])
        st.warning(f"Groups that never met have no common scale: {common.plain(groups)}", icon=":material/link_off:")
    _ratings(content)
    st.subheader("Win rate of row over column")
    _matrix(leaderboard.matrix(content))
    st.caption(
        f"Bradley-Terry ratings from {content['num_comparisons']:,} comparisons on {content['num_prompts']:,} prompts: "
        "log-odds of a win, 0 is the average model; two whose ratings differ by 1 meet at 73 to 27. Same prompt and "
        f"seed, ties (within {TIE_BAND:g}) half. Intervals and ranks at 95 % over resampled prompts. "
        "▲ and ▼: the 95 % interval of the win rate leaves out a draw; it is shown when you rest on the number."
    )
    common.downloads("leaderboard", content["standings"])


def _ratings(content: dict[str, Any]) -> None:
    """Who is best: a row a model, its rating drawn on one axis."""
    rows = content["standings"]
    drawn, axis = svg.ratings(rows)
    cells = [
        [
            common.escape(one["player"]),
            leaderboard.ranks(content, one),
            common.picture(chart, f"rating of {one['player']}") if chart else "",
            figure(one["rating"], signed=True),
            f"{figure(one['low'], signed=True)} … {figure(one['high'], signed=True)}",
            svg.share(one["win_rate"]),
            f"{one['n']:,}",
        ]
        for one, chart in zip(rows, drawn, strict=True)
    ]
    titles = (
        "model",
        "rank",
        "<span><i>worse</i> <i>better</i></span>",
        "rating",
        "95 % interval",
        "wins",
        "comparisons",
    )
    head = "".join(f"<th{_kind(place)}>{title}</th>" for place, title in enumerate(titles))
    body = "".join(
        f"<tr>{''.join(f'<td{_kind(place)}>{cell}</td>' for place, cell in enumerate(row))}</tr>" for row in cells
    )
    foot = f'<tr><td></td><td></td><td class="chart">{common.picture(axis, "axis")}</td><td colspan="4"></td></tr>'
    common.html_table(f"<thead><tr>{head}</tr></thead><tbody>{body}{foot}</tbody>")


def _kind(place: int) -> str:
    return ' class="chart"' if place == 2 else ""


def _matrix(matrix: list[tuple[str, list[dict[str, Any] | None]]]) -> None:
    """Blue where the row wins, orange where it loses, stronger the clearer; the number says it again."""
    head = "".join(f'<th scope="col"><span>{common.escape(name)}</span></th>' for name, _ in matrix)
    body = "".join(
        f'<tr><th scope="row">{common.escape(name)}</th>{"".join(_cell(name, one) for one in row)}</tr>'
        for name, row in matrix
    )
    common.html_table(f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody>", "sora-matrix")


def _cell(name: str, pair: dict[str, Any] | None) -> str:
    if pair is None or pair["value"] is None:
        return "<td></td>" if pair is None else "<td><small>never met</small></td>"
    mark = "▲ " if pair["low"] > 0.5 else "▼ " if pair["high"] < 0.5 else ""
    colour = common.BETTER if pair["value"] >= 0.5 else common.WORSE
    about = f"{name} over {pair['second']}: {svg.share(pair['low'])} to {svg.share(pair['high'])}, "
    about += f"{pair['wins']} won, {pair['ties']} tied, {pair['losses']} lost"
    style = f"--tint: {colour}; --strength: {abs(2 * pair['value'] - 1):.2f}"
    return f'<td style="{style}" title="{common.escape(about)}">{mark}{svg.share(pair["value"])}</td>'


def _metrics(entries: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Every metric that several sets have, a line a set with its interval."""
    with common.drawer("Every metric of every set, with intervals", "metrics") as drawer:
        if not drawer.open:
            return
        names = dict.fromkeys(name for one in entries.values() for name in one if "/" not in name.split("[")[0])
        drawn = {name: svg.metric(name, {one: row.get(name, {}) for one, row in entries.items()}) for name in names}
        figures = [plot.figure(name, chart) for name, chart in drawn.items() if chart]
        components.charts(key="every metric", data={"markup": "".join(figures)})
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
    if len({row["metric"] for row in shares(entries)}) < 3:
        return
    with common.drawer("All metrics at a glance", "radar") as drawer:
        if not drawer.open:
            return
        chosen, most = list(entries), plot.NUM_TONES  # a colour must not stand for two sets
        if len(chosen) > most:
            chosen = st.multiselect(
                "Sets", chosen, default=chosen[:most], max_selections=most, key="on radar", bind="query-params"
            )
        rows = shares({name: entries[name] for name in chosen})
        components.charts(key="radar chart", data={"markup": charts.radar(rows)})
        st.caption(
            "Each axis runs from the worst possible value of its metric (centre) to the best possible one (rim), not "
            f"from the worst to the best set. Shown are the {NUM_RADAR} metrics with the widest spread; those without "
            "a finite range or a better direction cannot be drawn so. The area means nothing."
        )
        common.downloads("metrics", rows)
