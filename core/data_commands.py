"""`soralign data`: the version of a video set, what changed between two, which files cannot be read."""

from __future__ import annotations

from dataclasses import dataclass

from core import snapshot, video, videoset
from core.cli import parse, required, verb
from core.errors import UserError
from core.progress import track

SHOWN = 20  # lines per kind of change


@dataclass(frozen=True)
class DiffConfig:
    """Two states of a data set: folders, or data.json files from runs."""

    old: str = required("video set, or data.json of a run")
    new: str = required("video set, or data.json of a run")


@dataclass(frozen=True)
class SetConfig:
    """A video set."""

    videoset: str = required("folder of videos with prompts")


def data(argv: list[str]) -> None:
    """Versions of video sets."""
    verb(argv, {"hash": hash_set, "diff": diff, "check": check}, "soralign data")


def hash_set(argv: list[str]) -> None:
    """the version of a video set: one hash of its videos and captions"""
    config = parse(SetConfig, argv, "soralign data hash", ("videoset",))
    taken = snapshot.take(config.videoset)
    print(f"{taken.hash}  {len(taken.entries)} videos in {config.videoset}")


def diff(argv: list[str]) -> None:
    """what was added, removed, renamed or changed between two states"""
    config = parse(DiffConfig, argv, "soralign data diff", ("old", "new"))
    old, new = snapshot.load(config.old), snapshot.load(config.new)
    found = snapshot.diff(old, new)
    print(f"{old.hash} ({len(old.entries)} videos) -> {new.hash} ({len(new.entries)} videos)")
    kinds = {
        "added": found.added,
        "removed": found.removed,
        "renamed": [f"{before} -> {after}" for before, after in found.renamed],
        "other video": found.new_video,
        "other caption": found.new_caption,
    }
    for kind, names in kinds.items():
        for name in names[:SHOWN]:
            print(f"{kind:14s}{name}")
        if len(names) > SHOWN:
            print(f"{kind:14s}and {len(names) - SHOWN} more")
    if not found:
        print("no difference")


def check(argv: list[str]) -> None:
    """decode every video and name those that cannot be read"""
    config = parse(SetConfig, argv, "soralign data check", ("videoset",))
    items = videoset.read(config.videoset)
    broken = []
    for item in track(items, "checking"):
        try:
            video.check(item.video)
        except UserError as error:
            broken.append(str(error))
    for line in broken:
        print(line)
    if broken:
        raise UserError(f"{len(broken)} of {len(items)} videos cannot be read; mend or remove them")
    print(f"all {len(items)} videos can be read")
