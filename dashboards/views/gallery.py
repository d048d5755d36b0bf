"""Every prompt in every model, playing in step: same seed side by side, or what people and a metric disagree about."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from core.errors import UserError
from core.preferences import Vote, existing
from dashboards import components, runs
from dashboards.views import common
from dashboards.views.common import figure
from eval.result import known_first
from eval.scene import Scene, by_gap, side_by_side

PER_PAGE = 6
CONFLICT = "people and metric disagree"
ORDERS = ("as made", "largest gain", "largest loss")


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Gallery")
    experiment = common.choose(experiments)
    sets = experiment.sets | {
        f"{other.name} / {name}": folder
        for other in experiments
        if other is not experiment
        for name, folder in other.sets.items()
    }
    if not sets:
        common.empty("No videos yet: they appear here once a video set has been generated.")
        return
    names = list(sets)
    controls = st.columns([2.4, 1.6, 2, 2], vertical_alignment="bottom")
    chosen = controls[0].multiselect("Sets", names, default=names[:2], key="sets", bind="query-params") or names[:1]
    read = {name: common.samples(sets[name]) for name in names if name in chosen}
    votes, wrong = _votes(experiment)
    common.report_problems([*(problem for _, problems in read.values() for problem in problems), *wrong])
    scenes = side_by_side({name: samples for name, (samples, _) in read.items()})
    measured = {key for scene in scenes for one in scene.videos.values() if one for key in one.metrics}
    metrics = known_first(measured)
    orders = (*ORDERS, *([CONFLICT] if votes else [])) if metrics else ORDERS[:1]
    order = controls[1].selectbox("Order", orders, key="order", bind="query-params")
    metric = controls[2].selectbox("Metric", metrics, key="metric", bind="query-params") if metrics else None
    search = (controls[3].text_input("Prompt contains", key="search", bind="query-params") or "").lower()
    if order == CONFLICT and metric:
        _conflicts(list(experiment.sets.values()), votes, metric, search)
        return
    scenes = [scene for scene in scenes if search in scene.prompt.lower()]
    higher = runs.higher_is_better((sets[name] for name in read), metric) if metric else True
    if order != ORDERS[0] and metric:
        scenes = by_gap(scenes, metric, ascending=(order == "largest loss") == higher)
    if not scenes:
        common.empty("No video fits; choose other sets or another text.")
        return
    shown = common.page_of(scenes, PER_PAGE)
    st.caption(
        f"{len(scenes)} prompts and seeds. The gap is the last set minus the first"
        f"{'' if higher else ', and lower is better'}. Space plays, comma and full stop step, < > speed, + − zoom."
    )
    components.gallery(key="gallery", data={"cards": [_card(scene, metric) for scene in shown]})


def _votes(experiment: runs.Experiment) -> tuple[list[Vote], list[str]]:
    if experiment.store is None:
        return [], []
    try:
        store = existing(experiment.store)
        return store.votes(store.aspects[-1]), []
    except (UserError, OSError) as error:
        return [], [str(error)]


def _conflicts(folders: list[Path], votes: list[Vote], metric: str, search: str) -> None:
    samples = [sample for folder in folders for sample in common.samples(folder)[0]]
    higher = runs.higher_is_better(folders, metric)
    found = [one for one in runs.conflicts(votes, samples, metric, higher) if search in one.prompt.lower()]
    if not found:
        common.empty("No voted pair of these sets on which people and this metric disagree.")
        return
    st.caption(f"{len(found)} pairs on which {common.plain(metric)} prefers what people refused, largest gap first.")
    cards = [
        common.conflict_card(one, metric, metric, "metric", f"{one.votes} votes")
        for one in common.page_of(found, PER_PAGE)
    ]
    components.gallery(key="conflicts", data={"cards": cards})


def _card(scene: Scene, metric: str | None) -> dict[str, object]:
    clips = []
    for name, sample in scene.videos.items():
        if sample is None:
            clips.append({"error": "not made for this prompt and seed", "name": name, "facts": ""})
        else:
            clips.append(
                common.clip(sample.path, name, f"{metric} {figure(sample.metrics.get(metric))}" if metric else "")
            )
    about = [] if scene.seed is None else [f"seed {scene.seed}"]
    gap = scene.gap(metric) if metric and len(clips) > 1 else None
    if gap is not None:
        ends = list(scene.videos)
        about.append(f"{ends[-1]} − {ends[0]}: {figure(gap, signed=True)}")
    return {"prompt": scene.prompt, "clips": clips, "facts": " · ".join(about)}
