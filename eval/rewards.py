"""Any reward as a metric: `reward[clip]`, `reward[FOLDER]`. For win rates, best-of-N curves and over-optimisation.

A reward that a model was trained on is no judge of that model; the name says which one it is, the reader must know.
"""

from __future__ import annotations

import math

import numpy as np

from eval.protocol import Metric, Sample, Score, missing


def metric(name: str) -> Metric:
    """The score of a reward by its name or folder.

    Raises: UserError when there is no such reward.
    """
    import reward

    judge = reward.load(name)

    def score(sample: Sample) -> Score:
        import torch

        with torch.inference_mode():
            frames = torch.from_numpy(np.ascontiguousarray(sample.frames))[None]
            total = float(judge(frames, [sample.prompt]).total[0])
        return Score(total) if math.isfinite(total) else missing("the reward gave no finite score")

    return Metric(
        name=f"reward[{name}]",
        version=f"{judge.name} {judge.version}",
        unit=judge.unit,
        range=judge.range,
        higher_is_better=judge.higher_is_better,
        needs=("frames", "prompt"),
        blind_spots="no judge of a model that was trained on it",
        per_video=score,
    )
