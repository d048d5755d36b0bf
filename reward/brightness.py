"""The mean of all pixels. Useless as a taste and exact as a test: whatever optimises a reward must find white."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from reward.protocol import Scores, check


@dataclass(frozen=True)
class Brightness:
    """Mean pixel value in [0, 1]; its optimum is an all-white video, at 1."""

    name: str = "brightness"
    version: str = "1"
    unit: str = "mean pixel"
    range: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True
    differentiable: bool = True
    aspects: tuple[str, ...] = ()

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        check(frames, prompts)
        return Scores(frames.flatten(1).mean(1), {})
