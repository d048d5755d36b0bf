"""Mochi: noise levels counted from the clean end, so the network's velocity and time point the other way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from base_model.hub.family import Answer, Given, Grid, decode_with, encode_with
from base_model.protocol import Condition, VideoSize
from core.errors import UserError

if TYPE_CHECKING:
    from diffusers import MochiPipeline

THRESHOLD = 0.025
"""Noise that the first, linear half of the steps takes away; the second half is quadratic. From Mochi's own sampler."""


@dataclass(frozen=True)
class Mochi:
    """See `base_model.hub.family.Family`."""

    pipeline: MochiPipeline
    title = "Mochi"
    kind: Literal["flow", "vp"] = "flow"
    distilled = False
    answer: Answer = "velocity"
    given: Given = "noised"
    text_parts = ("text_encoder",)
    exact_parts = ()
    fps: float = 30.0
    size: VideoSize = VideoSize(85, 480, 848)

    @property
    def channels(self) -> int:
        return int(self._config.in_channels)

    @property
    def grid(self) -> Grid:
        pipe = self.pipeline
        return Grid(pipe.vae_temporal_scale_factor, pipe.vae_spatial_scale_factor, self._config.patch_size)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.pipeline.transformer}

    def text(self, prompt: str) -> Condition:
        embedded, mask, _, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=self._config.max_sequence_length
        )
        return {"text": embedded, "mask": mask}

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

        if num_steps < 2:
            raise UserError(f"{num_steps} denoising step: Mochi's schedule has two halves and needs 2 or more")
        return {"sigmas": linear_quadratic_schedule(num_steps, THRESHOLD)}

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        toward_clean = self.pipeline.transformer(
            hidden_states=latents,
            encoder_hidden_states=condition["text"],
            timestep=timestep,
            encoder_attention_mask=condition["mask"],
            return_dict=False,
        )[0]
        return -toward_clean

    def decode(self, latents: Tensor) -> Tensor:
        return decode_with(self.pipeline.vae, latents)

    def encode(self, video: Tensor) -> Tensor:
        return encode_with(self.pipeline.vae, video)

    @property
    def _config(self) -> Any:
        return self.pipeline.transformer.config
