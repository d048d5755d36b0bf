"""SANA-Video, text or image to video: linear attention, and prompts that are read behind an instruction to enrich them.

One network does both: a given first frame is a clean one, at a noise level of its own per token.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from base_model.hub.family import Answer, Given, Grid, decode_with, encode_with
from base_model.protocol import Condition, VideoSize

if TYPE_CHECKING:
    from diffusers import SanaImageToVideoPipeline, SanaVideoPipeline


@dataclass(frozen=True)
class SanaVideo:
    """See `base_model.hub.family.Family`."""

    pipeline: SanaVideoPipeline | SanaImageToVideoPipeline
    title = "SANA-Video"
    kind: Literal["flow", "vp"] = "flow"
    distilled = False
    answer: Answer = "velocity"
    given: Given = "token"
    text_parts = ("text_encoder",)
    exact_parts = ("vae",)
    fps: float = 16.0
    size: VideoSize = VideoSize(81, 480, 832)

    @property
    def channels(self) -> int:
        return int(self._config.in_channels)

    @property
    def grid(self) -> Grid:
        pipe = self.pipeline
        return Grid(pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial, self._config.patch_size[1])

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.pipeline.transformer}

    def text(self, prompt: str) -> Condition:
        # The instruction stands in the signature of the pipeline's call. The empty prompt, which guidance leads away
        # from, is read without it.
        own = inspect.signature(self.pipeline.__call__).parameters["complex_human_instruction"].default
        embedded, mask, _, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, complex_human_instruction=own if prompt else None
        )
        return {"text": embedded, "mask": mask}

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        return {"num_inference_steps": num_steps}

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        side = self.grid.patch
        answer = self.pipeline.transformer(
            latents,
            encoder_hidden_states=condition["text"],
            encoder_attention_mask=condition["mask"],
            timestep=timestep if timestep.dim() == 1 else timestep[:, :, ::side, ::side],
            return_dict=False,
        )[0]
        return answer[:, : self.channels]  # some answer with a variance as well

    def decode(self, latents: Tensor) -> Tensor:
        return decode_with(self.pipeline.vae, latents)

    def encode(self, video: Tensor) -> Tensor:
        return encode_with(self.pipeline.vae, video)

    @property
    def _config(self) -> Any:
        return self.pipeline.transformer.config
