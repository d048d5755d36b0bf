"""The native model as a diffusers pipeline.

`save_pretrained`, `from_pretrained`, `load_lora_weights` and a call, as users know them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.loaders import CogVideoXLoraLoaderMixin
from torch import Tensor

from base_model.codec.vae import CausalVideoVAE
from base_model.protocol import VideoSize
from base_model.text import SandboxClip
from base_model.transformer import VideoTransformer

WEIGHTS = Path(__file__).parent / "weights"


class SoralignPipeline(DiffusionPipeline, CogVideoXLoraLoaderMixin):
    """Text to video with the native model. The scheduler component only carries the schedule's shift."""

    def __init__(
        self,
        vae: CausalVideoVAE,
        transformer: VideoTransformer,
        clip: SandboxClip,
        scheduler: FlowMatchEulerDiscreteScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, transformer=transformer, clip=clip, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        num_frames: int = 17,
        height: int = 64,
        width: int = 64,
        num_inference_steps: int = 20,
        guidance_scale: float = 2.0,
        seed: int = 0,
    ) -> Tensor:
        """Frames [prompt, time, 3, height, width] in [0, 1]; clip i is drawn from seed + i."""
        from base_model.native import NativeGenerator
        from base_model.sampler import generate_frames

        prompts = [prompt] if isinstance(prompt, str) else prompt
        generator = NativeGenerator(self.vae, self.transformer, self.clip, float(self.scheduler.config.shift))
        return generate_frames(
            generator,
            prompts,
            seeds=[seed + i for i in range(len(prompts))],
            num_steps=num_inference_steps,
            guidance=guidance_scale,
            size=VideoSize(num_frames, height, width),
        )
