"""`soralign preferences add|import|export|stats`: the store from the command line."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

from core import preferences_io, videoset
from core.cli import parse, verb
from core.errors import UserError
from core.preferences import Store
from core.progress import track
from core.randomness import numpy_generator


def preferences(argv: list[str]) -> None:
    """`soralign preferences VERB ...`."""
    verb(argv, {"add": add, "import": import_, "export": export, "stats": stats}, "soralign preferences")


@dataclass(frozen=True)
class Add:
    """Put pairs to be labelled into a store: videos of one prompt from one or several video sets."""

    videosets: list[str] = field(metadata={"help": "folders of videos; with two or more, pairs are made across them"})
    store: str = field(metadata={"help": "the SQLite file, made if missing"})
    num_pairs: int | None = field(default=None, metadata={"help": "how many pairs to draw; all of them if not given"})
    target_votes: int = field(default=1, metadata={"help": "how many annotators shall label each pair"})
    seed: int = field(default=0, metadata={"help": "decides which pairs are drawn"})


@dataclass(frozen=True)
class Import:
    """Add votes from a file: raw votes, Hugging Face preference form, or VideoAlign's CSV (told by its columns)."""

    file: str = field(metadata={"help": ".jsonl, .parquet or .csv; video paths are relative to its folder"})
    store: str = field(metadata={"help": "the SQLite file, made if missing"})
    annotator: str = field(default="imported", metadata={"help": "whose votes these are where the file does not say"})


@dataclass(frozen=True)
class Export:
    """Write the votes that count to a file."""

    file: str = field(metadata={"help": ".jsonl, .parquet or .csv"})
    store: str = field(metadata={"help": "the SQLite file"})
    form: str | None = field(
        default=None,
        metadata={
            "help": "votes, preference or videoalign; if not given, videoalign for .csv and votes for the others"
        },
    )


@dataclass(frozen=True)
class Stats:
    """Count pairs, votes, choices and agreement, as JSON."""

    store: str = field(metadata={"help": "the SQLite file"})


def add(argv: list[str]) -> None:
    """put pairs to be labelled into a store"""
    config = parse(Add, argv, "soralign preferences add", positional=("videosets",))
    pairs = _pairs([videoset.read(folder) for folder in config.videosets])
    if not pairs:
        raise UserError("no two videos share a prompt; pairs need videos of the same prompt, see `soralign generate`")
    probability = 1.0
    if config.num_pairs is not None:
        if not 1 <= config.num_pairs <= len(pairs):
            raise UserError(f"--num-pairs must be between 1 and {len(pairs)} here, seen {config.num_pairs}")
        chosen = numpy_generator(config.seed, "preference pairs").choice(len(pairs), config.num_pairs, replace=False)
        probability = config.num_pairs / len(pairs)
        pairs = [pairs[index] for index in sorted(chosen)]
    store = Store(config.store)
    with store.transaction():
        for a, b in track(pairs, "adding pairs"):
            store.add_pair(
                a.prompt,
                store.add_video(a.video, model=a.model, seed=a.seed),
                store.add_video(b.video, model=b.model, seed=b.seed),
                sampling_probability=probability,
                target_votes=config.target_votes,
            )
    print(f"{len(pairs)} pairs in {config.store}; label them with `soralign label --store {config.store}`")


def import_(argv: list[str]) -> None:
    """add votes from a JSONL, parquet or VideoAlign CSV file"""
    config = parse(Import, argv, "soralign preferences import", positional=("file",))
    count = preferences_io.import_(Store(config.store), config.file, config.annotator)
    print(f"{count} votes of {config.file} are in {config.store}")


def export(argv: list[str]) -> None:
    """write the votes that count to a file"""
    config = parse(Export, argv, "soralign preferences export", positional=("file",))
    count = preferences_io.export_(_existing(config.store), config.file, config.form)
    print(f"{count} rows in {config.file}")


def stats(argv: list[str]) -> None:
    """count pairs, votes, choices and agreement"""
    config = parse(Stats, argv, "soralign preferences stats")
    print(json.dumps(_existing(config.store).stats(), indent=2, ensure_ascii=False))


def _existing(path: str) -> Store:
    """A store that is only looked at; a mistyped path must not make a new one."""
    if not Path(path).is_file():
        raise UserError(f"store {path!r} does not exist; make one with `soralign preferences add`")
    return Store(path)


def _pairs(sets: list[list[videoset.VideoItem]]) -> list[tuple[videoset.VideoItem, videoset.VideoItem]]:
    """All pairs of one prompt: within the set when there is one, across sets when there are several."""
    by_prompt: dict[str, list[tuple[int, videoset.VideoItem]]] = {}
    for number, items in enumerate(sets):
        for item in items:
            by_prompt.setdefault(item.prompt, []).append((number, item))
    return [
        (a, b)
        for members in by_prompt.values()
        for (set_a, a), (set_b, b) in itertools.combinations(members, 2)
        if len(sets) == 1 or set_a != set_b
    ]
