"""What one training run is: the recipe, and what is refused before any time is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from base_model.options import WEIGHTS
from base_model.variants import VARIANTS
from base_model.world.spec import FAMILIES, HEIGHT, NUM_FRAMES, WIDTH
from core.cli import option
from core.errors import UserError
from core.registry import unknown

CROP = 32  # pixels a side of what a codec is trained on


@dataclass(frozen=True)
class PretrainConfig:
    """One recipe; `part` says which network is trained."""

    part: Literal["codec", "clip", "transformer"] = option("codec", "codec, clip or transformer")
    steps: int = option(4600, "optimizer steps")
    batch: int = option(8, "clips per step, of every process where there are several")
    learning_rate: float = option(2e-3, "peak rate")
    warmup: int = option(50, "steps of linear warm-up")
    decay: float = option(0.5, "last share of the steps over which the rate falls to zero")
    ema_decay: float = option(0.0, "decay of the moving average of the weights; 0 = none")
    num_clips: int = option(3000, "different clips in the training pool")
    noise: float = option(0.25, "share of clips spoilt with web noise")
    start: str = option("", "folder of trained weights to go on from; empty = from nothing")
    latent_noise: float = option(
        0.0,
        "codec: above 0 the decoder alone goes on from `start`, on latents with up to this much noise, in standard "
        "deviations, as a transformer draws them",
    )
    hard_negatives: int = option(
        0,
        "clip: above 0 the image tower alone goes on from `start`, against this many captions per clip that differ "
        "in one word",
    )
    kl_weight: float = option(5e-5, "codec: weight of the KL per latent element against the mean squared error")
    shift: float = option(3.0, "transformer: bends the noise levels towards pure noise")
    min_snr: float = option(
        0.0, "transformer: above 0 a clip counts by min(SNR, this) of its noise level (usual: 5); 0 = all levels alike"
    )
    caption_dropout: float = option(0.1, "transformer: share of clips shown without their caption")
    caption_dropout_given: float = option(
        0.5, "transformer: the same of clips with cells given, for image to video without a prompt"
    )
    given: float = option(0.25, "transformer: share of clips shown with some of their cells given, for image to video")
    families: list[str] = option(
        list(FAMILIES), "transformer: families of motion drawn from; a name given twice is drawn twice as often"
    )
    sizes: list[str] = option(
        [f"{NUM_FRAMES}x{HEIGHT}x{WIDTH}"],
        "transformer: frames x height x width of the clips; the first is the usual one",
    )
    latents: str = option(
        "", "transformer: folder for the encoded clips, filled where they are missing; empty = in the run"
    )
    compile: bool = option(False, "transformer: compile the blocks; pays in runs of a thousand steps and more")
    gradient_checkpointing: bool = option(
        False, "transformer: compute the blocks again in the backward pass to save memory"
    )
    codec: str = option("", "transformer: folder of the trained codec")
    clip: str = option("", "transformer: folder of the trained CLIP")
    save_every: int = option(500, "steps between checkpoints")
    seed: int = option(0, "everything random derives from it")
    videos: str = option(
        "", "codec, transformer: folder of own clips (the latter: with captions) to train on, instead of the sandbox"
    )
    token_budget: int = option(
        2048, "videos: tokens packed into a step of every process; 0 = steps of `batch` clips of one shape"
    )
    max_frames: int = option(65, "videos: a longer one is cut into pieces of this many frames")
    frame_stride: int = option(
        1, "videos: only every n-th frame is taken, so that 24 a second may become the model's 8"
    )
    largest_side: int = option(0, "videos: larger frames are scaled down to this many pixels; 0 = never")
    drop_tokens: float = option(
        0.0, "videos: share of tokens left out at first; falls to 0 at four fifths of the steps"
    )
    max_bad: float = option(0.1, "videos: share that may be unreadable; they are named and skipped")
    workers: int = option(2, "videos: threads that read ahead")
    lora_rank: int = option(
        0, "videos: above 0 only low-rank updates of this rank are trained, on the model in `start`"
    )
    per_frame: bool = option(False, "transformer: encode each frame alone, by the codec's path for images")
    bottleneck: Literal["kl", "vq", "fsq"] = option("kl", "codec: continuous, a learned codebook, or rounding")
    pixel_loss: Literal["mse", "l1"] = option("mse", "codec: squared or absolute difference of pixels")
    perceptual: str = option("", "codec: TorchScript file or CLIP folder whose features count too (slow, for a GPU)")
    width: int = option(192, "codec, transformer: channels of a cell, of a token; where there is no `start`")
    num_layers: int = option(7, "transformer: blocks")
    num_heads: int = option(4, "transformer: attention heads")
    latent_channels: int = option(12, "codec: numbers a latent cell holds")
    temporal_factor: int = option(4, "codec: frames to a latent cell; frame 0 has its own")
    spatial_factor: int = option(8, "codec: pixels to a latent cell, along each side")
    variant: str = option(
        "", "transformer: another architecture, by name; see docs/base_model.md. Empty = the shipped one"
    )
    adversarial: float = option(0.0, "codec: weight of a 3D patch discriminator (slow, for a GPU); 0 = none")


def parse_size(size: str) -> tuple[int, int, int]:
    """(frames, height, width) of a text like "17x64x64". Raises: UserError."""
    parts = size.split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise UserError(f"size '{size}' is not FRAMESxHEIGHTxWIDTH, as in {NUM_FRAMES}x{HEIGHT}x{WIDTH}")
    frames, height, width = map(int, parts)
    if frames < NUM_FRAMES or height < HEIGHT or width < WIDTH:
        raise UserError(f"size '{size}' is smaller than the sandbox's own {NUM_FRAMES}x{HEIGHT}x{WIDTH}")
    return frames, height, width


def check(config: PretrainConfig) -> None:
    """Refuse a recipe that cannot run, before any time is spent. Raises: UserError."""
    counts = ("steps", "batch", "warmup", "num_clips", "save_every", "max_frames", "frame_stride", "workers")
    limits = ("hard_negatives", "largest_side", "token_budget", "lora_rank")
    sizes = ("width", "num_layers", "num_heads", "latent_channels", "temporal_factor", "spatial_factor")
    for name in (*counts, *sizes):
        if getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}, it must be 1 or more")
    for name in (
        "noise",
        "decay",
        "ema_decay",
        "caption_dropout",
        "caption_dropout_given",
        "given",
        "drop_tokens",
        "max_bad",
    ):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name} is {getattr(config, name)}, it must be in 0 to 1")
    for name in ("learning_rate", "shift"):
        if not 0 < getattr(config, name) < math.inf:
            raise UserError(f"{name} is {getattr(config, name)}, it must be a number above 0")
    for name in ("min_snr", "kl_weight", "adversarial", "latent_noise", *limits):
        if not 0 <= getattr(config, name) < math.inf:
            raise UserError(f"{name} is {getattr(config, name)}, it must be 0 or more")
    for part, name in (("codec", "latent_noise"), ("clip", "hard_negatives")):
        if getattr(config, name) and not (config.part == part and config.start):
            raise UserError(
                f"{name} is {getattr(config, name)}; above 0 it goes on from trained weights of the {part}: give "
                f"part {part} and start, or 0"
            )
    for size in config.sizes:
        parse_size(size)
    for name in config.families:
        if name not in FAMILIES:
            raise unknown(name, FAMILIES, "family")
    if config.part == "transformer" and not config.start:
        if config.variant == "unet" and config.width % 48:
            raise UserError(f"width is {config.width}; that of the U-Net must be a multiple of 48")
        if config.variant != "unet" and config.width % (2 * config.num_heads):
            raise UserError(f"width {config.width} does not divide into {config.num_heads} heads of an even size")
    if config.start and not (Path(config.start) / "config.json").is_file():
        raise UserError(f"start is '{config.start}', which holds no config.json; give the folder of a trained part")
    for name in ("codec", "clip") if config.part == "transformer" else ():
        if not (Path(getattr(config, name)) / "config.json").is_file():
            raise UserError(
                f"the transformer needs a trained {name}: {name} is '{getattr(config, name)}', which holds no "
                f"config.json; train it first (`soralign pretrain --part {name}`) and give its folder, or that of the "
                f"shipped one, {WEIGHTS / ('vae' if name == 'codec' else name)}"
            )
    if config.videos and config.part == "clip":
        raise UserError("videos trains the transformer or the codec; the small CLIP learns from the sandbox's captions")
    if config.lora_rank and not (config.part == "transformer" and config.videos and config.start):
        raise UserError("lora_rank needs part transformer, videos (the clips to learn) and start (the model to adapt)")
    if config.compile and config.videos and config.token_budget:
        raise UserError("compile needs steps of one shape: set token_budget to 0, or leave compile out")
    if config.drop_tokens and not config.token_budget:
        raise UserError("drop_tokens needs packing; token_budget is 0")
    if config.max_bad == 1:
        raise UserError("max_bad is 1.0, but nothing can be learned of clips that are all broken; give a share below 1")
    if (NUM_FRAMES - 1) % config.temporal_factor or CROP % config.spatial_factor:
        raise UserError(
            f"temporal_factor is {config.temporal_factor}, spatial_factor {config.spatial_factor}; the codec is "
            f"trained on {NUM_FRAMES} frames of {CROP}x{CROP}: they must divide {NUM_FRAMES - 1} and {CROP}"
        )
    if config.variant and config.variant not in VARIANTS:
        raise unknown(config.variant, VARIANTS, "variant")
    if config.variant and config.start:
        raise UserError(
            f"variant is '{config.variant}' and start '{config.start}'; leave one of them out, for a network that is "
            "there keeps its architecture"
        )
