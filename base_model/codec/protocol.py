"""What the transformer, the sampler and the pretraining may ask of any codec, continuous, quantised or per frame."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from base_model.codec.vae import Past


class Codec(Protocol):
    """Pixels to a small latent grid and back.

    `channels` of the latents; `t` and `s` are pixels per latent cell along time and along each side; `reach` is how
    many cells to each side in space a cell depends on.
    """

    channels: int
    t: int
    s: int

    @property
    def reach(self) -> int: ...

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(channels, time, height, width) of a video's latents. Raises: ValueError where the video is off the grid."""
        ...

    def encode(self, frames: Tensor, past: Past | None = None) -> Tensor:
        """Normalised latents [B, C, T, H, W] of frames [B, time, 3, height, width] in [0, 1], or of a next piece."""
        ...

    def decode(self, latents: Tensor, past: Past | None = None) -> Tensor:
        """Frames in [0, 1] of normalised latents."""
        ...

    def sample(self, signed: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """For training: reconstruction in [-1, 1], and what the bottleneck adds to the loss."""
        ...
