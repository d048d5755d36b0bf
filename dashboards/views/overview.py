"""Did it help? Every metric of base and aligned with difference, interval and test; several runs beside each other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from dashboards import export, runs
from dashboards.views import common
from dashboards.views.common import escape
from eval import verdict
from eval.verdict import Row, Tile

SUMMARY = {
    "gold_win_rate": "Wins",
    "physics_pass_rate": "Physics",
    "clip_sim": "Text match",
    "diversity": "Diversity",
}
# Colour only repeats what shape and word say: filled triangles survive correction for many tests, open ones do not.
MARKS = {"better": "▲", "maybe better": "△", "worse": "▼", "maybe worse": "▽", "unclear": "○"}
OWN_BASE = "its own base"
BADGES = {"finished": "green", "running": "blue", "partial": "gray", "broken": "orange"}


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Overview")
    compared = {experiment.name: runs.compare(experiment) for experiment in experiments}
    baseline = _pinned(experiments) if len(experiments) > 1 else None
    if len(experiments) > 1:
        _summary(experiments, compared, baseline)
    experiment = common.choose(experiments)
    rows, problems = compared[experiment.name]
    state = _state(experiment, problems)
    steps, _ = runs.metrics(experiment)
    facts = [f"{steps[-1]['step']} training steps"] if steps else []
    if runs.modified(experiment):
        facts.append(f"last change {_ago(time.time() - runs.modified(experiment))}")
    st.markdown(f"### {common.plain(experiment.name)} :{BADGES[state]}-badge[{state}]")
    st.caption(" · ".join([*facts, common.plain(str(experiment.folder))]))
    common.report_problems(problems)
    if not rows:
        common.empty("No results yet: they appear here once base and aligned have been evaluated (`soralign eval`).")
    elif baseline and (judged := runs.judged_set(experiment)) not in (None, baseline[1]):
        found, reason = _against(baseline[1], judged)
        common.report_problems([reason] if reason else [])
        _tables(found, (baseline[0], experiment.name))
    else:
        if experiment.compare:
            st.markdown(f"**{common.plain(verdict.headline(rows))}**")
            st.html(f'<div class="sora-tiles">{"".join(map(_tile, verdict.tiles(rows)))}</div>')
        _tables(rows, ("base", "aligned"))
    _configuration(experiments, experiment)
    tables = {name: rows for name, (rows, _) in compared.items() if rows}
    if tables:
        st.caption("All runs as a file:")
        common.downloads("soralign", export.records(tables), partial(export.markdown, tables))


def _pinned(experiments: list[runs.Experiment]) -> tuple[str, Path] | None:
    """Name and folder of the set that all runs are compared with; None where each has its own base."""
    sets = runs.evaluated(experiments)
    narrow, _ = st.columns([1, 2])
    name = narrow.selectbox("Compared with", [OWN_BASE, *sets], key="baseline", bind="query-params")
    return (name, sets[name]) if name in sets else None


@st.cache_data(max_entries=64, show_spinner="comparing")
def _remembered(baseline: str, folder: str, versions: tuple[float, ...], families: Sequence[str]) -> Any:
    return runs.against(Path(baseline), Path(folder), families)


def _against(baseline: Path, folder: Path, families: Sequence[str] = ()) -> tuple[list[Row], str]:
    """`runs.against`, remembered until a file of the two sets changes."""
    versions = tuple(runs.time_of(path / "samples.jsonl") for path in (baseline, folder))
    found: tuple[list[Row], str] = _remembered(str(baseline), str(folder), versions, families)
    return found


def _tables(rows: list[Row], names: tuple[str, str]) -> None:
    _table([row for row in rows if not row.is_detail], names)
    details = [row for row in rows if row.is_detail]
    if details:
        with common.drawer(f"Parts of these metrics ({len(details)})", "parts") as parts:
            if parts.open:
                _table(details, names)
    st.caption(
        f"Difference is {common.plain(names[1])} minus {common.plain(names[0])} with its 95 % interval; shares in "
        "percentage points. ▲ better and ▼ worse hold after Holm's correction for the number of tests, △ and ▽ only "
        "without it. p is corrected, and many rows share the smallest value that the permutations can show. Each bar "
        "is scaled to its own row; the line in its middle is no difference."
    )


def _state(experiment: runs.Experiment, problems: list[str]) -> str:
    return "broken" if problems else runs.state(experiment)


def _summary(
    experiments: list[runs.Experiment],
    compared: dict[str, tuple[list[Row], list[str]]],
    baseline: tuple[str, Path] | None,
) -> None:
    """Runs beside each other, newest first."""
    body = ""
    for experiment in experiments:
        rows, problems = compared[experiment.name]
        judged, note = runs.judged_set(experiment), ""
        if baseline and judged == baseline[1]:
            note = "the baseline"
        elif baseline and judged:
            rows, reason = _against(baseline[1], judged, ("gold", *SUMMARY))
            note = "not compared: choose the run to see why" if reason else ""
        cells = [f"{escape(experiment.name)}<small>{escape(note)}</small>", escape(_state(experiment, problems))]
        cells += [_brief(verdict.find(rows, family)) for family in SUMMARY]
        body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    head = "".join(f"<th>{escape(title)}</th>" for title in ("run", "state", *SUMMARY.values()))
    common.html_table(f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>", "sora-table sora-summary")
    against = f"{common.plain(baseline[0])}, prompt by prompt" if baseline else "the run's own base"
    st.caption(
        f"Under each value the difference to {against} (to a draw, for wins) and its 95 % interval. ▲ and ▼ hold after "
        "Holm's correction, △ and ▽ only without it."
    )


def _brief(row: Row | None) -> str:
    """Value and the mark of the verdict, over the difference with its interval."""
    if row is None or row.aligned is None:
        return "–"
    mark = escape(MARKS.get(row.verdict, ""))
    value = f'{escape(row.shown(row.aligned))} <span class="sora-mark sora-{row.tone}">{mark}</span>'
    if row.difference is None or row.low is None or row.high is None:
        return value
    span = f"{row.change(row.difference)} ({row.change(row.low)} … {row.change(row.high)})"
    return f"{value}<small>{escape(span)}</small>"


def _tile(tile: Tile) -> str:
    parts = (("label", tile.label), ("value", tile.value), ("detail", tile.detail))
    body = "".join(f'<div class="{name}">{escape(text)}</div>' for name, text in parts)
    return f'<div class="sora-tile sora-{tile.tone}">{body}</div>'


def _table(rows: Sequence[Row], names: tuple[str, str]) -> None:
    titles = ["metric", *names, "difference", "95 % interval", "", "p", "n", ""]
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    labels = [f' data-label="{escape(title)}"' if title else "" for title in titles]
    body = "".join(
        f"<tr>{''.join(f'<td{label}>{cell}</td>' for label, cell in zip(labels, _cells(row), strict=True))}</tr>"
        for row in rows
    )
    common.html_table(f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>", "sora-table sora-results")


def _cells(row: Row) -> list[str]:
    direction = {True: "higher is better", False: "lower is better", None: ""}[row.higher_is_better]
    about = " · ".join(part for part in (row.meaning or row.unit, direction, row.caution) if part)
    interval = "–" if row.low is None or row.high is None else f"{row.change(row.low)} … {row.change(row.high)}"
    mark = f"{MARKS.get(row.verdict, '')} {row.verdict}".strip()
    return [
        f'<span title="{escape(row.method)}">{escape(row.name)}</span><small>{escape(about)}</small>',
        escape(row.shown(row.base)),
        escape(row.shown(row.aligned)),
        escape(row.change(row.difference)),
        escape(interval),
        _span(row),
        escape(row.shown_p),
        "–" if row.n is None else f"{row.n:,}",
        f'<span class="sora-mark sora-{row.tone}">{escape(mark)}</span><small>{escape(row.reason)}</small>',
    ]


def _span(row: Row) -> str:
    """The interval drawn around zero; a picture of what the numbers beside it say."""
    if row.low is None or row.high is None or row.difference is None:
        return ""
    reach = 1.05 * max(abs(row.low), abs(row.high), abs(row.difference)) or 1.0
    low, high, middle = (50 + 50 * value / reach for value in (row.low, row.high, row.difference))
    return (
        f'<span class="sora-span sora-{row.tone}" aria-hidden="true"><u></u>'
        f'<i style="left:{low:.1f}%;width:{max(0.5, high - low):.1f}%"></i><b style="left:{middle:.1f}%"></b></span>'
    )


def _configuration(experiments: list[runs.Experiment], experiment: runs.Experiment) -> None:
    configs = {one.name: values for one in experiments if (values := runs.config(one))}
    if len(configs) > 1:
        changed = runs.config_difference(configs)
        with common.drawer(f"Settings that differ between runs ({len(changed)})", "changed") as drawer:
            if drawer.open:
                common.table(
                    [{"setting": key} | {run: row.get(run, "–") for run in configs} for key, row in changed.items()]
                )
    if experiment.name in configs:
        with common.drawer("All settings of this run", "settings") as drawer:
            if drawer.open:
                common.table([{"setting": key, "value": value} for key, value in configs[experiment.name].items()])


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"
