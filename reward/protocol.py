"""What a reward is: videos and prompts in, one score per video out, with its parts and its fine print.

A reward never sees files, seeds or model names. A score that cannot be computed is NaN, and whoever uses it leaves that
video out; nothing here replaces it by a number that looks like one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Scores:
    """Judgement of a batch: `total` [batch] and named `parts`, each [batch]. All in the unit of the reward."""

    total: Tensor
    parts: dict[str, Tensor]


class Reward(Protocol):
    """Anything that judges videos.

    name, version: together they say whether two numbers compare.
    unit, range: of `Scores.total`; range is (lowest, highest), infinite where it has no end.
    differentiable: whether `total` carries a gradient to `frames`.
    aspects: the keys of `Scores.parts`.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def range(self) -> tuple[float, float]: ...
    @property
    def higher_is_better(self) -> bool: ...
    @property
    def differentiable(self) -> bool: ...
    @property
    def aspects(self) -> tuple[str, ...]: ...

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        """Judge frames [batch, time, 3, height, width] in [0, 1], one prompt each.

        Raises: ValueError when the shapes do not fit, by `check`.
        """
        ...


def check(frames: Tensor, prompts: Sequence[str]) -> None:
    """Raises: ValueError unless frames are [batch, time >= 1, 3, height, width] floats with one prompt per video."""
    if frames.ndim != 5 or frames.shape[2] != 3 or frames.shape[1] == 0 or not frames.is_floating_point():
        raise ValueError(
            f"frames must be float [batch, time, 3, height, width], seen {frames.dtype} {tuple(frames.shape)}"
        )
    if len(frames) != len(prompts):
        raise ValueError(f"{len(frames)} videos but {len(prompts)} prompts; one prompt per video is needed")


def only_finite(values: Tensor, frames: Tensor) -> Tensor:
    """`values` [batch], NaN for the videos in which some pixel is not a number."""
    bad = ~torch.isfinite(frames.detach().flatten(1).sum(1))
    return values.masked_fill(bad.to(values.device), torch.nan)


def weights_sha256(module: nn.Module) -> str:
    """Names and bytes of all weights in one hash: equal exactly when two models score alike."""
    digest = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def evenly_spaced(num_frames: int, count: int) -> Tensor:
    """Indices of `count` frames from first to last; a shorter video repeats some, one of `count` frames is kept."""
    return torch.linspace(0, num_frames - 1, count).round().long()
