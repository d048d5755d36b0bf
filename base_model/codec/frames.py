"""A frozen image codec, one frame at a time: the other road to video latents.

Time is not compressed, so any number of frames goes, and joining them over time is left to the transformer (tubelet
patches). The image codec is our own at one frame, or any diffusers AutoencoderKL.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from base_model.codec.vae import CausalVideoVAE, Past
from core.video import from_signed, to_signed

IMAGE_CODECS = {kind.__name__: kind for kind in (CausalVideoVAE, AutoencoderKL)}


class FrameCodec(ModelMixin, ConfigMixin):
    """Frames through an image codec whose weights stay as they are.

    Args:
        image_codec: "CausalVideoVAE" (its one-frame path) or diffusers' "AutoencoderKL"; `image_options` are its own.
    """

    t = 1

    @register_to_config
    def __init__(self, image_codec: str = "CausalVideoVAE", image_options: dict[str, Any] | None = None) -> None:
        super().__init__()
        image = IMAGE_CODECS[image_codec](**(image_options or {}))
        self.image = image.eval().requires_grad_(False)
        if isinstance(image, CausalVideoVAE):
            self.channels, self.s, self.reach = image.channels, image.s, image.reach
        else:  # its middle attends over the whole frame, so there is no reach that would make tiles exact
            depth = len(image.config.block_out_channels)
            self.channels, self.s, self.reach = image.config.latent_channels, 2 ** (depth - 1), 4

    @classmethod
    def of(cls, image: CausalVideoVAE | AutoencoderKL) -> FrameCodec:
        """Around a trained image codec."""
        options = {name: value for name, value in image.config.items() if not name.startswith("_")}
        codec = cls(type(image).__name__, options)
        codec.image.load_state_dict(image.state_dict())
        return codec

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(channels, time, height, width). Raises: ValueError where a side is off the grid."""
        if height % self.s or width % self.s or min(num_frames, height, width) < 1:
            raise ValueError(
                f"{num_frames} frames of {height}x{width} do not fit the codec: sides must be multiples of {self.s}"
            )
        return self.channels, num_frames, height // self.s, width // self.s

    def encode(self, frames: Tensor, past: Past | None = None) -> Tensor:
        """Latents [B, C, time, H, W]; pieces of a video are independent, `past` is not looked at."""
        self.latent_shape(frames.shape[1], *frames.shape[3:])
        images = frames.flatten(0, 1)
        if isinstance(self.image, CausalVideoVAE):
            latents = self.image.encode(images[:, None])[:, :, 0]
        else:
            latents = self.image.encode(to_signed(images)).latent_dist.mode() * self.image.config.scaling_factor
        return latents.unflatten(0, frames.shape[:2]).transpose(1, 2)

    def decode(self, latents: Tensor, past: Past | None = None) -> Tensor:
        """Frames in [0, 1]."""
        b, _, time = latents.shape[:3]
        images = latents.transpose(1, 2).flatten(0, 1)
        if isinstance(self.image, CausalVideoVAE):
            frames = self.image.decode(images[:, :, None])[:, 0]
        else:
            frames = from_signed(self.image.decode(images / self.image.config.scaling_factor).sample).clamp(0.0, 1.0)
        return frames.unflatten(0, (b, time))

    def sample(self, signed: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Reconstruction in [-1, 1]; the bottleneck adds nothing, it is frozen."""
        return to_signed(self.decode(self.encode(from_signed(signed)))), torch.zeros(())
