"""Wan 2.1 and 2.2, text or image to video: one expert, two (A14B), or a noise level per token (TI2V-5B).

VACE makes clips from what is given and from references, which a branch of its network reads. Each reference also has a
latent frame in front of the clip, noisy at first as the clip is; the network was trained to make it out of what the
branch shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from base_model.hub.family import Answer, Given, Grid, decode_with, encode_with, first_picture, shown
from base_model.protocol import Condition, VideoSize

if TYPE_CHECKING:
    from diffusers import WanImageToVideoPipeline, WanPipeline, WanVACEPipeline

MAX_TOKENS = 512
"""Of a prompt, as Wan was trained; diffusers' `encode_prompt` alone would take 226."""


@dataclass(frozen=True)
class Wan:
    """See `base_model.hub.family.Family`."""

    pipeline: WanPipeline | WanImageToVideoPipeline | WanVACEPipeline
    references: int = 0
    title = "Wan"
    kind: Literal["flow", "vp"] = "flow"
    distilled = False
    answer: Answer = "velocity"
    text_parts = ("text_encoder",)
    show_parts = ("image_encoder",)

    @property
    def given(self) -> Given:
        if self.pipeline.config.get("expand_timesteps"):
            return "token"
        return "shown" if self._branch or self._config.in_channels > self.channels else "noised"

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
        return Grid(
            pipe.vae_scale_factor_temporal,
            pipe.vae_scale_factor_spatial,
            self._config.patch_size[1],
            references=self.references if self._branch else None,
        )

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
        if self._branch:
            return {"shown": self._control(known, clean)}
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

    def is_low(self, timestep: Tensor) -> Tensor:
        """See `base_model.hub.family.Experts`."""
        boundary = self.pipeline.config.boundary_ratio * self.pipeline.scheduler.config.num_train_timesteps
        return timestep.reshape(len(timestep), -1)[:, 0] < boundary

    def decode(self, latents: Tensor) -> Tensor:
        return decode_with(self.pipeline.vae, latents[:, :, self.references :])

    def encode(self, video: Tensor) -> Tensor:
        """In the frames of references, which are not known here, zeros: their mean."""
        latents = encode_with(self.pipeline.vae, video)
        return torch.cat([latents.new_zeros(*latents.shape[:2], self.references, *latents.shape[3:]), latents], 2)

    @property
    def _branch(self) -> bool:
        """Whether it is a VACE."""
        return "vace_layers" in self._config

    def _control(self, known: Tensor, clean: Tensor) -> Tensor:
        """What VACE's branch reads: the given pixels on grey, what stands in the place of the others (grey), and where
        something is made. References are given, with nothing in the place of others.

        Args: clean: in the frames of references, their latents.
        """
        side, count, time = self.grid.side, self.references, self.grid.time
        video = self.decode(clean)
        group = (torch.arange(video.shape[2], device=known.device) + time - 1) // time
        pixels = known[:, count:].repeat_interleave(side, 2).repeat_interleave(side, 3)[:, group]
        seen, grey = (self.encode(one).to(clean) for one in (video * pixels[:, None], torch.zeros_like(video)))
        seen[:, :, :count] = clean[:, :, :count]
        # As it was trained: latent frames spread evenly over the clip, each with the mask of its middle.
        cells = known.shape[1] - count
        middle = group[((torch.arange(cells, device=known.device) + 0.5) * len(group) / cells).long()]
        make = (~known[:, count:][:, middle]).to(clean)
        make = torch.cat([make.new_zeros(len(make), count, *make.shape[2:]), make], 1)
        return torch.cat([seen, grey, make[:, None].expand(-1, side**2, -1, -1, -1)], 1)

    @property
    def _config(self) -> Any:
        return next(iter(self.networks.values())).config

    def _expert(self, timestep: Tensor) -> dict[str, Tensor]:
        """Rows (long) by the network that owns their noise level: the first above the boundary, the second below."""
        everyone = torch.arange(len(timestep), device=timestep.device)
        if self.pipeline.config.boundary_ratio is None or len(self.networks) == 1:
            return {next(iter(self.networks)): everyone}
        low = self.is_low(timestep)
        rows = {"transformer": everyone[~low], "transformer_2": everyone[low]}
        return {name: chosen for name, chosen in rows.items() if len(chosen)}

    def _answer(self, name: str, latents: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        beside: dict[str, Tensor] = {}
        if self._branch:
            beside["control_hidden_states"] = shown(condition, self.title)
        elif self.given == "shown":
            latents = torch.cat([latents, shown(condition, self.title)], 1)
        return self.networks[name](
            latents,
            timestep,
            encoder_hidden_states=condition["text"],
            encoder_hidden_states_image=condition.get("picture"),
            return_dict=False,
            **beside,
        )[0]
