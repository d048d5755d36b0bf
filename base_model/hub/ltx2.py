"""LTX-2: a picture and its sound, denoised together by one network; rewards see the picture.

Sound is part of what is drawn, not of what is given: the picture attends to it at every step, so a step has a density
only over both. The latents are therefore the picture's frames and, behind them, the sound's tokens (`family.Sound`);
cells that are left over stay as they are, for their velocity is zero. Decoding makes the picture alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from base_model.hub.family import Answer, Given, Grid, Sound, encode_with, shifted_levels
from base_model.hub.ltx import decode_at
from base_model.protocol import Condition, VideoSize

if TYPE_CHECKING:
    from diffusers import LTX2ImageToVideoPipeline, LTX2Pipeline

MAX_TOKENS = 1024


@dataclass(frozen=True)
class LTX2:
    """See `base_model.hub.family.Family`."""

    pipeline: LTX2Pipeline | LTX2ImageToVideoPipeline
    title = "LTX-2"
    kind: Literal["flow", "vp"] = "flow"
    distilled = False
    answer: Answer = "velocity"
    given: Given = "token"
    text_parts = ("text_encoder", "connectors")
    exact_parts = ()
    fps: float = 24.0
    size: VideoSize = VideoSize(121, 512, 768)

    @property
    def channels(self) -> int:
        return int(self._config.in_channels)

    @property
    def grid(self) -> Grid:
        pipe = self.pipeline
        return Grid(pipe.vae_temporal_compression_ratio, pipe.vae_spatial_compression_ratio, 1, sound=self._sound)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.pipeline.transformer}

    def text(self, prompt: str) -> Condition:
        pipe = self.pipeline
        layers, mask, _, _ = pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS
        )
        seen, heard, mask = pipe.connectors(layers, mask, padding_side=pipe.tokenizer.padding_side)
        return {"text": seen, "sound_text": heard, "mask": mask}

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        tokens = self._pictures(cells) * cells[1] * cells[2]
        return shifted_levels(self.pipeline.scheduler.config, num_steps, tokens, (1024, 4096, 0.95, 2.05))

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        frames, (height, width) = self._pictures(latents.shape[2:]), latents.shape[3:]
        picture, behind = latents[:, :, :frames], latents[:, :, frames:]
        length = self._sound.length(self._num_frames(frames))
        numbers = behind.flatten(2).transpose(1, 2).flatten(1)  # cell by cell, as tokens are read
        used = length * self._sound.width
        seen_level, heard_level = timestep, timestep
        if timestep.dim() > 1:  # given cells: never the sound's
            seen_level, heard_level = timestep[:, :frames].flatten(1), timestep[:, -1, -1, -1]
        seen, heard = self.pipeline.transformer(
            hidden_states=picture.flatten(2).transpose(1, 2),
            audio_hidden_states=numbers[:, :used].unflatten(1, (length, -1)),
            encoder_hidden_states=condition["text"],
            audio_encoder_hidden_states=condition["sound_text"],
            timestep=seen_level,
            audio_timestep=heard_level,
            sigma=heard_level,
            encoder_attention_mask=condition["mask"],
            audio_encoder_attention_mask=condition["mask"],
            num_frames=frames,
            height=height,
            width=width,
            fps=self.fps,
            audio_num_frames=length,
            use_cross_timestep=not self._config.use_prompt_embeddings,  # since 2.3
            return_dict=False,
        )
        rest = torch.cat([heard.flatten(1), torch.zeros_like(numbers[:, used:])], 1)
        rest = rest.unflatten(1, (-1, self.channels)).transpose(1, 2).reshape(behind.shape)
        return torch.cat([seen.transpose(1, 2).reshape(picture.shape), rest], 2)

    def decode(self, latents: Tensor) -> Tensor:
        return decode_at(self.pipeline.vae, latents[:, :, : self._pictures(latents.shape[2:])], 0.0)

    def encode(self, video: Tensor) -> Tensor:
        """Of a clip without a soundtrack: its tokens are zero, their mean."""
        picture = encode_with(self.pipeline.vae, video)
        silence = self._sound.frames(video.shape[2], picture.shape[3] * picture.shape[4])
        return torch.cat([picture, picture.new_zeros(*picture.shape[:2], silence, *picture.shape[3:])], 2)

    @property
    def _config(self) -> Any:
        return self.pipeline.transformer.config

    @property
    def _sound(self) -> Sound:
        pipe = self.pipeline
        rate = pipe.audio_sampling_rate / pipe.audio_hop_length / pipe.audio_vae_temporal_compression_ratio
        return Sound(rate, self._config.audio_in_channels, self.fps, self.channels)

    def _num_frames(self, latent_frames: int) -> int:
        return (latent_frames - 1) * self.grid.time + 1

    def _pictures(self, cells: tuple[int, ...]) -> int:
        """Latent frames of picture among the `cells` [time, height, width] of both."""
        area = cells[1] * cells[2]
        return next(
            frames
            for frames in range(cells[0], 0, -1)
            if frames + self._sound.frames(self._num_frames(frames), area) == cells[0]
        )
