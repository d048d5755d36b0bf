"""PhyWorld (Kang et al. 2024): does the error of velocity grow where radius or speed leave what was trained on?

For videos that come with ground truth, as `soralign generate` leaves them when it continues true clips. The error is
that of the paper: mean |velocity read - simulated| from the fourth frame on, while the true object is whole. Every
video falls into one of four splits by its state; a metric is the mean over one of them. Unlike the paper's code, an
object that is lost is a failure with a reason, not a position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from base_model.world.spec import SIZES
from eval.protocol import Array, Metric, Sample, Score, missing
from reward import physics_probes

GIVEN = 3  # frames that a generator was shown
# Initial horizontal (in uniform: any) speed in training, px / frame; families not named have none to vary.
TRAINED_SPEED = {
    "uniform": (1.2, 2.6),
    "projectile": (1.2, 2.4),
    "slide": (2.6, 4.2),
    "collision": (1.5, 2.8),
    "occluder": (2.3, 3.1),
}
SLACK = 0.02  # of a bound, for a state that was rounded
SPLITS = {"in": (False, False), "radius": (True, False), "speed": (False, True), "both": (True, True)}


def is_odd_radius(state: Mapping[str, Array]) -> bool:
    """Does some object's radius lie outside every size that was trained on?"""
    return any(not any(_inside(radius, band) for band in SIZES.values()) for radius in state["radius"])


def is_odd_speed(state: Mapping[str, Array], family: str) -> bool:
    """Does the first object start slower or faster than was trained on?"""
    if family not in TRAINED_SPEED:
        return False
    start = np.asarray(state["velocity"])[0, 0]
    speed = abs(start[0]) if family != "uniform" else np.abs(start).max()
    low, high = TRAINED_SPEED[family]
    # A clip must keep its objects in the frame, so a fast scene may start below the range, not above it.
    return bool(speed > high * (1 + SLACK) or speed < 0.6 * low)


def _inside(value: float, band: tuple[float, float]) -> bool:
    return band[0] * (1 - SLACK) <= value <= band[1] * (1 + SLACK)


def velocity_error(split: str) -> Callable[[Sample], Score]:
    """Error of a video of this split, px / frame."""

    def score(sample: Sample) -> Score:
        if not sample.state or not {"radius", "velocity"} <= sample.state.keys():
            return missing("no ground-truth state beside the video")
        if sample.spec is None:
            return missing("the prompt names no scene with a known law")
        if sample.observation is None:
            return missing(sample.unreadable)
        if (is_odd_radius(sample.state), is_odd_speed(sample.state, sample.spec.family)) != SPLITS[split]:
            return missing("of another split")
        found = physics_probes.velocity_error(sample.observation, sample.state, GIVEN)
        return Score(found.value, found.reason)

    return score


def _metric(split: str) -> Metric:
    return Metric(
        name=f"phyworld/velocity[{split}]",
        version="1",
        unit="px / frame",
        range=(0.0, float("inf")),
        higher_is_better=False,
        needs=("frames", "state", "scene"),
        blind_spots="videos in which an object is lost are counted, not scored: read physics/permanence",
        per_video=velocity_error(split),
        preprocessing=f"state read from pixels, frames from number {GIVEN} on; radius and speed by ground truth",
    )


IN, RADIUS, SPEED, BOTH = (_metric(split) for split in SPLITS)
