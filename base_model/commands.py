"""`soralign world` and `soralign pretrain`, and video sets drawn from prompts; `soralign generate` is in `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base_model.generate import write_set
from core.cli import option, parse, required, settings_of
from core.errors import UserError
from core.progress import track
from core.randomness import seed_for
from core.videoset import VideoItem, Writer

if TYPE_CHECKING:
    from torch import Tensor

    from base_model.protocol import Generator


def write_videos(
    generator: Generator,
    prompts: Sequence[str],
    out: Path | str,
    *,
    seed: int,
    num_steps: int,
    guidance: float,
    batch: int,
    lora_name: str | None = None,
) -> list[VideoItem]:
    """Generate one video a prompt into a video set; video i is drawn from (seed, i), so sets of two models pair up.

    What the set already holds is kept, so a killed call goes on where it was.
    Raises: UserError if the set holds other videos than these.
    """
    from base_model.sampler import generate_frames

    def draw(chosen: list[str], seeds: list[int]) -> Tensor:
        return generate_frames(
            generator,
            chosen,
            seeds=seeds,
            num_steps=num_steps,
            guidance=guidance,
            batch=batch,
        )

    seeds = [seed_for(seed, "video", index) for index in range(len(prompts))]
    return write_set(generator, prompts, seeds, out, draw, batch, generator.fps, lora_name)


@dataclass(frozen=True)
class WorldConfig:
    """Ground-truth sandbox videos with their state. Run again, it adds only what is missing."""

    out: str = required("folder of the video set")
    num_videos: int = option(64, "how many")
    seed: int = option(0, "everything random derives from it")
    split: str = option("train", "train, heldout, unseen, velocity, radius or both")
    noise: float = option(0.0, "share of clips spoilt with web noise, 0 to 1")


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
        out: str = option("runs/pretrain", "run folder; the same command again continues it")

    options = parse(Options, argv, "soralign pretrain")
    run = pretraining.pretrain(settings_of(pretraining.PretrainConfig, options), options.out)
    print(f"trained: {run.folder}/{options.part}")
