"""Real videos spoilt on purpose: a metric that likes one of them better than the real ones is flagged, not hidden.

Per-video metrics are compared clip by clip. Set metrics measure half of the reference, spoilt or not, against the other
half, so that the real-vs-real split shows what "no difference" looks like at this size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from core.randomness import numpy_generator
from core.stats import paired_difference
from eval.protocol import Frames, Metric
from eval.result import SetFeatures
from eval.set_interval import jackknife, parts_for

NOISE = 0.1  # standard deviation, of the pixel range
BLUR = 1.5  # standard deviation, px


def frozen(frames: Frames, rng: np.random.Generator) -> Frames:
    return np.repeat(frames[:1], len(frames), axis=0)


def shuffled(frames: Frames, rng: np.random.Generator) -> Frames:
    return frames[rng.permutation(len(frames))]


def reversed_(frames: Frames, rng: np.random.Generator) -> Frames:
    return frames[::-1].copy()


def noise(frames: Frames, rng: np.random.Generator) -> Frames:
    return np.clip(frames + NOISE * rng.standard_normal(frames.shape), 0, 1).astype(np.float32)


def blur(frames: Frames, rng: np.random.Generator) -> Frames:
    return ndimage.gaussian_filter(frames, (0, 0, BLUR, BLUR), mode="nearest").astype(np.float32)


CONTROLS: dict[str, Callable[[Frames, np.random.Generator], Frames]] = {
    "frozen": frozen,
    "shuffled": shuffled,
    "reversed": reversed_,
    "noise": noise,
    "blur": blur,
}


def spoil(frames: Frames, name: str, index: int) -> Frames:
    """Control `name` of clip number `index`; the same every time."""
    return CONTROLS[name](frames, numpy_generator(0, f"eval/control/{name}", index))


@dataclass(frozen=True)
class Control:
    """One kind of clips, "real" or spoilt: values of each per-video metric [n], and set features by their kind.

    The reference of the set features is the other half of the real videos.
    """

    values: Mapping[str, Sequence[float]]
    features: Mapping[str, SetFeatures]


def table(metrics: Sequence[Metric], kinds: Mapping[str, Control]) -> dict[str, dict[str, float | list[str] | None]]:
    """Per metric its value on real clips and on each control, and the controls it ranks above real.

    Args:
        kinds: "real" and the controls, of the same clips in the same order.
    """
    rows: dict[str, dict[str, float | list[str] | None]] = {}
    for metric in metrics:
        row: dict[str, float | list[str] | None] = {}
        flagged = []
        real = kinds["real"]
        for kind, control in kinds.items():
            if metric.per_set is not None:
                value = _set_value(metric, control)
                better = kind != "real" and value is not None and _is_nearer(metric, real, control)
            elif metric.per_video is not None:
                value = _mean(control.values[metric.name])
                better = kind != "real" and _prefers(metric, real.values[metric.name], control.values[metric.name])
            else:
                continue
            row[kind] = value
            if better:
                flagged.append(kind)
        if row:
            rows[metric.name] = row | {"flagged": flagged}
    return rows


def _set_value(metric: Metric, control: Control) -> float | None:
    features = control.features.get(metric.kind)
    if features is None or features.reference is None or metric.per_set is None:
        return None
    if features.num_videos < 2 or len(features.reference) < 2:
        return None
    value = metric.per_set(features.vectors, features.reference)
    return value if np.isfinite(value) else None


def _is_nearer(metric: Metric, real: Control, control: Control) -> bool:
    """Is the control better than the real clips against the rest of the reference, beyond chance?"""
    one, other, distance = real.features[metric.kind], control.features[metric.kind], metric.per_set
    assert distance is not None and one.reference is not None
    rest, sign = one.reference, -1 if metric.higher_is_better else 1

    def gap(kept: NDArray[np.int_]) -> float:
        return sign * (distance(other.vectors[kept], rest) - distance(one.vectors[kept], rest))

    return jackknife(gap, one.ids, parts_for(rest.shape[1])).high < 0


def _mean(values: Sequence[float]) -> float | None:
    finite = np.asarray(values)[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _prefers(metric: Metric, real: Sequence[float], control: Sequence[float]) -> bool:
    """Does the metric rank the control above real, beyond chance?"""
    if metric.higher_is_better is None or not np.isfinite(np.asarray(real) - np.asarray(control)).any():
        return False
    gain = paired_difference(real, control)
    low, high = (gain.low, gain.high) if metric.higher_is_better else (-gain.high, -gain.low)
    return bool(low > 0 and high > 1e-9)
