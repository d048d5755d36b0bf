"""Physics-IQ (Motamed et al. 2025): does motion happen where, when and as much as in the real video of the same scene?

For sets with a paired reference: the real video of the same prompt and seed (or of the same id). Motion is a change
against the running mean of the past; its masks are compared, not the pixels, except by `mse`. Masks of small videos are
brittle: noise of a codec alone costs a third of the overlap at 64 pixels. Left out: the one Physics-IQ score, which
needs a second real take of every scene.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from core.video import to_uint8
from eval.protocol import Frames, Metric, Sample, Score, missing

Masks = NDArray[np.bool_]
MEMORY = 0.3  # weight of the newest frame in the running mean
THRESHOLD = 10.0  # grey levels of 255
KERNEL = np.ones((5, 5), dtype=np.uint8)
SHRINK = 4  # masks are compared at a quarter of the size, where the frame is large enough


def moving(frames: Frames) -> Masks:
    """Where something moves, [time, height, width], of frames [time, 3, height, width] in [0, 1]."""
    grey = [
        cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (5, 5), 0).astype(np.float32)
        for image in to_uint8(frames)
    ]
    mean, masks = grey[0], []
    for image in grey:
        mask = (np.abs(image - mean) > THRESHOLD).astype(np.uint8)
        masks.append(cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, KERNEL), cv2.MORPH_CLOSE, KERNEL))
        mean = (1 - MEMORY) * mean + MEMORY * image
    height, width = grey[0].shape
    if min(height, width) >= 64 * SHRINK:
        size = (width // SHRINK, height // SHRINK)
        masks = [(cv2.resize(mask * 255, size, interpolation=cv2.INTER_AREA) > 127).astype(np.uint8) for mask in masks]
    return np.stack(masks).astype(bool)


def spatial(one: Masks, other: Masks) -> float:
    """Overlap / union of where something ever moves."""
    return _overlap(np.asarray(one.any(axis=0)), np.asarray(other.any(axis=0)))


def spatiotemporal(one: Masks, other: Masks) -> float:
    """Overlap / union frame by frame, mean; two still frames agree."""
    return float(np.mean([_overlap(a, b) for a, b in zip(one, other, strict=True)]))


def weighted(one: Masks, other: Masks) -> float:
    """Overlap / union of how long something moves at each place."""
    a, b = one.mean(axis=0), other.mean(axis=0)
    union = np.maximum(a, b).sum()
    return float(np.minimum(a, b).sum() / union) if union > 0 else 1.0


def _overlap(a: Masks, b: Masks) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def _paired(sample: Sample) -> tuple[Frames, Frames] | Score:
    """The video and its real partner over their common length, or why they cannot be compared."""
    if sample.real is None:
        return missing("the reference has no video of this prompt and seed")
    if sample.real.shape[2:] != sample.frames.shape[2:]:
        sizes = [f"{clip.shape[3]}x{clip.shape[2]}" for clip in (sample.frames, sample.real)]
        return missing(f"the video is {sizes[0]}, the real one {sizes[1]}")
    length = min(len(sample.frames), len(sample.real))
    return (sample.frames[:length], sample.real[:length]) if length > 1 else missing("one frame has no motion")


def of_masks(compare: Callable[[Masks, Masks], float]) -> Callable[[Sample], Score]:
    """A score of the two videos' motion."""

    def score(sample: Sample) -> Score:
        pair = _paired(sample)
        return pair if isinstance(pair, Score) else Score(compare(moving(pair[0]), moving(pair[1])))

    return score


def mse(sample: Sample) -> Score:
    """Mean squared difference of pixels in [0, 1]."""
    pair = _paired(sample)
    return pair if isinstance(pair, Score) else Score(float(((pair[0] - pair[1]) ** 2).mean(dtype=np.float64)))


def _metric(name: str, judge: Callable[[Sample], Score], unit: str, higher: bool, blind_spots: str) -> Metric:
    return Metric(
        name=f"physics_iq/{name}",
        version="1",
        unit=unit,
        range=(0.0, 1.0),
        higher_is_better=higher,
        needs=("frames", "reference", "paired"),
        blind_spots=blind_spots,
        per_video=judge,
        preprocessing="common length of video and real partner; motion against a running mean, 10 of 255 grey levels",
    )


SPATIAL = _metric("spatial", of_masks(spatial), "overlap / union", True, "when and how much")
SPATIOTEMPORAL = _metric("spatiotemporal", of_masks(spatiotemporal), "overlap / union", True, "strict about timing")
WEIGHTED = _metric("weighted", of_masks(weighted), "overlap / union", True, "order of frames")
MSE = _metric("mse", mse, "squared pixel difference", False, "mostly the still background")
