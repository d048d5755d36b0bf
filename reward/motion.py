"""How much changes from frame to frame. A guard and a test: a frozen video scores 0, frames that jump between black and
white score 1. It says nothing about whether the motion is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from reward.protocol import Scores, check


@dataclass(frozen=True)
class Motion:
    """Mean absolute difference of neighbouring frames, in [0, 1]; NaN for a video of one frame."""

    name: str = "motion"
    version: str = "1"
    unit: str = "mean |frame difference|"
    range: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True
    differentiable: bool = True
    aspects: tuple[str, ...] = ()

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        check(frames, prompts)
        return Scores((frames[:, 1:] - frames[:, :-1]).abs().flatten(1).mean(1), {})
