"""The causal codec with a finite bottleneck: VQ-VAE and FSQ behind the interface of the KL-VAE.

Outside, latents are what the encoder says before snapping, normalised, and `decode` snaps them first: what a diffusion
model draws need not lie on a code (Rombach et al. 2022, section 3.1, "VQ-reg."). `codes` and `decode_codes` are the
road for models of discrete tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from base_model.codec.quantize import FiniteScalarQuantizer, Snapped, VectorQuantizer
from base_model.codec.vae import CausalVideoVAE, Past
from core.video import from_signed, to_signed


class QuantizedVideoCodec(ModelMixin, ConfigMixin):
    """See the module's first lines.

    Args:
        quantizer: "vq" learns codebooks of `num_codes`, one for each of `num_groups`; "fsq" rounds every channel to
            `levels` values.
        latent_mean, latent_std: as `CausalVideoVAE` takes them; `trunk_options` holds its other options by name.
    """

    @register_to_config
    def __init__(
        self,
        quantizer: Literal["vq", "fsq"] = "fsq",
        num_codes: int = 512,
        num_groups: int = 4,
        levels: int = 8,
        trunk_options: dict[str, Any] | None = None,
        latent_mean: Sequence[Sequence[float]] | None = None,
        latent_std: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.trunk = CausalVideoVAE(**(trunk_options or {}), latent_mean=latent_mean, latent_std=latent_std)
        self.channels, self.t, self.s, self.reach = self.trunk.channels, self.trunk.t, self.trunk.s, self.trunk.reach
        self.bottleneck = (
            VectorQuantizer(self.channels, num_codes, num_groups)
            if quantizer == "vq"
            else FiniteScalarQuantizer([levels] * self.channels)
        )

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """As of `CausalVideoVAE`."""
        return self.trunk.latent_shape(num_frames, height, width)

    def encode_moments(self, signed: Tensor) -> tuple[Tensor, Tensor]:
        """As of `CausalVideoVAE`; the variance means nothing here."""
        return self.trunk.encode_moments(signed)

    def snap(self, raw: Tensor) -> Snapped:
        """Raw latents [B, C, T, H, W] to the nearest codes; `values` has the layout of `raw`, codes group last."""
        found = self.bottleneck(raw.movedim(1, -1))
        return Snapped(found.values.movedim(-1, 1), found.codes, found.loss)

    def encode(self, frames: Tensor, past: Past | None = None) -> Tensor:
        """Normalised latents before snapping."""
        return self.trunk.encode(frames, past)

    def decode(self, latents: Tensor, past: Past | None = None) -> Tensor:
        """Frames in [0, 1] of normalised latents, snapped to the nearest codes."""
        frames = from_signed(self.trunk.decode_raw(self.snap(self.trunk.raw(latents, past)).values, past))
        if past is not None:
            past.begun = True
        return frames.clamp(0.0, 1.0)

    def codes(self, frames: Tensor) -> Tensor:
        """Codes of frames in [0, 1], long [B, T, H, W, group]."""
        self.latent_shape(frames.shape[1], *frames.shape[3:])
        return self.snap(self.trunk.encode_moments(to_signed(frames))[0]).codes

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Frames in [0, 1] of codes [B, T, H, W, group]."""
        return from_signed(self.trunk.decode_raw(self.bottleneck.look_up(codes).movedim(-1, 1))).clamp(0.0, 1.0)

    def sample(self, signed: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """For training: reconstruction in [-1, 1] from the snapped latents, and the commitment loss."""
        found = self.snap(self.trunk.encode_moments(signed)[0])
        return self.trunk.decode_raw(found.values), found.loss
