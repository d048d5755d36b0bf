"""Wan 2.1 and 2.2, text or image to video: one expert, two (A14B), or a noise level per token (TI2V-5B).

VACE makes clips from what is given, from references and from control clips, which a branch of its network reads. Each
reference also has a latent frame in front of the clip, noisy at first as the clip is; the network was trained to make
it out of what the branch shows.

Image to video begins with a picture. Wan 2.1's first-and-last-frame model, and 2.2, also end with one where they are
given it: the last frame alone, its group of four is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from base_model.hub.family import Answer, Beside, Given, Grid, decode_with, eight_bits, encode_with
from base_model.protocol import Condition, VideoSize
from core.errors import UserError

if TYPE_CHECKING:
    from diffusers import WanImageToVideoPipeline, WanPipeline, WanVACEPipeline

MAX_TOKENS = 512
"""Of a prompt, as Wan was trained; diffusers' `encode_prompt` alone would take 226."""


@dataclass(frozen=True)
class Wan:
    """See `base_model.hub.family.Family`.

    references: see `Grid`. control_scale: of what VACE's branch adds to the network.
    """

    pipeline: WanPipeline | WanImageToVideoPipeline | WanVACEPipeline
    references: int = 0
    control_scale: float = 1.0
    title = "Wan"
    kind: Literal["flow", "vp"] = "flow"
    distilled = False
    answer: Answer = "velocity"
    text_parts = ("text_encoder",)
    show_parts = ("image_encoder",)
    exact_parts = ("vae", "image_encoder")

    @property
    def given(self) -> Given:
        if self.pipeline.config.get("expand_timesteps"):
            return "token"
        return "shown" if self._branch or self._config.in_channels > self.channels else "noised"

    @property
    def pictured(self) -> bool:
        return not self._branch

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
            keyframes="last" if self._ends else "nowhere",
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

    def show(self, known: Tensor, clean: Tensor, prompts: Sequence[str], beside: Beside) -> Condition:
        """As image to video was trained: the pictures and grey between them through the codec, a mask per frame.

        Raises: UserError where the first-and-last-frame model lacks the last frame.
        """
        if self._branch:
            return {"shown": self._control(known, clean, beside)}
        if self._config.pos_embed_seq_len is not None and not beside.keyframes:
            raise UserError(
                "this Wan makes clips from a first and a last frame: give --image and --end-image, or a prompt file "
                'that names both, as "keyframes": {"0": "a.png", "80": "b.png"} for 81 frames'
            )
        video = cast(Tensor, beside.frames).expand(len(clean), -1, -1, -1, -1).clone()
        video[:, :, 1:] = 0.0
        mask = known[:, None].repeat(1, self.grid.time, 1, 1, 1).to(clean)
        pictures = [video[:, :, 0]]
        for frame, last in beside.keyframes.items():
            video[:, :, frame] = last
            mask[:, -1, -1] = 1.0
            pictures.append(video[:, :, frame])
        around = self.encode(video).to(clean)
        rows = {"shown": torch.cat([mask, torch.where(known[:, None], clean, around)], 1)}
        if self._config.image_dim is not None:  # Wan 2.1 also looks at the pictures with CLIP
            images = [image for one in pictures for image in eight_bits(one)]
            seen = self.pipeline.image_processor(images=images, return_tensors="pt")
            encoder = self.pipeline.image_encoder
            seen = encoder(**seen.to(encoder.device, encoder.dtype), output_hidden_states=True).hidden_states[-2]
            rows["picture"] = seen.unflatten(0, (len(pictures), -1)).transpose(0, 1)
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

    @property
    def _ends(self) -> bool:
        """Whether it takes a last frame; Wan 2.1's plain image to video has no place for its CLIP embedding."""
        config = self._config
        taught = config.image_dim is None or config.pos_embed_seq_len is not None
        return self.given == "shown" and not self._branch and taught

    def _control(self, known: Tensor, clean: Tensor, beside: Beside) -> Tensor:
        """What VACE's branch reads: the given pixels on grey, what stands in the place of the others (the control clip,
        or grey), and where something is made. References are given, with nothing in the place of others.

        Args: clean: in the frames of references, their latents.
        """
        side, count, time = self.grid.side, self.references, self.grid.time
        group = (torch.arange((known.shape[1] - count - 1) * time + 1, device=known.device) + time - 1) // time
        pixels = known[:, count:].repeat_interleave(side, 2).repeat_interleave(side, 3)[:, group][:, None]
        grey = clean.new_zeros(len(clean), 3, *pixels.shape[2:])
        video = grey if beside.frames is None else beside.frames * pixels
        instead = grey if beside.control is None else beside.control * ~pixels
        seen, stands = (self.encode(one).to(clean) for one in (video, instead))
        seen[:, :, :count] = clean[:, :, :count]
        # As it was trained: latent frames spread evenly over the clip, each with the mask of its middle.
        cells = known.shape[1] - count
        middle = group[((torch.arange(cells, device=known.device) + 0.5) * len(group) / cells).long()]
        make = (~known[:, count:][:, middle]).to(clean)
        make = torch.cat([make.new_zeros(len(make), count, *make.shape[2:]), make], 1)
        return torch.cat([seen, stands, make[:, None].expand(-1, side**2, -1, -1, -1)], 1)

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
            beside["control_hidden_states"] = condition["shown"]
            beside["control_hidden_states_scale"] = latents.new_full(
                (len(self._config.vace_layers),), self.control_scale
            )
        elif self.given == "shown":
            latents = torch.cat([latents, condition["shown"]], 1)
        if "picture" in condition:  # rows of both pictures follow each other
            beside["encoder_hidden_states_image"] = condition["picture"].flatten(0, 1)
        return self.networks[name](
            latents,
            timestep,
            encoder_hidden_states=condition["text"],
            return_dict=False,
            **beside,
        )[0]
