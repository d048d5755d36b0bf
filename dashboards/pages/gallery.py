"""The same prompt and the same seed, before and after, playing in step."""

from __future__ import annotations

import math

import streamlit as st

from dashboards import components, runs
from dashboards.pages import common
from dashboards.pages.common import figure

PER_PAGE = 6
ORDERS = ("as made", "largest gain", "largest loss")


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Gallery")
    experiment = common.choose(experiments)
    if not experiment.sets:
        common.empty("No videos yet: they appear here once a video set has been generated.")
        return
    names = list(experiment.sets)
    controls = st.columns([1.2, 1.2, 1.4, 2, 2], vertical_alignment="bottom")
    first = controls[0].selectbox("Left", names, key="left", bind="query-params")
    second = controls[1].selectbox("Right", names, index=min(1, len(names) - 1), key="right", bind="query-params")
    a, problems_a = common.samples(experiment.sets[first or names[0]])
    b, problems_b = common.samples(experiment.sets[second or names[-1]])
    common.report_problems([*problems_a, *problems_b])
    matches = runs.match(a, b)
    metrics = sorted({key for pair in matches for key in pair.a.metrics.keys() & pair.b.metrics.keys()})
    order = controls[2].selectbox("Order", ORDERS if metrics else ORDERS[:1], key="order", bind="query-params")
    metric = controls[3].selectbox("Metric", metrics, key="metric", bind="query-params") if metrics else None
    search = controls[4].text_input("Prompt contains", key="search", bind="query-params")
    matches = [pair for pair in matches if (search or "").lower() in pair.prompt.lower()]
    if order != ORDERS[0]:
        matches = runs.sort_matches(matches, metric, ascending=order == "largest loss")
    if not matches:
        common.empty("No pair of the same prompt and seed here; choose other sets or another text.")
        return
    number = math.ceil(len(matches) / PER_PAGE)
    page = st.pagination(number, key="page", bind="query-params") if number > 1 else 1
    start = (min(page or 1, number) - 1) * PER_PAGE
    st.caption(f"{len(matches)} pairs of the same prompt and seed. Space plays, , and . step, < > speed, + − zoom.")
    shown = matches[start : start + PER_PAGE]
    components.gallery(key="gallery", data={"cards": [_card(pair, first, second, metric) for pair in shown]})


def _card(pair: runs.Match, first: str, second: str, metric: str | None) -> dict[str, object]:
    def facts(sample: runs.Sample) -> str:
        return f"{metric} {figure(sample.metrics.get(metric))}" if metric else ""

    clips = [common.clip(pair.a.path, first, facts(pair.a))]
    if first != second:
        clips.append(common.clip(pair.b.path, second, facts(pair.b)))
    about = [] if pair.seed is None else [f"seed {pair.seed}"]
    if metric and first != second and (gap := pair.gap(metric)) is not None:
        about.append(f"{second} − {first}: {figure(gap, signed=True)}")
    return {"prompt": pair.prompt, "clips": clips, "facts": " · ".join(about)}
