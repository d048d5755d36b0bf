"""Does one frame follow from the one before? Each number here is fooled by something, so each has its control.

A frozen video has no flicker and perfect consistency; so has, nearly, a shuffled one under consistency (its frames all
look alike). `motion` and `order_sensitivity` are there to be read beside them, never left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.randomness import numpy_generator
from eval.features import thumbnail
from eval.protocol import Array, Metric, Sample, Score, missing

NUM_SHUFFLES = 8
CHANGED = 0.1  # of the pixel range: more than the codec's own noise
SAME = 8 / 255  # of the pixel range: what a codec may change in a frame that was shown twice
CUT_CHANGE, CUT_OVERLAP, CUT_RATIO = 0.12, 0.6, 4.0
ALONE = "one frame has no next frame"


def flicker(sample: Sample) -> Score:
    """1 - mean |frame - next frame| over pixels in [0, 1]. Source: VBench, temporal flickering."""
    if len(sample.frames) < 2:
        return missing(ALONE)
    return Score(1.0 - float(np.abs(np.diff(sample.frames, axis=0)).mean(dtype=np.float64)))


def motion(sample: Sample) -> Score:
    """Share of neighbouring frame pairs in which at least 1 in 200 pixels changes by more than CHANGED."""
    return _share_changed(sample, CHANGED, 0.005)


def duplicates(sample: Sample) -> Score:
    """Share of neighbouring frame pairs in which fewer than 1 in 1000 pixels change by more than SAME."""
    changed = _share_changed(sample, SAME, 0.001)
    return changed if changed.reason else Score(1.0 - changed.value)


def _share_changed(sample: Sample, above: float, share: float) -> Score:
    if len(sample.frames) < 2:
        return missing(ALONE)
    change = np.abs(np.diff(sample.frames, axis=0)).max(axis=1) > above
    return Score(float((change.mean(axis=(1, 2)) >= share).mean()))


def cuts(sample: Sample) -> Score:
    """Number of cuts: pairs of frames whose colours and places both change, far more than the video's other pairs.

    A cut is a mean change of 16x16 areas above CUT_CHANGE and above CUT_RATIO medians, with less than CUT_OVERLAP of
    the 512 colours' histogram in common.
    """
    if len(sample.frames) < 2:
        return missing(ALONE)
    change = np.abs(np.diff(thumbnail(sample.frames), axis=0)).mean(axis=1)
    bins = np.minimum((sample.frames * 8).astype(int), 7)
    colour = bins[:, 0] * 64 + bins[:, 1] * 8 + bins[:, 2]
    shares = np.stack([np.bincount(frame.ravel(), minlength=512) / frame.size for frame in colour])
    common = np.minimum(shares[1:], shares[:-1]).sum(axis=1)
    cut = (change > CUT_CHANGE) & (change > CUT_RATIO * np.median(change)) & (common < CUT_OVERLAP)
    return Score(float(cut.sum()))


def adjacent(features: Array) -> Array:
    """Cosines [time - 1] of neighbouring rows of features [time, dim], whose rows have length one."""
    return (features[1:] * features[:-1]).sum(axis=1)


def _frame_features(sample: Sample, least: int) -> Array | Score:
    """Rows of length one, at least `least` of them, or why there are none."""
    if sample.features is None:
        return missing("no backbone")
    return sample.features if len(sample.features) >= least else missing(f"fewer than {least} frames")


def consistency(sample: Sample) -> Score:
    """Mean cosine of neighbouring frames."""
    rows = _frame_features(sample, 2)
    return rows if isinstance(rows, Score) else Score(float(adjacent(rows).mean()))


def weakest_link(sample: Sample) -> Score:
    """Lowest cosine of two neighbouring frames: one vanishing or swapped object lowers it, a mean hides it."""
    rows = _frame_features(sample, 2)
    return rows if isinstance(rows, Score) else Score(float(adjacent(rows).min()))


def anchored(sample: Sample) -> Score:
    """Mean over frames of half the cosine to the one before and half that to the first, below 0 as 0.

    Source: VBench, subject consistency (with DINO) and background consistency (with CLIP).
    """
    rows = _frame_features(sample, 2)
    if isinstance(rows, Score):
        return rows
    first = rows[1:] @ rows[0]
    return Score(float((np.maximum(adjacent(rows), 0) + np.maximum(first, 0)).mean() / 2))


def order_sensitivity(sample: Sample) -> Score:
    """Consistency in the video's order minus its mean over shuffled orders: 0 says that the order did not matter."""
    rows = _frame_features(sample, 3)
    if isinstance(rows, Score):
        return rows
    num_frames = len(rows)
    similar = rows @ rows.T
    rng = numpy_generator(0, "eval/shuffle", num_frames)
    orders = np.array([rng.permutation(num_frames) for _ in range(NUM_SHUFFLES)])
    shuffled = similar[orders[:, 1:], orders[:, :-1]].mean()
    order = np.arange(num_frames)
    return Score(float(similar[order[1:], order[:-1]].mean() - shuffled))


def _of_pixels(
    name: str, judge: Callable[[Sample], Score], unit: str, higher: bool | None, blind_spots: str, most: float = 1.0
) -> Metric:
    return Metric(
        name=name,
        version="1",
        unit=unit,
        range=(0.0, most),
        higher_is_better=higher,
        needs=("frames",),
        blind_spots=blind_spots,
        per_video=judge,
    )


def _of_features(
    name: str, backbone: str, judge: Callable[[Sample], Score], higher: bool | None, blind_spots: str
) -> Metric:
    return Metric(
        name=name,
        version="1",
        unit="cosine",
        range=(-2.0, 2.0) if higher is None else (-1.0, 1.0),
        higher_is_better=higher,
        needs=("frames",),
        blind_spots=blind_spots,
        per_video=judge,
        backbone=backbone,
        preprocessing=f"{backbone} per frame",
    )


_STILL = "best for a frozen video; falls with motion"
FLICKER = _of_pixels("flicker", flicker, "1 - mean |frame difference|", True, _STILL)
FLICKER_VBENCH = _of_pixels(
    "vbench/temporal_flickering",
    flicker,
    "1 - mean |frame difference|",
    True,
    f"{_STILL}; VBench filters still videos and averages 25 and more of a prompt first",
)
MOTION = _of_pixels(
    "motion",
    motion,
    "share of frame pairs",
    None,
    "a guard, not a goal: noise and flicker move too, a static scene should not",
)
DUPLICATES = _of_pixels(
    "duplicate_frames", duplicates, "share of frame pairs", None, "a static scene repeats its frames rightly"
)
CUTS = _of_pixels("cuts", cuts, "cuts / video", False, "dissolves, and cuts between alike scenes", float("inf"))
_ORDER = "best for a frozen video; nearly blind to the order of frames"
CONSISTENCY, CONSISTENCY_CLIP = (
    _of_features(f"consistency[{backbone}]", backbone, consistency, True, _ORDER)
    for backbone in ("sandbox", "open_clip")
)
WEAKEST_LINK, WEAKEST_LINK_CLIP = (
    _of_features(f"weakest_link[{backbone}]", backbone, weakest_link, True, "best for a frozen video")
    for backbone in ("sandbox", "open_clip")
)
_CONTROL = "a control of consistency: 0 where order is not seen; jumps raise it, reversal does not change it"
ORDER_SENSITIVITY, ORDER_SENSITIVITY_CLIP = (
    _of_features(f"order_sensitivity[{backbone}]", backbone, order_sensitivity, None, _CONTROL)
    for backbone in ("sandbox", "open_clip")
)
SUBJECT = _of_features("subject_consistency[sandbox]", "sandbox", anchored, True, f"{_ORDER}; an object that leaves")
SUBJECT_VBENCH = _of_features("vbench/subject_consistency", "dino", anchored, True, _ORDER)
BACKGROUND_VBENCH = _of_features(
    "vbench/background_consistency", "open_clip", anchored, True, f"{_ORDER}; the whole frame, not its background"
)
