"""Did it help? Every metric of base and aligned with difference, interval and test; several runs beside each other."""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st

from dashboards import runs
from dashboards.pages import common
from dashboards.pages.common import MARKS, escape, figure, p_value

TITLES = {
    "gold_win_rate": "Win rate over base",
    "physics_pass_rate": "Physics pass rate",
    "clip_sim": "Text match (CLIP)",
    "diversity": "Diversity",
}
BADGES = {"finished": "green", "running": "blue", "partial": "gray", "broken": "orange"}
STYLE = """<style>
.sora-table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
.sora-table th { text-align: right; font-weight: 500; opacity: .6; padding: .45rem .6rem; white-space: nowrap;
  border-bottom: 1px solid rgba(128,128,128,.35); font-size: .82rem; }
.sora-table td { text-align: right; padding: .5rem .6rem; white-space: nowrap;
  border-bottom: 1px solid rgba(128,128,128,.16); }
.sora-table th:first-child, .sora-table td:first-child { text-align: left; padding-left: 0; white-space: normal; }
.sora-table small { opacity: .55; }
.sora-table td:last-child, .sora-table th:last-child { text-align: left; }
.sora-span { position: relative; display: inline-block; width: 9rem; height: 1rem; vertical-align: middle; }
.sora-span i { position: absolute; top: .42rem; height: .16rem; border-radius: 2px; background: #8a8f98; }
.sora-span b { position: absolute; top: .25rem; width: .5rem; height: .5rem; margin-left: -.25rem; border-radius: 50%;
  background: #8a8f98; }
.sora-span u { position: absolute; left: 50%; top: 0; bottom: 0; width: 1px; background: rgba(128,128,128,.5); }
.sora-better i, .sora-better b { background: #3b82d6; } .sora-worse i, .sora-worse b { background: #e08a1e; }
.sora-mark-better { color: #2f74c5; font-weight: 600; } .sora-mark-worse { color: #c8700a; font-weight: 600; }
@media (prefers-color-scheme: dark) { .sora-mark-better { color: #6aa9ff; } .sora-mark-worse { color: #f0a64a; } }
</style>"""


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Overview")
    compared = {experiment.name: runs.compare(experiment) for experiment in experiments}
    if len(experiments) > 1:
        _summary(experiments, compared)
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
    else:
        _cards(rows)
        st.html(STYLE + _table(rows, list(experiment.sets)))
        st.caption(
            "Difference is aligned minus base, with its 95 % interval; ▲ and ▼ mark differences with p < .05, better "
            "or worse. Each bar is scaled to its own row; the line in its middle is no difference."
        )
    _configuration(experiments, experiment)


def _state(experiment: runs.Experiment, problems: list[str]) -> str:
    return "broken" if problems else runs.state(experiment)


def _summary(experiments: list[runs.Experiment], compared: dict[str, tuple[list[runs.Comparison], list[str]]]) -> None:
    """Runs beside each other, newest first."""
    records = []
    for experiment in experiments:
        rows, problems = compared[experiment.name]
        record = {"run": experiment.name, "state": _state(experiment, problems)}
        for name, title in TITLES.items():
            row = runs.headline(rows, name)
            record[title] = "–" if row is None else _brief(row)
        records.append(record)
    st.dataframe(pd.DataFrame(records), hide_index=True, width="stretch")


def _brief(row: runs.Comparison) -> str:
    mark = MARKS[row.verdict][:1]
    if row.difference is None or row.metric == "gold_win_rate":
        return f"{figure(row.b)} {mark}".strip()
    return f"{figure(row.b)} ({figure(row.difference, signed=True)}) {mark}".strip()


def _cards(rows: list[runs.Comparison]) -> None:
    headlines = [(title, row) for name, title in TITLES.items() if (row := runs.headline(rows, name))]
    if not headlines:
        return
    for column, (title, row) in zip(st.columns(len(headlines)), headlines, strict=True):
        change = None if row.difference is None else figure(row.difference, signed=True)
        if change and row.low is not None and row.high is not None:
            change += f"  [{figure(row.low, signed=True)}, {figure(row.high, signed=True)}]"
        # The arrow gives the direction, the colour only repeats the verdict: blue better, orange worse, grey unclear.
        column.metric(
            title,
            figure(row.b),
            change,
            delta_color="blue" if row.verdict == "better" else "orange" if row.verdict == "worse" else "off",
            delta_arrow="up" if (row.difference or 0) >= 0 else "down",  # Streamlit does not know our minus sign
            help=f"{row.metric}: {figure(row.a)} before, {figure(row.b)} after. {MARKS[row.verdict]}",
            border=True,
        )


def _table(rows: list[runs.Comparison], sets: list[str]) -> str:
    before, after = (sets + ["base", "aligned"])[:2] if len(sets) >= 2 else ("base", "aligned")
    titles = ["metric", before, after, "difference", "95 % interval", "", "p", "n", ""]
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in _cells(row))}</tr>" for row in rows)
    return f'<table class="sora-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _cells(row: runs.Comparison) -> list[str]:
    arrow = "" if row.higher_is_better is None else "↑" if row.higher_is_better else "↓"
    about = " · ".join(part for part in (row.unit, f"{arrow} is better" if arrow else "", row.method) if part)
    interval = "–" if row.low is None or row.high is None else f"{figure(row.low, True)} … {figure(row.high, True)}"
    verdict = f'<span class="sora-mark-{row.verdict}">{MARKS[row.verdict]}</span>' if not row.reason else ""
    return [
        f"{escape(row.metric)}<br><small>{escape(about)}</small>",
        figure(row.a),
        figure(row.b),
        figure(row.difference, signed=True),
        interval,
        _span(row),
        p_value(row.p),
        "–" if row.n is None else f"{row.n:,}",
        verdict or f"<small>{escape(row.reason)}</small>",
    ]


def _span(row: runs.Comparison) -> str:
    """The interval drawn around zero; a picture of what the numbers beside it say."""
    if row.low is None or row.high is None or row.difference is None:
        return ""
    reach = 1.05 * max(abs(row.low), abs(row.high), abs(row.difference)) or 1.0
    low, high, middle = (50 + 50 * value / reach for value in (row.low, row.high, row.difference))
    return (
        f'<span class="sora-span sora-{row.verdict}" aria-hidden="true"><u></u>'
        f'<i style="left:{low:.1f}%;width:{max(0.5, high - low):.1f}%"></i><b style="left:{middle:.1f}%"></b></span>'
    )


def _configuration(experiments: list[runs.Experiment], experiment: runs.Experiment) -> None:
    configs = {one.name: values for one in experiments if (values := runs.config(one))}
    if len(configs) > 1:
        changed = runs.config_difference(configs)
        with st.expander(f"Settings that differ between runs ({len(changed)})"):
            table = pd.DataFrame.from_dict({key: row for key, row in changed.items()}, orient="index")
            st.dataframe(table.astype(str), width="stretch")
    if experiment.name in configs:
        with st.expander("All settings of this run"):
            values = configs[experiment.name]
            st.dataframe(
                pd.DataFrame({"setting": list(values), "value": [str(value) for value in values.values()]}),
                hide_index=True,
                width="stretch",
            )


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"
