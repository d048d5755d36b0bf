"""CLIP score: the cosine between a video and its prompt. Differentiable, and blind to the order of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from base_model.text import SandboxClip, load_clip
from reward.protocol import Scores, check, evenly_spaced, only_finite, weights_sha256

NUM_IMAGES = 5  # of 17 frames; the mean over five is as good, at a third of the time


@dataclass(frozen=True)
class ClipScore:
    """Cosine of the prompt with the mean embedding of a few evenly spaced frames, in [-1, 1]."""

    clip: SandboxClip
    name: str = "clip"
    version: str = field(init=False)
    unit: str = "cosine"
    range: tuple[float, float] = (-1.0, 1.0)
    higher_is_better: bool = True
    differentiable: bool = True
    aspects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", f"1 {NUM_IMAGES} frames {weights_sha256(self.clip)[:12]}")

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        check(frames, prompts)
        images = frames[:, evenly_spaced(frames.shape[1], NUM_IMAGES).unique()]
        return Scores(only_finite(self.clip.score(images, prompts), frames), {})


def shipped() -> ClipScore:
    """With the CLIP of base_model/weights."""
    return ClipScore(load_clip())
