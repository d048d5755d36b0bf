"""LTX-Video: packed tokens, a shift of the schedule that grows with the clip, a codec that may denoise a last time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from base_model.hub.family import Answer, Given, Grid, Scaling, encode_with, shifted_levels
from base_model.protocol import Condition, VideoSize

if TYPE_CHECKING:
    from diffusers import LTXImageToVideoPipeline, LTXPipeline

MAX_TOKENS = 128
DECODE_LEVEL = 0.05
"""Noise level that decoders with `timestep_conditioning` are told, the one of the model's card. The noise itself is
left out: frames must be a function of the latents, or a reward would differ from one decode to the next."""


@dataclass(frozen=True)
class LTX:
    """See `base_model.hub.family.Family`."""

    pipeline: LTXPipeline | LTXImageToVideoPipeline
    title = "LTX-Video"
    kind: Literal["flow", "vp"] = "flow"
    distilled = False
    answer: Answer = "velocity"
    given: Given = "token"
    text_parts = ("text_encoder",)
    fps: float = 25.0
    size: VideoSize = VideoSize(161, 512, 704)

    @property
    def channels(self) -> int:
        return int(self.pipeline.transformer.config.in_channels)

    @property
    def grid(self) -> Grid:
        pipe = self.pipeline
        return Grid(pipe.vae_temporal_compression_ratio, pipe.vae_spatial_compression_ratio, 1)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.pipeline.transformer}

    def text(self, prompt: str) -> Condition:
        embedded, mask, _, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS
        )
        return {"text": embedded, "mask": mask}

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        tokens = cells[0] * cells[1] * cells[2]
        return shifted_levels(self.pipeline.scheduler.config, num_steps, tokens, (256, 4096, 0.5, 1.15))

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        _, _, frames, height, width = latents.shape
        time, side = self.grid.time, self.grid.side
        packed = self.pipeline.transformer(
            hidden_states=latents.flatten(2).transpose(1, 2),  # tokens run over time, then rows, then columns
            encoder_hidden_states=condition["text"],
            timestep=timestep if timestep.dim() == 1 else timestep.flatten(1),
            encoder_attention_mask=condition["mask"],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(time / self.fps, side, side),
            return_dict=False,
        )[0]
        return packed.transpose(1, 2).reshape(latents.shape)

    def decode(self, latents: Tensor) -> Tensor:
        return decode_at(self.pipeline.vae, latents, DECODE_LEVEL)

    def encode(self, video: Tensor) -> Tensor:
        return encode_with(self.pipeline.vae, video)


def decode_at(vae: Any, latents: Tensor, level: float) -> Tensor:
    """Through a codec that may be told what noise is left in the latents."""
    told = torch.full((len(latents),), level, device=latents.device, dtype=vae.dtype)
    asked = told if vae.config.timestep_conditioning else None
    return vae.decode(Scaling.of(vae).to_codec(latents).to(vae.dtype), asked, return_dict=False)[0]
