"""What differs from one family of hub models to the next, and the arithmetic several of them share.

A family is one frozen dataclass around a loaded diffusers pipeline. It knows its text encoders, one forward, its codec
and its clip sizes; guidance, noise levels, given cells, precision and placement are `generator.py`'s, once for all.
Latents are [batch, channels, time, height, width] in every family: packing and transposing stay inside the forward.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from base_model.protocol import Condition, VideoSize
from base_model.sampler import Sampling
from core.errors import UserError

Answer = Literal["velocity", "noise", "v"]
"""What a network is trained to say: noise - clean (flow), the noise (vp), or alpha noise - sigma clean (vp)."""

Given = Literal["noised", "token", "shown"]
"""How given cells reach the network: with the noise of their level, as all others (any network can); clean, at a noise
level of their own (a timestep per token); or beside the latents, as `Shown.show` prepares them."""


@dataclass(frozen=True)
class Beside:
    """Pixels that clips are made from, for what looks at them itself or is no whole latent frame of theirs.

    frames: a clip [1 or batch, 3, time, height, width] that holds what is given; the rest of it does not count.
    keyframes: pictures [1 or batch, 3, height, width] at single frames of the clip, where `Grid.alone` takes them.
    control: a video [1 or batch, 3, time, height, width], as poses or depths, that says what is made frame by frame.
    """

    frames: Tensor | None = None
    keyframes: Mapping[int, Tensor] = field(default_factory=dict)
    control: Tensor | None = None


NOTHING = Beside()


@dataclass(frozen=True)
class Sound:
    """Sound that is denoised beside the picture, as tokens in latent frames behind the picture's.

    tokens_per_second: `width` numbers each. fps: frames of video per second. channels: of the latents.
    """

    tokens_per_second: float
    width: int
    fps: float
    channels: int

    def length(self, num_frames: int) -> int:
        """Tokens of a clip of so many frames of video."""
        return round(num_frames / self.fps * self.tokens_per_second)

    def frames(self, num_frames: int, area: int) -> int:
        """Latent frames of `area` cells that hold them; the cells left over in the last one hold nothing."""
        return -(-self.length(num_frames) * self.width // (area * self.channels))


@dataclass(frozen=True)
class Grid:
    """Clip sizes a family can make, and the latent cells they have.

    time: frames per latent frame; above 1 the first frame has a latent frame of its own, so frames are time * k + 1.
    side: pixels per latent cell. patch: latent cells per token, along height and width.
    patch_time: latent frames per token; the latents are padded to a multiple of it, at the front.
    frames, sides: the only number of frames, and the only height and width in pixels, for models whose positions are
        fixed.
    references: pictures that are no frames of the clip, a latent frame each in front of it, which is drawn like the
        others; None for models that take none, and no control clip.
    keyframes: where a picture can be given as a single frame; elsewhere it lasts as long as its group.
    sound: what the latents hold behind the picture, for models that make both.
    """

    time: int
    side: int
    patch: int
    patch_time: int = 1
    frames: int | None = None
    sides: tuple[int, int] | None = None
    references: int | None = None
    keyframes: Literal["nowhere", "last", "anywhere"] = "nowhere"
    sound: Sound | None = None

    @property
    def padding(self) -> int:
        """Latent frames in front that hold no frame of the clip."""
        return self.patch_time - 1 + (self.references or 0)

    def alone(self, frame: int, num_frames: int) -> bool:
        """Whether a picture at `frame` is given by itself, without its group; the first frame is its own group."""
        return frame > 0 and (self.keyframes == "anywhere" or self.keyframes == "last" and frame == num_frames - 1)

    def cells(self, size: VideoSize, family: str) -> tuple[int, int, int]:
        """Latent (time, height, width) of a clip. Raises: UserError for a size the family cannot make."""
        if self.frames is not None and size.num_frames != self.frames:
            raise UserError(f"{size.num_frames} frames: {family} makes clips of exactly {self.frames} frames")
        if self.sides is not None and (size.height, size.width) != self.sides:
            height, width = self.sides
            raise UserError(f"{size.height}x{size.width}: this {family} makes clips of exactly {height}x{width} pixels")
        step = self.time * self.patch_time
        if size.num_frames < 1 or (step > 1 and size.num_frames % step != 1):
            below = max(1, (size.num_frames - 1) // step * step + 1)
            raise UserError(
                f"{size.num_frames} frames: {family} makes clips of {step}k + 1 frames; "
                f"{below} and {below + step} are the nearest"
            )
        unit = self.side * self.patch
        if min(size.height, size.width) < unit or size.height % unit or size.width % unit:
            near = [max(unit, round(side / unit) * unit) for side in (size.height, size.width)]
            raise UserError(
                f"{size.height}x{size.width} is off the grid of {family}: height and width must be multiples of "
                f"{unit}; {near[0]}x{near[1]} is the nearest"
            )
        height, width = size.height // self.side, size.width // self.side
        behind = self.sound.frames(size.num_frames, height * width) if self.sound else 0
        return self.padding + (size.num_frames - 1) // self.time + 1 + behind, height, width


class Family(Protocol):
    """One pipeline class of diffusers, as `HubGenerator` asks it.

    kind, answer, given: see `flow.Schedule`, `Answer` and `Given`.
    distilled: guidance goes in as a number, without a second forward.
    text_parts: pipeline components that are needed for prompts only.
    exact_parts: those that compute in fp32 whatever the denoiser does, as the model's card has them.
    """

    pipeline: Any
    title: str
    kind: Literal["flow", "vp"]
    fps: float
    exact_parts: tuple[str, ...]

    @property
    def text_parts(self) -> tuple[str, ...]: ...

    @property
    def answer(self) -> Answer: ...

    @property
    def distilled(self) -> bool: ...

    @property
    def given(self) -> Given: ...

    @property
    def size(self) -> VideoSize:
        """Of the clips that the released weights are meant for."""
        ...

    @property
    def channels(self) -> int:
        """Of the latents that are denoised."""
        ...

    @property
    def grid(self) -> Grid: ...

    @property
    def networks(self) -> dict[str, torch.nn.Module]:
        """The denoiser by its name in the pipeline; two where experts share the noise levels."""
        ...

    def text(self, prompt: str) -> Condition:
        """One row, on the device of the text encoder."""
        ...

    def levels(self, num_steps: int, cells: tuple[int, int, int]) -> dict[str, Any]:
        """Arguments of the scheduler's `set_timesteps`, as the pipeline's own call gives them."""
        ...

    def forward(self, latents: Tensor, timestep: Tensor, condition: Condition, guidance: float) -> Tensor:
        """The network's answer, [batch, channels, time, height, width].

        Args:
            latents: in the network's precision. timestep: in the scheduler's unit, [batch]; where cells are given and
                `given` is "token", [batch, time, height, width] over latent cells.
            condition: rows of `text`, and of `Shown.show`: always where `given` is "shown", else where it made some;
                floating tensors in the network's precision.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Video [batch, 3, time, height, width] in [-1, 1]."""
        ...

    def encode(self, video: Tensor) -> Tensor:
        """Latents of a video in [-1, 1], their mean where the codec has a spread."""
        ...


class Experts(Family, Protocol):
    """A family whose second network answers where there is little noise."""

    def is_low(self, timestep: Tensor) -> Tensor:
        """Whether the second network answers, bool [batch]."""
        ...


class Shown(Family, Protocol):
    """A family whose `given` is "shown", or that takes keyframes alone (of which only `show` is asked).

    show_parts: pipeline components that `show` uses beside the codec; None in pipelines that have none.
    """

    show_parts: tuple[str, ...]

    @property
    def pictured(self) -> bool:
        """Whether every clip begins with a picture; otherwise `show` is also asked about clips with nothing given."""
        ...

    def show(self, known: Tensor, clean: Tensor, prompts: Sequence[str], beside: Beside) -> Condition:
        """What `forward` needs of what is given; made once per prompt, so codec and encoders may be used.

        Args:
            known: bool [batch, time, height, width]. clean: latents [batch, channels, time, height, width].
            prompts: one per row, for encoders that read them beside the picture.
            beside: in [-1, 1]; its `frames` are there unless nothing is given.
        """
        ...


def usual(pipeline: Any) -> Sampling:
    """What the pipeline's own call takes where it is not told, one clip at a time: few cards hold two."""
    own = inspect.signature(pipeline.__call__).parameters
    # HunyuanVideo 1.5 keeps its guidance in a component
    scale = own["guidance_scale"].default if "guidance_scale" in own else pipeline.guider.guidance_scale
    return Sampling(own["num_inference_steps"].default, float(scale), batch=1)


def eight_bits(pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] as image encoders take them."""
    return ((pictures.float() / 2 + 0.5).clamp(0, 1) * 255).round().byte()


@dataclass(frozen=True)
class Scaling:
    """The straight line between a codec's latents and the denoiser's: denoiser = (codec - mean) * factor / std."""

    factor: float = 1.0
    mean: Tensor | float = 0.0
    std: Tensor | float = 1.0

    @classmethod
    def of(cls, vae: Any) -> Scaling:
        """As the codec's configuration (or, in LTX, its buffers) has it."""
        buffers = dict(vae.named_buffers(recurse=False))
        mean, std = (buffers.get(name, vae.config.get(name)) for name in ("latents_mean", "latents_std"))
        factor = float(vae.config.get("scaling_factor") or 1.0)
        if mean is None or std is None:
            return cls(factor)
        per_channel = [torch.as_tensor(value).detach().float().reshape(1, -1, 1, 1, 1) for value in (mean, std)]
        return cls(factor, *per_channel)

    def to_codec(self, latents: Tensor) -> Tensor:
        mean, std = (_like(value, latents) for value in (self.mean, self.std))
        return latents * std / self.factor + mean

    def to_denoiser(self, latents: Tensor) -> Tensor:
        mean, std = (_like(value, latents) for value in (self.mean, self.std))
        return (latents - mean) * self.factor / std


def decode_with(vae: Any, latents: Tensor, scaling: Scaling | None = None) -> Tensor:
    """The plain way through a codec; `scaling` as its configuration has it where none is given."""
    scaling = scaling or Scaling.of(vae)
    return vae.decode(scaling.to_codec(latents).to(vae.dtype), return_dict=False)[0]


def encode_with(vae: Any, video: Tensor, scaling: Scaling | None = None) -> Tensor:
    """The plain way back."""
    scaling = scaling or Scaling.of(vae)
    return scaling.to_denoiser(vae.encode(video.to(vae.dtype)).latent_dist.mode().float())


def shifted_levels(config: Any, num_steps: int, tokens: int, defaults: tuple[int, int, float, float]) -> dict[str, Any]:
    """`Family.levels` of a schedule whose shift grows with the number of tokens.

    Args:
        config: the scheduler's. defaults: of its base_image_seq_len, max_image_seq_len, base_shift and max_shift, as
            the pipeline has them.
    """
    from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift

    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    known = [config.get(name, default) for name, default in zip(names, defaults, strict=True)]
    return {"sigmas": np.linspace(1.0, 1 / num_steps, num_steps), "mu": calculate_shift(tokens, *known)}


def _like(value: Tensor | float, latents: Tensor) -> Tensor | float:
    return value.to(latents) if isinstance(value, Tensor) else value
