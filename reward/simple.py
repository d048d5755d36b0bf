"""Rewards that are one formula over pixels: no weights, exact answers. Guards, controls and tests rather than tastes.

Each is blind to the prompt. The motion of a video says nothing about whether the motion is right; its brightness is
useless and exact: whatever optimises it must find white.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reward.protocol import Scores, check

SIDE = 64  # pixels that the sandbox's reader needs, at least


@dataclass(frozen=True)
class Formula:
    """A Reward whose score is `formula` of frames and prompts, [batch], and nothing else."""

    name: str
    unit: str
    formula: Callable[[Tensor, Sequence[str]], Tensor]
    range: tuple[float, float] = (0.0, 1.0)
    version: str = "1"
    higher_is_better: bool = True
    differentiable: bool = True
    aspects: tuple[str, ...] = ()

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        check(frames, prompts)
        return Scores(self.formula(frames, prompts), {})


def brightness() -> Formula:
    """Mean pixel value in [0, 1]; its optimum is an all-white video, at 1."""
    return Formula("brightness", "mean pixel", lambda frames, prompts: frames.flatten(1).mean(1))


def motion() -> Formula:
    """Mean absolute difference of neighbouring frames, in [0, 1]; NaN for a video of one frame. A frozen video scores
    0, frames that jump between black and white score 1."""
    return Formula(
        "motion", "mean |frame difference|", lambda frames, prompts: frames.diff(dim=1).abs().flatten(1).mean(1)
    )


def flicker() -> Formula:
    """Mean absolute second difference over time, halved, in [0, 1]; less is better. Even motion of a smooth thing
    scores little, light that comes and goes in every frame scores 1 at full contrast. NaN below three frames."""
    return Formula(
        "flicker",
        "mean |second frame difference| / 2",
        lambda frames, prompts: frames.diff(n=2, dim=1).abs().flatten(1).mean(1) / 2,
        higher_is_better=False,
    )


def compressibility() -> Formula:
    """Minus the mean size of a frame as a JPEG of quality 95, in kilobytes: the classic reward of DDPO (Black et al.
    2023, section 5.1), whose optimum is a picture of one colour."""

    def size(frames: Tensor, prompts: Sequence[str]) -> Tensor:
        total = []
        for clip in frames.detach().cpu():
            fine = bool(torch.isfinite(clip).all())
            total.append(-sum(map(_kilobytes, clip)) / len(clip) if fine else math.nan)
        return torch.tensor(total, device=frames.device)

    unit = "kB of JPEG per frame, negative"
    return Formula("compressibility", unit, size, (-math.inf, 0.0), "1 jpeg 95", differentiable=False)


def _kilobytes(image: Tensor) -> float:
    """Size of a JPEG of quality 95 of image [3, height, width] in [0, 1]."""
    from PIL import Image

    pixels = (image.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG", quality=95)
    return buffer.tell() / 1000


def physics() -> Formula:
    """Do the things of a sandbox video move as its prompt's family must? In [0, 1], read by the sandbox's reader.

    The same probes judge in `soralign eval`: a run that optimises them cannot be judged by them. NaN for a prompt that
    is not of the sandbox and for frames smaller than its 64 pixels.
    """
    from base_model.world.caption import parse
    from reward.physics import quality

    def grade(frames: Tensor, prompts: Sequence[str]) -> Tensor:
        total = []
        for clip, text in zip(frames.detach().float().cpu().numpy(), prompts, strict=True):
            known = min(clip.shape[-2:]) >= SIDE and parse(text) is not None and bool(np.isfinite(clip).all())
            total.append(quality(clip, text) if known else math.nan)
        return torch.tensor(total, device=frames.device)

    return Formula("physics", "mean grade of the probes", grade, differentiable=False)
