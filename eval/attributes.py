"""Is what the prompt says what the reader sees? Exact text alignment, for sandbox prompts only, no CLIP involved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from base_model.world import motion
from eval.protocol import Metric, Sample, Score, missing

NAMES = ("colour", "shape", "size", "count", "family", "direction")


def _matched(sample: Sample) -> dict[str, bool] | str:
    if sample.spec is None:
        return "the prompt is not a sandbox prompt" if sample.prompt else "the video has no prompt"
    if sample.observation is None:
        return sample.unreadable
    return motion.match(sample.observation, sample.spec)


def right(name: str) -> Callable[[Sample], Score]:
    """Is this attribute right: 1 or 0; one that the prompt does not state counts as right."""

    def score(sample: Sample) -> Score:
        matched = _matched(sample)
        return missing(matched) if isinstance(matched, str) else Score(float(matched[name]))

    return score


def share_right(sample: Sample) -> Score:
    """Share of the six attributes that are right."""
    matched = _matched(sample)
    return missing(matched) if isinstance(matched, str) else Score(float(np.mean([matched[name] for name in NAMES])))


def _metric(name: str, score: Callable[[Sample], Score], blind_spots: str, unit: str = "share of videos") -> Metric:
    return Metric(
        name=name,
        version="1",
        unit=unit,
        range=(0.0, 1.0),
        higher_is_better=True,
        needs=("frames", "scene"),
        blind_spots=blind_spots,
        per_video=score,
        failure=0.0,
    )


COLOUR = _metric("attributes/colour", right("colour"), "a colour seen in two frames counts as present")
SHAPE = _metric("attributes/shape", right("shape"), "median over frames: a brief deformation is not seen")
SIZE = _metric("attributes/size", right("size"), "median over frames; nearest of three sizes")
COUNT = _metric("attributes/count", right("count"), "two objects of one colour count as one")
FAMILY = _metric("attributes/family", right("family"), "kind of motion only, not whether it is lawful")
DIRECTION = _metric("attributes/direction", right("direction"), "first object only")
SHARE = _metric(
    "attributes", share_right, "an attribute that the prompt does not state counts as right", "share of attributes"
)
