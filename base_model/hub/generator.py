"""`HubGenerator`: any family behind the `Generator` protocol.

Here is what all families share: prompts encoded once and remembered, classifier-free guidance as two forwards (a batch
of twice the size would double the memory of activations), every network's answer as a velocity, given cells, precision,
and moving the codec to where the latents are. Text is encoded one prompt at a time: some pipelines pad, crop or blank a
row by what else is in the batch (Latte, Mochi).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from base_model.flow import Schedule
from base_model.hub import noise
from base_model.hub.family import NOTHING, Beside, Experts, Family, Shown, usual
from base_model.protocol import Condition, VideoSize, cat
from base_model.sampler import Sampling
from core.errors import UserError

_GIVEN = ("known", "clean")


@dataclass
class HubGenerator:
    """See `base_model.protocol.Generator`.

    device, dtype: of the denoiser. park: codec and text encoders wait in CPU memory between their uses. team: see
        `parallel.py`. guidance_2: of the second expert; None = as the first.
    """

    model: Family
    name: str
    size: VideoSize
    device: torch.device
    dtype: torch.dtype
    park: bool = False
    team: int = 1
    guidance_2: float | None = None
    fps: float = field(init=False)
    usual: Sampling = field(init=False)
    family: Literal["flow", "vp"] = field(init=False)
    _network: nn.Module = field(init=False, repr=False)
    _rows: dict[str, Condition] = field(default_factory=dict, repr=False)
    _schedules: dict[int, Schedule] = field(default_factory=dict, repr=False)
    _nothing: dict[torch.Size, Condition] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.fps, self.family, self.usual = self.model.fps, self.model.kind, usual(self.model.pipeline)
        networks = self.model.networks
        self._network = next(iter(networks.values())) if len(networks) == 1 else nn.ModuleDict(networks)
        self.latent_shape(self.size)

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Raises: UserError for a prompt that is new after `release_text_encoders`."""
        self.remember(prompts)
        row = cat([self._rows[prompt] for prompt in prompts])
        return {name: value.to(self._place) for name, value in row.items()}

    def unconditional(self, batch: int) -> Condition:
        row = self.encode_prompts([""])
        return {name: value.expand(batch, *value.shape[1:]) for name, value in row.items()}

    def remember(self, prompts: Sequence[str]) -> None:
        """Encode those of `prompts` that were not encoded before; their rows wait in CPU memory."""
        fresh = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._rows]
        if not fresh:
            return
        parts = [getattr(self.model.pipeline, name) for name in self.model.text_parts]
        if None in parts:
            raise UserError(
                f"prompt '{fresh[0]}' was not encoded before the text encoder was released; name it among the prompts "
                "that the model is loaded with"
            )
        with torch.no_grad(), self._visiting([*parts, *self._lookers], self.device):
            for prompt in fresh:
                self._rows[prompt] = {name: value.cpu() for name, value in self.model.text(prompt).items()}

    def release_text_encoders(self, prompts: Sequence[str]) -> None:
        """Encode `prompts` and the empty one, then let go of the text encoders, which are often the largest part."""
        self.remember(["", *prompts])
        for name in self.model.text_parts:
            setattr(self.model.pipeline, name, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def latent_shape(self, size: VideoSize) -> tuple[int, ...]:
        return (self.model.channels, *self.model.grid.cells(size, self.model.title))

    def schedule(self, num_steps: int) -> Schedule:
        """For clips of `size`: some families shift their noise levels with the number of latent cells."""
        if num_steps < 1:
            raise UserError(f"{num_steps} denoising steps: a schedule needs 1 or more")
        if num_steps not in self._schedules:
            time, height, width = self.latent_shape(self.size)[1:]
            arguments = self.model.levels(num_steps, (time, height, width))
            schedule = noise.schedule(self.model.pipeline.scheduler, self.family, arguments)
            if not schedule.sigma.isfinite().all():  # stretched to a last level, as LTX's, a single step divides by 0
                raise UserError(f"{num_steps} denoising steps: the schedule of {self.model.title} needs 2 or more")
            self._schedules[num_steps] = schedule
        return self._schedules[num_steps]

    def predict(
        self,
        latents: Tensor,
        step: Tensor,
        schedule: Schedule,
        condition: Condition,
        unconditional: Condition | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        sigma = schedule.at(step)[0]
        answer = self._answer(latents, sigma, condition, guidance)
        if unconditional is not None and guidance != 1.0 and not self.model.distilled:
            without = self._answer(latents, sigma, condition | unconditional, guidance)
            answer = without + self._scale(sigma, guidance) * (answer - without)
        level = sigma.reshape(-1, 1, 1, 1, 1)
        alpha, level = (1.0 - level**2).clamp(min=0).sqrt().to(answer), level.to(answer)
        if self.model.answer == "noise":
            answer = (answer - level * latents) / alpha
        if "known" not in condition:
            return answer
        kept = latents if self.family == "flow" else alpha * latents
        return torch.where(condition["known"][:, None], (kept - condition["clean"]) / level, answer)

    def decode(self, latents: Tensor) -> Tensor:
        with self._visiting([self.model.pipeline.vae], latents.device):
            video = self.model.decode(latents)
        return (video.float().transpose(1, 2) / 2 + 0.5).clamp(0, 1)

    def encode(self, frames: Tensor) -> Tensor:
        with self._visiting([self.model.pipeline.vae], frames.device):
            return self.model.encode(frames.transpose(1, 2) * 2 - 1).float()

    @torch.no_grad()
    def shown(self, known: Tensor, clean: Tensor, prompts: Sequence[str], beside: Beside = NOTHING) -> Condition:
        """What the network must see of what is given: rows to join to a condition; see `Shown.show`.

        Args:
            beside: in [0, 1].
        Raises: UserError for a model of pictures without one to begin with.
        """
        if self.model.given != "shown" and not beside.keyframes:
            return {}
        if self.model.given == "shown" and cast(Shown, self.model).pictured and not known[:, 0].any():
            raise UserError(
                f"this {self.model.title} makes clips from a first picture only: give --image or a prompt file that "
                "names it, or use the text model"
            )
        frames, control = (
            None if clip is None else clip.to(clean.device) * 2 - 1 for clip in (beside.frames, beside.control)
        )
        pictures = {frame: picture.to(clean.device) * 2 - 1 for frame, picture in beside.keyframes.items()}
        with self._visiting([self.model.pipeline.vae, *self._lookers], clean.device):
            return cast(Shown, self.model).show(known, clean, prompts, Beside(frames, pictures, control))

    def refer(self, count: int) -> None:
        """Make room in the latents for `count` reference pictures; for families whose grid says that they take some."""
        self.model = replace(self.model, references=count)  # type: ignore[type-var]
        self._schedules.clear()
        self._nothing.clear()

    def policy_module(self) -> nn.Module:
        return self._network

    @property
    def _lookers(self) -> list[nn.Module]:
        """What looks at given pictures beside the codec; HunyuanVideo's reads the prompt too."""
        names = cast(Shown, self.model).show_parts if self.model.given == "shown" else ()
        return [part for name in names if (part := getattr(self.model.pipeline, name, None)) is not None]

    @property
    def _place(self) -> torch.device:
        """Where the denoiser is now: accelerate may have moved it."""
        place = next(self._network.parameters()).device
        return self.device if place.type == "meta" else place  # "meta": layers come from CPU memory one by one

    def _scale(self, sigma: Tensor, guidance: float) -> Tensor | float:
        """Guidance of every row, ready to multiply latents."""
        if self.guidance_2 is None:
            return guidance
        low = cast(Experts, self.model).is_low(noise.timestep(self.model.pipeline.scheduler, self.family, sigma))
        return torch.where(low, self.guidance_2, guidance).float().reshape(-1, 1, 1, 1, 1)

    def _answer(self, latents: Tensor, sigma: Tensor, condition: Condition, guidance: float) -> Tensor:
        """The network's answer, fp32."""
        told = noise.timestep(self.model.pipeline.scheduler, self.family, sigma)
        if self.model.given == "shown" and "shown" not in condition:
            condition = condition | self._nothing_shown(latents)
        seen = latents
        if "known" in condition and self.model.given == "token":
            known = condition["known"]
            seen = torch.where(known[:, None], condition["clean"].to(latents), latents)
            told = told.reshape(-1, 1, 1, 1) * ~known
        rows = {
            name: value.to(self.dtype) if value.is_floating_point() else value
            for name, value in condition.items()
            if name not in _GIVEN
        }
        return self.model.forward(seen.to(self.dtype), told, rows, guidance).float()

    def _nothing_shown(self, latents: Tensor) -> Condition:
        """What the network sees beside latents of which nothing is given. Raises: as `shown`."""
        if latents.shape[1:] not in self._nothing:
            one = torch.zeros_like(latents[:1])
            known = torch.zeros_like(one[:, 0], dtype=torch.bool)
            self._nothing[latents.shape[1:]] = self.shown(known, one, [""])
        row = self._nothing[latents.shape[1:]]
        return {name: value.expand(len(latents), *value.shape[1:]) for name, value in row.items()}

    @contextmanager
    def _visiting(self, parts: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
        """Inside, `parts` are on `device`. Afterwards they are parked if asked, but not while a gradient needs them."""
        for part in parts:
            if next(part.parameters()).device != device:
                part.to(device)
        yield
        if self.park and not torch.is_grad_enabled():
            for part in parts:
                part.to("cpu")
