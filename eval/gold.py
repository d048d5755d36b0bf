"""The sandbox's gold utility per video: the judge that no reward model was allowed to see.

`soralign compare` makes gold_win_rate of it. It exists for sandbox prompts only, where the truth is known.
"""

from __future__ import annotations

from eval.protocol import Metric, Sample, Score, missing
from reward.annotators import utility


def score(sample: Sample) -> Score:
    """Overall gold utility in [0, 1]."""
    if sample.spec is None:
        return missing("the prompt is not a sandbox prompt" if sample.prompt else "the video has no prompt")
    if sample.observation is None:
        return missing(sample.unreadable)
    return Score(utility(sample.observation, sample.spec, sample.probes)["overall"])


GOLD = Metric(
    name="gold",
    version="2",
    unit="utility",
    range=(0.0, 1.0),
    higher_is_better=True,
    needs=("frames", "scene"),
    blind_spots="what the reader cannot read; taste that is not text match, lawful motion or clean picture",
    per_video=score,
    failure=0.0,
)
