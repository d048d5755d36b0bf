"""CogVideoX 2B, 5B and 1.5, text or image to video: variance-preserving noise, latents frame-first in the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from base_model.hub.family import Answer, Beside, Given, Grid, decode_with, encode_with
from base_model.protocol import Condition, VideoSize

if TYPE_CHECKING:
    from diffusers import CogVideoXPipeline


@dataclass(frozen=True)
class CogVideoX:
    """See `base_model.hub.family.Family`."""

    pipeline: CogVideoXPipeline
    title = "CogVideoX"
    kind: Literal["flow", "vp"] = "vp"
    distilled = False
    text_parts = ("text_encoder",)
    exact_parts = ()
    show_parts = ()
    pictured = True

    @property
    def given(self) -> Given:
        return "shown" if self._config.in_channels > self.channels else "noised"

    @property
    def answer(self) -> Answer:
        return "v" if self.pipeline.scheduler.config.prediction_type == "v_prediction" else "noise"

    @property
    def fps(self) -> float:
        return 16.0 if self.grid.patch_time > 1 else 8.0

    @property
    def size(self) -> VideoSize:
        if self._config.patch_size_t:  # the sides in 1.5's configuration are how far its positions reach
            return VideoSize(81, 768, 1360)
        return self._sample

    @property
    def channels(self) -> int:
        return int(self.pipeline.vae.config.latent_channels)

    @property
    def grid(self) -> Grid:
        pipe, config, own = self.pipeline, self._config, self._sample
        learned = config.use_learned_positional_embeddings  # as in 5B image to video: there are no others
        return Grid(
            pipe.vae_scale_factor_temporal,
            pipe.vae_scale_factor_spatial,
            config.patch_size,
            config.patch_size_t or 1,
            frames=own.num_frames if learned else None,
            sides=(own.height, own.width) if learned else None,
        )

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"transformer": self.pipeline.transformer}

    def text(self, prompt: str) -> Condition:
        embedded, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=self._config.max_text_seq_length
        )
        return {"text": embedded}

    def show(self, known: Tensor, clean: Tensor, prompts: Sequence[str], beside: Beside) -> Condition:
        factor = self.pipeline.vae.config.scaling_factor
        if self.pipeline.vae.config.invert_scale_latents:  # 1.5 was trained on pictures that were divided by it
            clean = clean / factor**2
        seen = torch.where(known[:, None], clean, 0.0)
        seen[:, :, 1 : 1 + self.grid.padding] = 0.0  # the first picture was shown in front only, without its copies
        return {"shown": seen}

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        return {"num_inference_steps": num_steps}

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        frames, height, width = latents.shape[2:]
        side, rotary = self.grid.side, None
        if self._config.use_rotary_positional_embeddings:
            rotary = self.pipeline._prepare_rotary_positional_embeddings(
                height * side, width * side, frames, latents.device
            )
        seen, level = latents, None
        if self.given == "shown":
            seen = torch.cat([latents, condition["shown"]], 1)
            level = latents.new_full((1,), 2.0) if self._config.ofs_embed_dim else None
        answer = self.pipeline.transformer(
            hidden_states=seen.transpose(1, 2),
            ofs=level,
            encoder_hidden_states=condition["text"],
            timestep=timestep,
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
        return answer.transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        return decode_with(self.pipeline.vae, latents[:, :, self.grid.padding :])

    def encode(self, video: Tensor) -> Tensor:
        latents = encode_with(self.pipeline.vae, video)
        return torch.cat([latents[:, :, : self.grid.padding], latents], 2)

    @property
    def _sample(self) -> VideoSize:
        """Of the clips in the network's configuration."""
        config, side = self._config, self.pipeline.vae_scale_factor_spatial
        return VideoSize(config.sample_frames, config.sample_height * side, config.sample_width * side)

    @property
    def _config(self) -> Any:
        return self.pipeline.transformer.config
