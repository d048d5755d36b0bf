"""HunyuanVideo: guidance distilled into the network, two text encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from base_model.hub.family import Answer, Given, Grid, decode_with, encode_with
from base_model.protocol import Condition, VideoSize

if TYPE_CHECKING:
    from diffusers import HunyuanVideoPipeline


@dataclass(frozen=True)
class HunyuanVideo:
    """See `base_model.hub.family.Family`."""

    pipeline: HunyuanVideoPipeline
    title = "HunyuanVideo"
    kind: Literal["flow", "vp"] = "flow"
    answer: Answer = "velocity"
    given: Given = "noised"
    text_parts = ("text_encoder", "text_encoder_2")
    fps: float = 24.0
    size: VideoSize = VideoSize(129, 720, 1280)

    @property
    def distilled(self) -> bool:
        return bool(self.pipeline.transformer.config.guidance_embeds)

    @property
    def channels(self) -> int:
        return int(self.pipeline.transformer.config.in_channels)

    @property
    def grid(self) -> Grid:
        pipe = self.pipeline
        return Grid(pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial, pipe.transformer.config.patch_size)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.pipeline.transformer}

    def text(self, prompt: str) -> Condition:
        embedded, pooled, mask = self.pipeline.encode_prompt(prompt)
        return {"text": embedded, "pooled": pooled, "mask": mask}

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 0.0, num_steps + 1)[:-1]}

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        told = torch.full((len(latents),), guidance * 1000.0, device=latents.device, dtype=latents.dtype)
        return self.pipeline.transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=condition["text"],
            encoder_attention_mask=condition["mask"],
            pooled_projections=condition["pooled"],
            guidance=told if self.distilled else None,
            return_dict=False,
        )[0]

    def decode(self, latents: Tensor) -> Tensor:
        return decode_with(self.pipeline.vae, latents)

    def encode(self, video: Tensor) -> Tensor:
        return encode_with(self.pipeline.vae, video)
