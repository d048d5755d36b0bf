"""Does each frame follow from its neighbours by moving pixels? Warping error, smoothness and amount of motion.

All by optical flow, of DIS without weights or of RAFT where its file is given. Freezing is best for the first three, so
`motion_strength` and `dynamic_degree` stand beside them. VBench's own motion smoothness interpolates with AMT; ours
interpolates along the flow and has another name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eval.flow import agreeing, pull
from eval.protocol import Array, Metric, Sample, Score, missing

DYNAMIC_PX = 6.0  # of 256, the flow that VBench calls motion
FASTEST = 0.05  # share of the pixels that decide


def warping_error(sample: Sample) -> Score:
    """Mean squared difference of a frame and the next one pulled back along the flow, over pixels that are not
    occluded.

    Source: Lai et al. 2018, eq. 7-8; channels averaged. A pair in which every pixel is occluded says nothing.
    """
    if len(sample.frames) < 2:
        return missing("one frame has no next frame")
    errors = []
    for index, (forward, backward) in enumerate(zip(*sample.flows(), strict=True)):
        kept = agreeing(forward, backward)
        if kept.any():
            gap = pull(sample.frames[index + 1], forward) - sample.frames[index]
            errors.append(float((gap**2).mean(axis=0, dtype=np.float64)[kept].mean()))
    return Score(float(np.mean(errors))) if errors else missing("forward and backward flow agree nowhere")


def flow_agreement(sample: Sample) -> Score:
    """Share of pixels whose flow forwards and back ends where it began."""
    if len(sample.frames) < 2:
        return missing("one frame has no next frame")
    return Score(float(np.mean([agreeing(*pair) for pair in zip(*sample.flows(), strict=True)])))


def smoothness(sample: Sample) -> Score:
    """1 - mean |frame - the middle of its neighbours along the flow|, over every second frame.

    The formula of VBench's motion smoothness with flow in place of its interpolation network. The flow between the
    neighbours is that of two steps, measured here.
    """
    if len(sample.frames) < 3:
        return missing("fewer than three frames have no middle")
    assert sample.estimator is not None
    gaps = []
    for middle in range(1, len(sample.frames) - 1, 2):
        before, after = sample.frames[middle - 1], sample.frames[middle + 1]
        there, back = sample.estimator.flow(before, after), sample.estimator.flow(after, before)
        guess = (pull(before, back / 2) + pull(after, there / 2)) / 2
        gaps.append(float(np.abs(guess - sample.frames[middle]).mean(dtype=np.float64)))
    return Score(1.0 - float(np.mean(gaps)))


def fastest(flow: Array) -> Array:
    """Mean length of the fastest 5 % of the pixels, [time - 1] px, of flow [time - 1, height, width, 2]."""
    speed = np.sort(np.linalg.norm(flow, axis=-1).reshape(len(flow), -1), axis=1)
    return speed[:, -max(1, int(speed.shape[1] * FASTEST)) :].mean(axis=1)


def strength(sample: Sample) -> Score:
    """Mean over pairs of the fastest 5 % of the pixels, in frame heights or widths (the shorter) per frame."""
    if len(sample.frames) < 2:
        return missing("one frame has no next frame")
    return Score(float(fastest(sample.flows()[0]).mean()) / min(sample.frames.shape[2:]))


def dynamic_degree(sample: Sample) -> Score:
    """1 when enough pairs move, else 0: fastest 5 % above 6 px of 256, in at least a quarter of the frames.

    Source: VBench, dynamic degree. It thins videos to about 8 frames a second first; give videos of that rate.
    """
    if len(sample.frames) < 2:
        return missing("one frame has no next frame")
    moving = fastest(sample.flows()[0]) > DYNAMIC_PX * min(sample.frames.shape[2:]) / 256
    return Score(float(moving.sum() >= max(1, round(4 * len(sample.frames) / 16))))


def _metric(
    name: str,
    estimator: str,
    judge: Callable[[Sample], Score],
    unit: str,
    limits: tuple[float, float],
    higher: bool | None,
    blind_spots: str,
) -> Metric:
    return Metric(
        name=name,
        version="1",
        unit=unit,
        range=limits,
        higher_is_better=higher,
        needs=("frames",),
        blind_spots=blind_spots,
        per_video=judge,
        estimator=estimator,
        preprocessing=f"optical flow by {estimator}, full resolution",
    )


def _warping(estimator: str) -> Metric:
    unit, blind = "squared pixel difference", "best for a frozen video; occluded pixels are left out"
    return _metric(f"warping_error[{estimator}]", estimator, warping_error, unit, (0.0, 1.0), False, blind)


def _strength(estimator: str) -> Metric:
    blind = "a guard, not a goal: camera motion, noise and flicker move too"
    limits = (0.0, float("inf"))
    return _metric(f"motion_strength[{estimator}]", estimator, strength, "short sides / frame", limits, None, blind)


WARPING_DIS, WARPING_RAFT = _warping("dis"), _warping("raft")
STRENGTH_DIS, STRENGTH_RAFT = _strength("dis"), _strength("raft")
AGREEMENT = _metric(
    "flow_agreement[dis]",
    "dis",
    flow_agreement,
    "share of pixels",
    (0.0, 1.0),
    True,
    "best for a frozen video; flat areas agree whatever happens",
)
SMOOTHNESS = _metric(
    "motion_smoothness[dis]",
    "dis",
    smoothness,
    "1 - mean |frame - interpolation|",
    (0.0, 1.0),
    True,
    "best for a frozen video; a bounce is not smooth and right",
)
_DYNAMIC = "yes or no; camera motion counts"
DYNAMIC_DIS = _metric("dynamic_degree[dis]", "dis", dynamic_degree, "share of videos", (0.0, 1.0), None, _DYNAMIC)
DYNAMIC_VBENCH = _metric("vbench/dynamic_degree", "raft", dynamic_degree, "share of videos", (0.0, 1.0), None, _DYNAMIC)
