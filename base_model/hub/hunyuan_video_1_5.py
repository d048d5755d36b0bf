"""HunyuanVideo 1.5, text or image to video: two text streams, given cells on channels of their own beside the latents.

The image model also looks at the first picture with SigLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from base_model.hub.family import Answer, Beside, Given, Grid, decode_with, eight_bits, encode_with
from base_model.protocol import Condition, VideoSize

if TYPE_CHECKING:
    from diffusers import HunyuanVideo15ImageToVideoPipeline, HunyuanVideo15Pipeline


@dataclass(frozen=True)
class HunyuanVideo15:
    """See `base_model.hub.family.Family`."""

    pipeline: HunyuanVideo15Pipeline | HunyuanVideo15ImageToVideoPipeline
    title = "HunyuanVideo 1.5"
    kind: Literal["flow", "vp"] = "flow"
    distilled = False
    answer: Answer = "velocity"
    given: Given = "shown"
    text_parts = ("text_encoder", "text_encoder_2")
    exact_parts = ()
    show_parts = ("image_encoder",)
    fps: float = 24.0
    size: VideoSize = VideoSize(121, 480, 848)

    @property
    def pictured(self) -> bool:
        return self.pipeline.transformer.config.task_type == "i2v"  # type: ignore[no-any-return]

    @property
    def channels(self) -> int:
        return int(self.pipeline.vae.config.latent_channels)

    @property
    def grid(self) -> Grid:
        pipe = self.pipeline
        return Grid(pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial, pipe.transformer.config.patch_size)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.pipeline.transformer}

    def text(self, prompt: str) -> Condition:
        names = ("text", "mask", "glyphs", "glyphs_mask")
        return dict(zip(names, self.pipeline.encode_prompt(prompt), strict=True))

    def show(self, known: Tensor, clean: Tensor, prompts: Sequence[str], beside: Beside) -> Condition:
        rows = {"shown": torch.cat([torch.where(known[:, None], clean, 0.0), known[:, None].to(clean)], 1)}
        if self.pictured:  # it looks at them
            encoder = self.pipeline.image_encoder
            pictures = cast(Tensor, beside.frames)[:, :, 0].expand(len(clean), -1, -1, -1)
            seen = self.pipeline.feature_extractor([*eight_bits(pictures)], return_tensors="pt")
            seen = seen.to(encoder.device, encoder.dtype)
            rows["picture"] = encoder(**seen).last_hidden_state
        return rows

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 0.0, num_steps + 1)[:-1]}

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        width = self.pipeline.transformer.config.image_embed_dim
        no_picture = latents.new_zeros(len(latents), self.pipeline.vision_num_semantic_tokens, width)
        return self.pipeline.transformer(
            hidden_states=torch.cat([latents, condition["shown"]], 1),
            timestep=timestep,
            encoder_hidden_states=condition["text"],
            encoder_attention_mask=condition["mask"],
            encoder_hidden_states_2=condition["glyphs"],
            encoder_attention_mask_2=condition["glyphs_mask"],
            image_embeds=condition.get("picture", no_picture),
            return_dict=False,
        )[0]

    def decode(self, latents: Tensor) -> Tensor:
        return decode_with(self.pipeline.vae, latents)

    def encode(self, video: Tensor) -> Tensor:
        return encode_with(self.pipeline.vae, video)
