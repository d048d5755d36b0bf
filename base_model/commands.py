"""`soralign world` and `soralign pretrain`; `soralign generate` is in `generate`."""

from __future__ import annotations

from dataclasses import dataclass

from base_model.sets import write_world
from core.cli import option, parse, required, settings_of
from core.errors import UserError


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


def pretrain(argv: list[str]) -> None:
    """Train a part of the native model."""
    from base_model import pretrain as pretraining

    @dataclass(frozen=True)
    class Options(pretraining.PretrainConfig):
        out: str = option("runs/pretrain", "run folder; the same command again continues it")

    options = parse(Options, argv, "soralign pretrain")
    run = pretraining.pretrain(settings_of(pretraining.PretrainConfig, options), options.out)
    print(f"trained: {run.folder}/{options.part}")
