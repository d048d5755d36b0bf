"""HunyuanVideo, text or image to video: guidance distilled into the network, two text encoders.

The image models read prompt and picture together (Llava), so their first text encoder stays. They begin with one
picture: in the place of the first latent frame ("token_replace") or on 17 channels beside all ("latent_concat", which
drops the first four frames of what it makes; here they are kept, and the given one is put back).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from base_model.hub.family import Answer, Beside, Given, Grid, decode_with, eight_bits, encode_with
from base_model.protocol import Condition, VideoSize, cat
from core.errors import UserError

if TYPE_CHECKING:
    from diffusers import HunyuanVideoImageToVideoPipeline, HunyuanVideoPipeline


@dataclass(frozen=True)
class HunyuanVideo:
    """See `base_model.hub.family.Family`."""

    pipeline: HunyuanVideoPipeline | HunyuanVideoImageToVideoPipeline
    title = "HunyuanVideo"
    kind: Literal["flow", "vp"] = "flow"
    answer: Answer = "velocity"
    show_parts = ("text_encoder",)
    exact_parts = ()
    pictured = True
    fps: float = 24.0
    size: VideoSize = VideoSize(129, 720, 1280)

    @property
    def given(self) -> Given:
        return "shown" if self._pictured else "noised"

    @property
    def text_parts(self) -> tuple[str, ...]:
        return ("text_encoder_2",) if self._pictured else ("text_encoder", "text_encoder_2")

    @property
    def distilled(self) -> bool:
        return bool(self._config.guidance_embeds)

    @property
    def channels(self) -> int:
        return int(self._config.out_channels)

    @property
    def grid(self) -> Grid:
        pipe = self.pipeline
        return Grid(pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial, self._config.patch_size)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.pipeline.transformer}

    def text(self, prompt: str) -> Condition:
        beside: dict[str, Any] = {}
        if self._pictured:  # a black picture, as beside the prompt that guidance leads away from
            beside = {"image": torch.zeros(3, 16, 16, dtype=torch.uint8), "image_embed_interleave": self._every}
        embedded, pooled, mask = self.pipeline.encode_prompt(prompt=prompt, **beside)
        return {"text": embedded, "pooled": pooled, "mask": mask}

    def show(self, known: Tensor, clean: Tensor, prompts: Sequence[str], beside: Beside) -> Condition:
        """Raises: UserError where the first picture is not given whole."""
        if not known[:, 0].all():
            raise UserError(f"{self.title} image to video takes a whole first picture and no part of one")
        rows = []
        pictures = cast(Tensor, beside.frames)[:, :, 0].expand(len(clean), -1, -1, -1)
        for prompt, picture in zip(prompts, eight_bits(pictures), strict=True):
            embedded, _, mask = self.pipeline.encode_prompt(
                picture, prompt, pooled_prompt_embeds=clean.new_empty(0), image_embed_interleave=self._every
            )
            rows.append({"text": embedded, "mask": mask})
        if self._pictured == "token_replace":
            seen = clean[:, :, :1]
        else:
            seen = torch.cat([torch.where(known[:, None], clean, 0.0), known[:, None].to(clean)], 1)
        return {"shown": seen, **cat(rows)}

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 0.0, num_steps + 1)[:-1]}

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        told = torch.full((len(latents),), guidance * 1000.0, device=latents.device, dtype=latents.dtype)
        if self._pictured == "token_replace":
            latents = torch.cat([condition["shown"], latents[:, :, 1:]], 2)
        elif self._pictured:
            latents = torch.cat([latents, condition["shown"]], 1)
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

    @property
    def _every(self) -> int:
        """One of so many of the picture's tokens is kept, as each model was trained."""
        return 4 if self._pictured == "token_replace" else 2

    @property
    def _pictured(self) -> str | None:
        return self._config.image_condition_type  # type: ignore[no-any-return]

    @property
    def _config(self) -> Any:
        return self.pipeline.transformer.config
