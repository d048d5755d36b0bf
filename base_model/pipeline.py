"""The native model as a diffusers pipeline.

`save_pretrained`, `from_pretrained`, `load_lora_weights` and a call, as users know them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.loaders import CogVideoXLoraLoaderMixin
from diffusers.utils.logging import disable_progress_bar, enable_progress_bar
from torch import Tensor

from base_model.codec.frames import FrameCodec
from base_model.codec.load import Saved, load_codec
from base_model.native import USUAL, NativeGenerator, fast_dtype, precision_of
from base_model.options import WEIGHTS
from base_model.protocol import VideoSize
from base_model.sampler import Sampling, generate_frames
from base_model.text import SandboxClip, load_clip
from base_model.transformer import check_fit
from base_model.variants import Denoiser, load_transformer
from core.errors import UserError, first_line


class SoralignPipeline(DiffusionPipeline, CogVideoXLoraLoaderMixin):
    """Text to video with the native model. The scheduler component only carries the schedule's shift."""

    def __init__(
        self,
        vae: Saved,
        transformer: Denoiser,
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
        num_inference_steps: int = USUAL.num_steps,
        guidance_scale: float = USUAL.guidance,
        guidance_interval: tuple[float, float] = USUAL.guidance_interval,
        seed: int = 0,
    ) -> Tensor:
        """Frames [prompt, time, 3, height, width] in [0, 1]; clip i is drawn from seed + i."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        generator = NativeGenerator(self.vae, self.transformer, self.clip, float(self.scheduler.config.shift))
        return generate_frames(
            generator,
            prompts,
            seeds=[seed + i for i in range(len(prompts))],
            size=VideoSize(num_frames, height, width),
            sampling=Sampling(num_inference_steps, guidance_scale, guidance_interval),
        )


def complete(folder: Path, codec: str, per_frame: bool, clip: str, shift: float) -> None:
    """Make of a folder with a saved `transformer` a whole model, with the parts that it was trained on.

    Args:
        codec, clip: folders of these parts, which are copied. per_frame: see `load_codec`. shift: of the schedule, as
            in training.
    """
    vae = load_codec(codec, per_frame)
    if isinstance(vae, FrameCodec):
        vae.save_pretrained(folder / "vae")
    else:
        shutil.copytree(codec, folder / "vae", dirs_exist_ok=True)
    shutil.copytree(clip, folder / "clip", dirs_exist_ok=True)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.save_pretrained(folder / "scheduler")
    SoralignPipeline(vae, load_transformer(folder / "transformer"), load_clip(clip), scheduler).save_config(folder)


def load(folder: str | Path, dtype: str = "auto", name: str | None = None) -> NativeGenerator:
    """The generator of a pipeline saved with `save_pretrained`, frozen.

    Args:
        dtype: of the transformer: "float32", "bfloat16", or "auto" for bf16 where it is fast. CLIP stays fp32, and so
            does the codec: decoding 16 clips took .18 s in fp32 and .32 s in bf16.
    Raises: UserError if the folder is not a saved native pipeline, for parts that do not fit, and an unknown dtype.
    """
    precision = precision_of(dtype, fast_dtype())
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise UserError(f"no model at '{folder}': a saved pipeline has a model_index.json")
    disable_progress_bar()
    try:
        pipeline = SoralignPipeline.from_pretrained(
            str(folder),
            dtype={"default": precision, "clip": torch.float32, "vae": torch.float32},
            low_cpu_mem_usage=False,
            local_files_only=True,
        )
    except Exception as error:  # whatever a damaged file makes diffusers trip over, from TypeError to SafetensorError
        raise UserError(f"the model at '{folder}' cannot be loaded: {first_line(error)}") from error
    finally:
        enable_progress_bar()
    for part in (pipeline.vae, pipeline.transformer, pipeline.clip):
        part.eval().requires_grad_(False)
    check_fit(pipeline.transformer, pipeline.vae.channels, pipeline.clip.text_width, pipeline.clip.dim)
    shift = float(pipeline.scheduler.config.shift)
    return NativeGenerator(pipeline.vae, pipeline.transformer, pipeline.clip, shift, name or str(folder))


def sandbox(dtype: str = "auto") -> NativeGenerator:
    """The model that ships."""
    return load(WEIGHTS, dtype, "sandbox")
