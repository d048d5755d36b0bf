"""Does the video look like its prompt, by a CLIP trained on the sandbox? Raw cosine, not Hessel's 2.5 x scale.

Frames are pooled before the comparison, so the order of frames is invisible here; attributes and physics see it.
"""

from __future__ import annotations

import numpy as np

from eval.protocol import Metric, Sample, Score, missing


def score(sample: Sample) -> Score:
    """Cosine of the mean frame embedding and the prompt's embedding, in [-1, 1]. Source: Hessel et al. 2021, eq. 1."""
    if not sample.prompt:
        return missing("the video has no prompt")
    if sample.features is None or sample.text is None:
        return missing("no backbone")
    pooled = sample.features.mean(axis=0)
    return Score(float(pooled @ sample.text / np.linalg.norm(pooled)))


SANDBOX = Metric(
    name="clip_sim[sandbox]",
    version="1",
    unit="cosine",
    range=(-1.0, 1.0),
    higher_is_better=True,
    needs=("frames", "prompt", "backbone"),
    blind_spots="order of frames, speed, anything the CLIP was not trained to tell",
    per_video=score,
    preprocessing="sandbox CLIP per frame, mean over frames, cosine with the prompt",
)
