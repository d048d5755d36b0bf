"""How different are the videos of one prompt? The number that falls first when a reward is over-optimised.

A video's value is its mean distance to the other seeds of its prompt; the mean over videos is then the mean pairwise
distance. Noise and defects are diverse too: read it beside a quality metric.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from eval.protocol import Array, Member, Metric, Score, missing


def spread(members: Sequence[Member]) -> list[Score]:
    """Mean distance of each video to the other seeds of its prompt that have features of the same size."""
    if not members[0].prompt:
        return [missing("the video has no prompt, so no other is of the same one")] * len(members)
    gaps = np.full((len(members), len(members)), np.nan)
    for (i, one), (j, other) in itertools.combinations(enumerate(members), 2):
        gaps[i, j] = gaps[j, i] = distance(one.features, other.features)
    known = [row[np.isfinite(row)] for row in gaps]
    alone = missing("no other video of the prompt has its size; generate several seeds a prompt")
    return [Score(float(row.mean())) if len(row) else alone for row in known]


def distance(one: Array, other: Array) -> float:
    """Of features [time, dim] over the common length: rms over time and dimensions, NaN where dimensions differ."""
    if one.shape[1] != other.shape[1]:
        return math.nan
    length = min(len(one), len(other))
    return float(np.sqrt(((one[:length] - other[:length]) ** 2).mean()))


PIXELS = Metric(
    name="diversity",
    version="2",
    unit="rms pixel difference",
    range=(0.0, 1.0),
    higher_is_better=True,
    needs=("frames", "siblings"),
    blind_spots="defects are diverse too",
    per_group=spread,
    backbone="thumbnail",
    preprocessing="16x16 area means per frame",
)
SANDBOX = Metric(
    name="diversity[sandbox]",
    version="2",
    unit="rms feature difference",
    range=(0.0, 2.0),
    higher_is_better=True,
    needs=("frames", "siblings"),
    blind_spots="defects are diverse too; the CLIP is trained to ignore what a caption does not say",
    per_group=spread,
    backbone="sandbox",
    preprocessing="sandbox CLIP per frame",
)
