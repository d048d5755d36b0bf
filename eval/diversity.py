"""How different are the videos of one prompt? The number that falls first when a reward is over-optimised.

A video's value is its mean distance to the other seeds of its prompt; the mean over videos is then the mean pairwise
distance. Noise and defects are diverse too: read it beside a quality metric.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.protocol import Member, Metric, Score, missing


def spread(members: Sequence[Member]) -> list[Score]:
    """Mean distance of each video's features [time, dim] to its siblings', rms over time and dimensions."""
    videos = [member.features for member in members]
    if len(videos) < 2:
        return [missing("the prompt has one video; generate several seeds a prompt")] * len(videos)
    length = min(len(video) for video in videos)
    if len({video.shape[1] for video in videos}) > 1:
        return [missing("the videos of the prompt differ in size")] * len(videos)
    stacked = np.stack([video[:length].ravel() for video in videos])
    gaps = np.sqrt(((stacked[:, None] - stacked[None]) ** 2).mean(axis=2))
    return [Score(float(row.sum() / (len(videos) - 1))) for row in gaps]


PIXELS = Metric(
    name="diversity",
    version="1",
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
    version="1",
    unit="rms feature difference",
    range=(0.0, 2.0),
    higher_is_better=True,
    needs=("frames", "siblings"),
    blind_spots="defects are diverse too; the CLIP is trained to ignore what a caption does not say",
    per_group=spread,
    backbone="sandbox",
    preprocessing="sandbox CLIP per frame",
)
