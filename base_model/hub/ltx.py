"""LTX-Video: packed tokens, a shift of the schedule that grows with the clip, a codec that may denoise a last time.

The weights since 0.9.5 come with another pipeline (`LTXConditionPipeline`): fixed noise levels, twice the text, and
tokens placed where their frames begin in the clip. There a keyframe is a single frame, on clean tokens of its own that
lie at its moment among those of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from base_model.hub.family import Answer, Beside, Given, Grid, Scaling, encode_with, shifted_levels
from base_model.protocol import Condition, VideoSize

if TYPE_CHECKING:
    from diffusers import LTXConditionPipeline, LTXImageToVideoPipeline, LTXPipeline

DECODE_LEVEL = 0.05
"""Noise level that decoders with `timestep_conditioning` are told, the one of the model's card. The noise itself is
left out: frames must be a function of the latents, or a reward would differ from one decode to the next."""


@dataclass(frozen=True)
class LTX:
    """See `base_model.hub.family.Family`."""

    pipeline: LTXPipeline | LTXImageToVideoPipeline | LTXConditionPipeline
    title = "LTX-Video"
    kind: Literal["flow", "vp"] = "flow"
    distilled = False
    answer: Answer = "velocity"
    given: Given = "token"
    text_parts = ("text_encoder",)
    exact_parts = ()
    fps: float = 25.0
    size: VideoSize = VideoSize(161, 512, 704)

    @property
    def channels(self) -> int:
        return int(self.pipeline.transformer.config.in_channels)

    @property
    def grid(self) -> Grid:
        pipe = self.pipeline
        return Grid(
            pipe.vae_temporal_compression_ratio,
            pipe.vae_spatial_compression_ratio,
            1,
            keyframes="anywhere" if self._later else "nowhere",
        )

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.pipeline.transformer}

    def text(self, prompt: str) -> Condition:
        embedded, mask, _, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=256 if self._later else 128
        )
        return {"text": embedded, "mask": mask}

    def show(self, known: Tensor, clean: Tensor, prompts: Sequence[str], beside: Beside) -> Condition:
        """Keyframes as latents [batch, channels, number, rows, columns], and the frames they lie at."""
        pictures = [self.encode(picture[:, :, None]) for picture in beside.keyframes.values()]
        rows = {
            "keyframes": torch.cat(pictures, 2),
            "moments": torch.tensor([[*beside.keyframes]], device=clean.device),
        }
        return {name: value.expand(len(known), *value.shape[1:]) for name, value in rows.items()}

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        if self._later:
            from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule

            return {"timesteps": (linear_quadratic_schedule(num_steps) * 1000).numpy()}
        tokens = cells[0] * cells[1] * cells[2]
        return shifted_levels(self.pipeline.scheduler.config, num_steps, tokens, (256, 4096, 0.5, 1.15))

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        told = timestep if timestep.dim() == 1 else timestep.flatten(1)
        tokens, places = _packed(latents), self._places(latents)
        count = 0
        if "keyframes" in condition:
            keyframes = _packed(condition["keyframes"])
            count = keyframes.shape[1]
            tokens = torch.cat([keyframes, tokens], 1)
            told = torch.cat([told.new_zeros(len(told), count), told], 1)
            beside = [self._coordinates(latents[:, :, :1], frame) for frame in condition["moments"][0].tolist()]
            places = {"video_coords": torch.cat([*beside, places["video_coords"]], 2)}
        packed = self.pipeline.transformer(
            hidden_states=tokens,
            encoder_hidden_states=condition["text"],
            timestep=told,
            encoder_attention_mask=condition["mask"],
            return_dict=False,
            **places,
        )[0]
        return packed[:, count:].transpose(1, 2).reshape(latents.shape)

    def decode(self, latents: Tensor) -> Tensor:
        return decode_at(self.pipeline.vae, latents, DECODE_LEVEL)

    def encode(self, video: Tensor) -> Tensor:
        return encode_with(self.pipeline.vae, video)

    def _places(self, latents: Tensor) -> dict[str, Any]:
        """Arguments that tell the network where its tokens lie."""
        if self._later:
            return {"video_coords": self._coordinates(latents, 0)}
        frames, height, width = latents.shape[2:]
        scale = (self.grid.time / self.fps, self.grid.side, self.grid.side)
        return {"num_frames": frames, "height": height, "width": width, "rope_interpolation_scale": scale}

    def _coordinates(self, latents: Tensor, begin: int) -> Tensor:
        """Seconds and pixels [1, 3, tokens] of latents whose first frame is frame `begin` of the clip."""
        cells = self.pipeline._prepare_video_ids(1, *latents.shape[2:], device=latents.device)
        places = self.pipeline._scale_video_ids(cells, self.grid.side, self.grid.time, begin).float()
        places[:, 0] *= 1.0 / self.fps
        return places

    @property
    def _later(self) -> bool:
        return type(self.pipeline).__name__ == "LTXConditionPipeline"


def _packed(latents: Tensor) -> Tensor:
    """Tokens [batch, tokens, channels]: over time, then rows, then columns."""
    return latents.flatten(2).transpose(1, 2)


def decode_at(vae: Any, latents: Tensor, level: float) -> Tensor:
    """Through a codec that may be told what noise is left in the latents."""
    told = torch.full((len(latents),), level, device=latents.device, dtype=vae.dtype)
    asked = told if vae.config.timestep_conditioning else None
    return vae.decode(Scaling.of(vae).to_codec(latents).to(vae.dtype), asked, return_dict=False)[0]
