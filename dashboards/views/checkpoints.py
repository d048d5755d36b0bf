"""The same prompts and noise at every saved step: how the generator changed while it was trained."""

from __future__ import annotations

import streamlit as st

from dashboards import components, runs
from dashboards.views import common
from eval.scene import side_by_side


def show(experiments: list[runs.Experiment]) -> None:
    st.title("Checkpoints")
    experiment = common.choose(experiments)
    steps = runs.checkpoints(experiment)
    if not steps:
        common.empty("No sample clips yet: training writes some every few steps (`sample_every`).")
        return
    numbers = list(steps)
    step = numbers[0]
    if len(numbers) > 1:
        step = st.select_slider("Training step", numbers, value=numbers[-1], key="step", bind="query-params")
    before, problems = common.samples(steps[numbers[0]])
    after, more = common.samples(steps[step])
    common.report_problems([*problems, *more])
    found = side_by_side({f"step {numbers[0]}": before, f"step {step}": after})
    cards = [
        {
            "prompt": scene.prompt,
            "clips": [common.clip(sample.path, name) for name, sample in scene.videos.items() if sample],
            "facts": "" if scene.seed is None else f"seed {scene.seed}",
        }
        for scene in found
    ]
    st.caption("The same prompts from the same noise, before training and at the chosen step.")
    components.gallery(key="checkpoints", data={"cards": cards})
