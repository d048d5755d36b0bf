"""What the other rooms may ask of any video generator, native or from diffusers.

A generator turns prompts into conditions, latents into a velocity, and latents into frames. It owns no sampling loop,
no randomness and no transition: those live in `sampler.py` and `flow.py`, once, so that a log-probability means the
same for every model. Finished generators are never subclassed; to alter one, wrap it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from base_model.flow import Schedule
    from base_model.sampler import Sampling

Condition = dict[str, Tensor]
"""What the denoiser sees of the prompts: every tensor is batch-first, so rows can be taken, repeated and joined."""


@dataclass(frozen=True)
class VideoSize:
    """Size of a clip in frames and pixels."""

    num_frames: int
    height: int
    width: int


class Generator(Protocol):
    """A text-to-video diffusion model as the sampler and the aligner see it.

    team: processes, of ranks that follow each other, that share the tokens of every clip and must draw the same ones;
        1 = every process draws its own.
    usual: how its makers draw from it; commands take from here what they are not told.
    """

    name: str
    fps: float
    family: Literal["flow", "vp"]
    size: VideoSize
    team: int
    usual: "Sampling"

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """One row per prompt; a row must not depend on the other prompts of the call."""
        ...

    def unconditional(self, batch: int) -> Condition:
        """`batch` rows of the empty prompt, as classifier-free guidance needs them."""
        ...

    def latent_shape(self, size: VideoSize) -> tuple[int, ...]:
        """Shape of one clip's latents, without the batch; the native model's is (channels, time, height, width)."""
        ...

    def schedule(self, num_steps: int) -> "Schedule":
        """Noise levels of `num_steps` denoising steps, from 1 to 0."""
        ...

    def predict(
        self,
        latents: Tensor,
        step: Tensor,
        schedule: "Schedule",
        condition: Condition,
        unconditional: Condition | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Velocity (fp32, shape of `latents`) at denoising step `step` (long [batch]: rows may be at different steps).

        For family "flow" velocity is noise - clean; for "vp" it is alpha * noise - sigma * clean (v-prediction).
        With `unconditional` given and `guidance` != 1 it is the guided velocity; what `condition` has beyond it, as
        given cells, holds for both.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Frames [batch, time, 3, height, width] in [0, 1]; differentiable; the caller chooses the chunk."""
        ...

    def encode(self, frames: Tensor) -> Tensor:
        """Latents of `frames`, the inverse of `decode` up to what the codec loses."""
        ...

    def policy_module(self) -> nn.Module:
        """The network that LoRA attaches to."""
        ...


def take(condition: Condition, index: Tensor | slice) -> Condition:
    """The rows at `index` (long tensor or slice) of every tensor."""
    return {name: value[index] for name, value in condition.items()}


def repeat(condition: Condition, count: int) -> Condition:
    """Every row `count` times, copies side by side: rows a, b become a, a, b, b."""
    return {name: value.repeat_interleave(count, dim=0) for name, value in condition.items()}


def cat(conditions: Sequence[Condition]) -> Condition:
    """The rows of all `conditions`, in order."""
    return {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}
