"""`soralign generate`, `soralign world` and `soralign pretrain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import prompts as prompt_file
from core.cli import parse
from core.errors import UserError
from core.progress import track
from core.randomness import seed_for
from core.videoset import VideoItem, Writer

if TYPE_CHECKING:
    from base_model.protocol import Generator


@dataclass(frozen=True)
class GenerateConfig:
    """Videos from prompts, as a video set. Run again, it adds only what is missing."""

    out: str = field(metadata={"help": "folder of the video set"})
    model: str = field(default="sandbox", metadata={"help": "generator name or folder"})
    lora: str | None = field(default=None, metadata={"help": "folder of LoRA adapters to put on the model"})
    prompts: str | None = field(default=None, metadata={"help": "text file, one prompt a line"})
    prompt: str | None = field(default=None, metadata={"help": "a single prompt, instead of a file"})
    num_per_prompt: int = field(default=1, metadata={"help": "clips per prompt, each from its own seed"})
    seed: int = field(
        default=0, metadata={"help": "everything random derives from it; equal seeds pair up across models"}
    )
    num_steps: int = field(default=20, metadata={"help": "denoising steps"})
    guidance: float = field(default=2.0, metadata={"help": "classifier-free guidance scale; 1 = none, half the cost"})
    num_frames: int | None = field(default=None, metadata={"help": "frames per clip; the model's own by default"})
    height: int | None = field(default=None, metadata={"help": "pixels; the model's own by default"})
    width: int | None = field(default=None, metadata={"help": "pixels; the model's own by default"})
    batch: int = field(default=16, metadata={"help": "clips per forward"})


def generate(argv: list[str]) -> None:
    """Videos from prompts."""
    config = parse(GenerateConfig, argv, "soralign generate")
    if (config.prompts is None) == (config.prompt is None):
        raise UserError("generate needs either --prompts FILE or --prompt TEXT")
    for name in ("num_per_prompt", "num_steps", "batch"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}, it must be 1 or more")
    texts = prompt_file.read(config.prompts) if config.prompts else [(config.prompt or "").strip()]
    if not texts[0]:
        raise UserError("--prompt is empty; write what the video should show")

    import base_model
    from base_model import lora
    from base_model.protocol import VideoSize

    generator = base_model.load(config.model)
    if config.lora is not None:
        lora.load(generator.policy_module(), Path(config.lora))
    own = generator.size
    size = VideoSize(config.num_frames or own.num_frames, config.height or own.height, config.width or own.width)
    generator.latent_shape(size)
    items = write_videos(
        generator,
        [text for text in texts for _ in range(config.num_per_prompt)],
        config.out,
        seed=config.seed,
        num_steps=config.num_steps,
        guidance=config.guidance,
        batch=config.batch,
        size=size,
        lora_name=config.lora,
    )
    print(f"{len(items)} videos in {config.out}")


def write_videos(
    generator: Generator,
    prompts: Sequence[str],
    out: Path | str,
    *,
    seed: int,
    num_steps: int,
    guidance: float,
    batch: int,
    size: object = None,
    lora_name: str | None = None,
) -> list[VideoItem]:
    """Generate one video a prompt into a video set; video i is drawn from (seed, i), so sets of two models pair up.

    What the set already holds is kept, so a killed call goes on where it was.
    Raises: UserError if the set holds other videos than these.
    """
    from base_model.sampler import generate_frames

    writer = Writer(out)
    there = {item.id: item for item in writer.items}
    seeds = [seed_for(seed, "video", index) for index in range(len(prompts))]
    names = [f"{index:05d}" for index in range(len(prompts))]
    for name, prompt, own in zip(names, prompts, seeds, strict=True):
        if name not in there:
            continue
        held, wanted = there[name], {"prompt": prompt, "seed": own, "model": generator.name, "lora": lora_name}
        other = [key for key, value in wanted.items() if getattr(held, key) != value]
        if other:
            raise UserError(
                f"{out} already holds other videos ('{name}' has another {' and '.join(other)}); choose another folder"
            )
    chunks = [range(start, min(start + batch, len(prompts))) for start in range(0, len(prompts), batch)]
    # A chunk of which a part is there is generated whole: in a batch of another size its last bits would differ.
    chunks = [chunk for chunk in chunks if any(names[index] not in there for index in chunk)]
    for chunk in track(chunks, f"generating {Path(out).name}"):
        frames = generate_frames(
            generator,
            [prompts[i] for i in chunk],
            seeds=[seeds[i] for i in chunk],
            num_steps=num_steps,
            guidance=guidance,
            batch=batch,
            size=size,  # type: ignore[arg-type]
        )
        for index, clip in zip(chunk, frames, strict=True):
            if names[index] in there:
                continue
            details = {"seed": seeds[index], "model": generator.name, "lora": lora_name, "fps": generator.fps}
            writer.append(clip.numpy(), prompts[index], id=names[index], **details)  # type: ignore[arg-type]
    return sorted(writer.items, key=lambda item: item.id)


@dataclass(frozen=True)
class WorldConfig:
    """Ground-truth sandbox videos with their state. Run again, it adds only what is missing."""

    out: str = field(metadata={"help": "folder of the video set"})
    num_videos: int = field(default=64, metadata={"help": "how many"})
    seed: int = field(default=0, metadata={"help": "everything random derives from it"})
    split: str = field(default="train", metadata={"help": "train, heldout, unseen, velocity, radius or both"})
    noise: float = field(default=0.0, metadata={"help": "share of clips spoilt with web noise, 0 to 1"})


def world(argv: list[str]) -> None:
    """Ground-truth sandbox videos."""
    config = parse(WorldConfig, argv, "soralign world")
    if config.num_videos < 1 or not 0 <= config.noise <= 1:
        raise UserError(f"num_videos is {config.num_videos} (1 or more), noise is {config.noise} (0 to 1)")
    write_world(config.out, config.num_videos, seed=config.seed, split=config.split, noise=config.noise)
    print(f"{config.num_videos} videos in {config.out}")


def write_world(
    out: Path | str, count: int, *, seed: int, split: str = "train", noise: float = 0.0, most_objects: int = 3
) -> list[VideoItem]:
    """Draw `count` clips of a split into a video set with ground-truth state; keeps what is there.

    Raises: UserError on an unknown split, or if the set holds other videos.
    """
    from base_model.world.dataset import check_split, make_clip
    from base_model.world.spec import FPS

    check_split(split)
    writer = Writer(out)
    there = {item.id for item in writer.items}
    options: dict[str, Any] = {"split": split, "noise": noise, "most_objects": most_objects}
    # The first is enough to tell another seed or split.
    if writer.items and writer.items[0].prompt != make_clip(seed, 0, **options).prompt:
        raise UserError(f"{out} already holds other videos (another seed, split or noise); choose another folder")
    for index in track(range(count), f"drawing {Path(out).name}"):
        if f"{index:05d}" not in there:
            clip = make_clip(seed, index, **options)
            writer.append(
                clip.frames, clip.prompt, id=f"{index:05d}", seed=seed, model="world", fps=FPS, state=clip.state
            )
    return sorted(writer.items, key=lambda item: item.id)


def pretrain(argv: list[str]) -> None:
    """Train a part of the native model."""
    from base_model import pretrain as pretraining

    @dataclass(frozen=True)
    class Options(pretraining.PretrainConfig):
        out: str = field(default="runs/pretrain", metadata={"help": "run folder; the same command again continues it"})

    options = parse(Options, argv, "soralign pretrain")
    values = {name: getattr(options, name) for name in pretraining.PretrainConfig.__dataclass_fields__}
    run = pretraining.pretrain(pretraining.PretrainConfig(**values), options.out)
    print(f"trained: {run.folder}/{options.part}")
