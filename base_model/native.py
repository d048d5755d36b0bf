"""The native generator: codec, transformer and CLIP of the sandbox behind the `Generator` protocol.

Base weights are held in the precision of the computation (bf16 where the processor has it, several times faster there);
latents, velocities and adapters stay fp32. Predictions depend on nothing but their arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from base_model import flow
from base_model.codec.vae import CausalVideoVAE
from base_model.protocol import Condition, VideoSize
from base_model.sampler import Sampling
from base_model.text import SandboxClip
from base_model.transformer import VideoTransformer
from base_model.world.spec import FPS, HEIGHT, NUM_FRAMES, WIDTH
from core.errors import UserError

if TYPE_CHECKING:
    from base_model.codec.load import Saved
    from base_model.variants import Denoiser

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Guidance while the noise is high decides how many objects there are and in which colours; what lies beyond makes edges
# ragged, and more of it doubles objects (docs/log.md).
USUAL = Sampling(num_steps=20, guidance=4.0, guidance_interval=(0.5, 1.0))


def fast_dtype() -> torch.dtype:
    """bf16 where matrix products in it are done by the hardware, else fp32."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return (
        torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else torch.float32
    )


def precision_of(dtype: str, auto: torch.dtype) -> torch.dtype:
    """The precision called `dtype`, with `auto` for "auto". Raises: UserError for an unknown one."""
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"dtype {dtype!r} is unknown; known: auto, {', '.join(DTYPES)}")
    return auto if dtype == "auto" else DTYPES[dtype]


@dataclass
class NativeGenerator:
    """See `base_model.protocol.Generator`.

    `shift` bends the schedule towards high noise, where layout and motion are decided. `longest`: frames of the longest
    clips in training; the shipped transformer saw 17 and 33.
    """

    vae: Saved
    transformer: Denoiser
    clip: SandboxClip
    shift: float = 3.0
    name: str = "sandbox"
    fps: float = FPS
    family: Literal["flow", "vp"] = "flow"
    size: VideoSize = VideoSize(NUM_FRAMES, HEIGHT, WIDTH)
    longest: int = 2 * NUM_FRAMES - 1
    team: int = 1
    usual: Sampling = USUAL

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        with torch.no_grad():
            text, mask, pooled = self.clip.text_tokens(prompts)
        return {"text": text, "mask": mask, "pooled": pooled}

    def unconditional(self, batch: int) -> Condition:
        return {name: value.expand(batch, *value.shape[1:]) for name, value in self.encode_prompts([""]).items()}

    def latent_shape(self, size: VideoSize) -> tuple[int, ...]:
        group, side = self.vae.t, self.vae.s * self.transformer.patch_size
        frames = max(0, round((size.num_frames - 1) / group)) * group + 1
        height, width = (max(side, round(asked / side) * side) for asked in (size.height, size.width))
        if size != VideoSize(frames, height, width):
            raise UserError(
                f"{size.num_frames} frames of {size.height}x{size.width} are off the model's grid: frames must be "
                f"{group}k+1, sides multiples of {side}; nearest: {frames}x{height}x{width}"
            )
        return self.vae.latent_shape(frames, height, width)

    def schedule(self, num_steps: int) -> flow.Schedule:
        return flow.linear_schedule(num_steps, self.shift)

    def predict(
        self,
        latents: Tensor,
        step: Tensor,
        schedule: flow.Schedule,
        condition: Condition,
        unconditional: Condition | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Where `condition` gives cells ("known" and "clean"), the velocity leads exactly to them."""
        sigma = schedule.at(step)[0].float()
        velocity = self._velocity(latents, sigma, condition)
        if unconditional is not None and guidance != 1.0:
            without = self._velocity(latents, sigma, condition | unconditional)
            velocity = without + guidance * (velocity - without)
        if "known" not in condition:
            return velocity
        kept = (latents - condition["clean"]) / sigma.reshape(-1, 1, 1, 1, 1)
        return torch.where(condition["known"][:, None], kept, velocity)

    def _velocity(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """What the transformer says, to whom given cells are shown clean and marked."""
        dtype = next(self.transformer.parameters()).dtype
        text, pooled, known = condition["text"].to(dtype), condition["pooled"].to(dtype), condition.get("known")
        if known is not None:
            latents = torch.where(known[:, None], condition["clean"], latents)
        return self.transformer(latents.to(dtype), sigma, text, condition["mask"], pooled, known).float()

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents.to(self.vae.dtype)).float()

    def encode(self, frames: Tensor) -> Tensor:
        return self.vae.encode(frames.to(self.vae.dtype)).float()

    def policy_module(self) -> nn.Module:
        return self.transformer


def nano(dtype: str = "auto") -> NativeGenerator:
    """A tiny model with random weights, for tests: milliseconds a step. fp32 unless asked otherwise.

    Raises: UserError for an unknown dtype.
    """
    precision = precision_of(dtype, torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = CausalVideoVAE(latent_channels=4, width=16, encoder_blocks="m", decoder_blocks="m")
        transformer = VideoTransformer(
            in_channels=4, width=32, num_layers=2, num_heads=2, text_width=16, pooled_width=16
        )
        # An untrained adaLN-Zero model would predict zero whatever it is given.
        opened = [block.modulation for block in transformer.blocks]
        for layer in (transformer.patch_out, transformer.modulation_out, *opened):
            nn.init.normal_(layer.weight, std=0.2)
        clip = SandboxClip(dim=16, vision_width=48, vision_layers=1, text_width=16, text_layers=1)
    for part in (vae, transformer, clip):
        part.eval().requires_grad_(False)
    for part in (vae, transformer):
        nn.Module.to(part, precision)  # diffusers' own `to` warns of parts to be kept in fp32, even if there are none
    return NativeGenerator(vae, transformer, clip, name="nano", size=VideoSize(5, 32, 32), longest=5)
