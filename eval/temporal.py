"""Does one frame follow from the one before? Each number here is fooled by something, so each has its control.

A frozen video has no flicker and perfect consistency; so has, nearly, a shuffled one under consistency (its frames all
look alike). `motion` and `order_sensitivity` are there to be read beside them, never left out.
"""

from __future__ import annotations

import numpy as np

from core.randomness import numpy_generator
from eval.protocol import Array, Metric, Sample, Score, missing

NUM_SHUFFLES = 8
CHANGED = 0.1  # of the pixel range: more than the codec's own noise


def flicker(sample: Sample) -> Score:
    """1 - mean |frame - next frame| over pixels in [0, 1]. Source: VBench, temporal flickering."""
    if len(sample.frames) < 2:
        return missing("one frame has no next frame")
    return Score(1.0 - float(np.abs(np.diff(sample.frames, axis=0)).mean(dtype=np.float64)))


def motion(sample: Sample) -> Score:
    """Share of neighbouring frame pairs in which at least 1 in 200 pixels changes by more than CHANGED."""
    if len(sample.frames) < 2:
        return missing("one frame has no next frame")
    change = np.abs(np.diff(sample.frames, axis=0)).max(axis=1) > CHANGED
    return Score(float((change.mean(axis=(1, 2)) >= 0.005).mean()))


def adjacent(features: Array) -> Array:
    """Cosines [time - 1] of neighbouring rows of features [time, dim], whose rows have length one."""
    return (features[1:] * features[:-1]).sum(axis=1)


def consistency(sample: Sample) -> Score:
    """Mean cosine of neighbouring frames."""
    if sample.features is None:
        return missing("no backbone")
    return Score(float(adjacent(sample.features).mean())) if len(sample.features) > 1 else missing("one frame")


def weakest_link(sample: Sample) -> Score:
    """Lowest cosine of two neighbouring frames: one vanishing or swapped object lowers it, a mean hides it."""
    if sample.features is None:
        return missing("no backbone")
    return Score(float(adjacent(sample.features).min())) if len(sample.features) > 1 else missing("one frame")


def order_sensitivity(sample: Sample) -> Score:
    """Consistency in the video's order minus its mean over shuffled orders: 0 says that the order did not matter."""
    if sample.features is None:
        return missing("no backbone")
    num_frames = len(sample.features)
    if num_frames < 3:
        return missing("fewer than three frames cannot be shuffled")
    similar = sample.features @ sample.features.T
    rng = numpy_generator(0, "eval/shuffle", num_frames)
    orders = np.array([rng.permutation(num_frames) for _ in range(NUM_SHUFFLES)])
    shuffled = similar[orders[:, 1:], orders[:, :-1]].mean()
    order = np.arange(num_frames)
    return Score(float(similar[order[1:], order[:-1]].mean() - shuffled))


FLICKER = Metric(
    name="flicker",
    version="1",
    unit="1 - mean |frame difference|",
    range=(0.0, 1.0),
    higher_is_better=True,
    needs=("frames",),
    blind_spots="best for a frozen video; falls with motion",
    per_video=flicker,
)
MOTION = Metric(
    name="motion",
    version="1",
    unit="share of frame pairs",
    range=(0.0, 1.0),
    higher_is_better=None,
    needs=("frames",),
    blind_spots="a guard, not a goal: noise and flicker move too, a static scene should not",
    per_video=motion,
)
CONSISTENCY = Metric(
    name="consistency[sandbox]",
    version="1",
    unit="cosine",
    range=(-1.0, 1.0),
    higher_is_better=True,
    needs=("frames", "backbone"),
    blind_spots="best for a frozen video; nearly blind to the order of frames",
    per_video=consistency,
)
WEAKEST_LINK = Metric(
    name="weakest_link[sandbox]",
    version="1",
    unit="cosine",
    range=(-1.0, 1.0),
    higher_is_better=True,
    needs=("frames", "backbone"),
    blind_spots="best for a frozen video",
    per_video=weakest_link,
)
ORDER_SENSITIVITY = Metric(
    name="order_sensitivity[sandbox]",
    version="1",
    unit="cosine",
    range=(-2.0, 2.0),
    higher_is_better=None,
    needs=("frames", "backbone"),
    blind_spots="a control of consistency: 0 where order is not seen; jumps raise it, reversal does not change it",
    per_video=order_sensitivity,
)
