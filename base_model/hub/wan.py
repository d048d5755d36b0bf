"""Wan 2.1 and 2.2, text or image to video: one expert, two (A14B), or a noise level per token (TI2V-5B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from base_model.hub.family import Answer, Given, Grid, decode_with, encode_with, first_picture, shown
from base_model.protocol import Condition, VideoSize

if TYPE_CHECKING:
    from diffusers import WanImageToVideoPipeline, WanPipeline

MAX_TOKENS = 512
"""Of a prompt, as Wan was trained; diffusers' `encode_prompt` alone would take 226."""


@dataclass(frozen=True)
class Wan:
    """See `base_model.hub.family.Family`."""

    pipeline: WanPipeline | WanImageToVideoPipeline
    title = "Wan"
    kind: Literal["flow", "vp"] = "flow"
    distilled = False
    answer: Answer = "velocity"
    text_parts = ("text_encoder",)
    show_parts = ("image_encoder",)

    @property
    def given(self) -> Given:
        if self.pipeline.config.expand_timesteps:
            return "token"
        return "shown" if self._config.in_channels > self.channels else "noised"

    @property
    def fps(self) -> float:
        return 24.0 if self.given == "token" else 16.0

    @property
    def size(self) -> VideoSize:
        return VideoSize(121, 704, 1280) if self.given == "token" else VideoSize(81, 480, 832)

    @property
    def channels(self) -> int:
        return int(self._config.out_channels)

    @property
    def grid(self) -> Grid:
        pipe = self.pipeline
        return Grid(pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial, self._config.patch_size[1])

    @property
    def networks(self) -> dict[str, nn.Module]:
        both = {"transformer": self.pipeline.transformer, "transformer_2": self.pipeline.transformer_2}
        return {name: network for name, network in both.items() if network is not None}

    def text(self, prompt: str) -> Condition:
        embedded, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS
        )
        return {"text": embedded}

    def show(self, known: Tensor, clean: Tensor, prompts: Sequence[str]) -> Condition:
        """As image to video was trained: the first picture and grey after it through the codec, a mask per frame."""
        time = self.grid.time
        picture = self.decode(clean[:, :, :1])
        grey = picture.new_zeros(*picture.shape[:2], (clean.shape[2] - 1) * time, *picture.shape[3:])
        around = self.encode(torch.cat([picture, grey], 2)).to(clean)
        mask = known[:, None].expand(-1, time, -1, -1, -1).to(clean)
        rows = {"shown": torch.cat([mask, torch.where(known[:, None], clean, around)], 1)}
        if self._config.image_dim is not None:  # Wan 2.1 also looks at the picture with CLIP
            seen = self.pipeline.image_processor(images=list(first_picture(picture)), return_tensors="pt")
            encoder = self.pipeline.image_encoder
            seen = seen.to(encoder.device, encoder.dtype)
            rows["picture"] = encoder(**seen, output_hidden_states=True).hidden_states[-2]
        return rows

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        return {"num_inference_steps": num_steps}

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        if self.given == "token":  # a token is 1 x 2 x 2 cells, and its time is that of its first cell
            if timestep.dim() == 1:
                timestep = timestep.reshape(-1, 1, 1, 1).expand(-1, *latents.shape[2:])
            side = self.grid.patch
            timestep = timestep[:, :, ::side, ::side].flatten(1)
        rows = self._expert(timestep)
        if len(rows) == 1:
            return self._answer(next(iter(rows)), latents, timestep, condition)
        answer = torch.empty_like(latents)  # rows of both experts in one batch, as training has them
        for name, chosen in rows.items():
            part = {key: value[chosen] for key, value in condition.items()}
            answer[chosen] = self._answer(name, latents[chosen], timestep[chosen], part)
        return answer

    def decode(self, latents: Tensor) -> Tensor:
        return decode_with(self.pipeline.vae, latents)

    def encode(self, video: Tensor) -> Tensor:
        return encode_with(self.pipeline.vae, video)

    @property
    def _config(self) -> Any:
        return next(iter(self.networks.values())).config

    def _expert(self, timestep: Tensor) -> dict[str, Tensor]:
        """Rows (long) by the network that owns their noise level: the first above the boundary, the second below."""
        ratio = self.pipeline.config.boundary_ratio
        everyone = torch.arange(len(timestep), device=timestep.device)
        if ratio is None or len(self.networks) == 1:
            return {next(iter(self.networks)): everyone}
        high = timestep.reshape(len(timestep), -1)[:, 0] >= ratio * self.pipeline.scheduler.config.num_train_timesteps
        rows = {"transformer": everyone[high], "transformer_2": everyone[~high]}
        return {name: chosen for name, chosen in rows.items() if len(chosen)}

    def _answer(self, name: str, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        if self.given == "shown":
            latents = torch.cat([latents, shown(condition, self.title)], 1)
        return self.networks[name](
            latents,
            timestep,
            encoder_hidden_states=condition["text"],
            encoder_hidden_states_image=condition.get("picture"),
            return_dict=False,
        )[0]
