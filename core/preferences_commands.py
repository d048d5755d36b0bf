"""`soralign preferences add|import|export|stats|project|invite`: the store from the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core import preferences_io, preferences_pairing, preferences_people, preferences_quality, videoset
from core.cli import option, parse, required, verb
from core.errors import UserError
from core.preferences import ANSWERS, ASPECTS, Settings, Store, existing
from core.preferences_types import WHICH_PROJECT
from core.progress import track

STORE = "an SQLite file, or a postgresql:// URL"
NEW_STORE = "an SQLite file, made if missing, or a postgresql:// URL"


def preferences(argv: list[str]) -> None:
    """`soralign preferences VERB ...`."""
    verbs: dict[str, Callable[[list[str]], None]]
    verbs = {"add": add, "import": import_, "export": export, "stats": stats, "project": project, "invite": invite}
    verb(argv, verbs, "soralign preferences")


@dataclass(frozen=True)
class Add:
    """Put pairs to be labelled into a store: videos of one prompt from one or several video sets."""

    videosets: list[str] = required("folders of videos; with two or more, pairs are made across them")
    store: str = required(NEW_STORE)
    num_pairs: int | None = option(None, "how many pairs to draw; all of them if not given")
    target_votes: int = option(1, "how many annotators shall label each pair")
    seed: int = option(0, "decides which pairs are drawn")
    scores: list[str] | None = option(
        None, "files of `soralign reward score`: draw more often what a reward's heads, or several, doubt"
    )
    uniform_share: float = option(
        preferences_pairing.MIN_UNIFORM_SHARE,
        "with --scores, the share of chance that is the same for every pair; 0.25 to 1",
    )
    gold: str | None = option(
        None, "the known answer, a or b or tie, where the first set is a: hidden checks of annotators"
    )
    project: str | None = option(None, WHICH_PROJECT)

    def __post_init__(self) -> None:
        if self.target_votes < 1:
            raise UserError(f"target_votes must be at least 1, seen {self.target_votes}")
        if self.gold not in (None, *ANSWERS):
            raise UserError(f"gold answer {self.gold!r} is unknown; known: {', '.join(ANSWERS)}")


@dataclass(frozen=True)
class Import:
    """Add votes from a file: raw votes, Hugging Face preference form, or VideoAlign's CSV (told by its columns)."""

    file: str = required(".jsonl, .parquet or .csv; video paths are relative to its folder")
    store: str = required(NEW_STORE)
    annotator: str = option("imported", "whose votes these are where the file does not say")
    project: str | None = option(None, WHICH_PROJECT)


@dataclass(frozen=True)
class Export:
    """Write the votes that count to a file."""

    file: str = required(".jsonl, .parquet or .csv")
    store: str = required(STORE)
    form: str | None = option(
        None, "votes, preference or videoalign; if not given, videoalign for .csv and votes for the others"
    )
    project: str | None = option(None, WHICH_PROJECT)


@dataclass(frozen=True)
class Stats:
    """Count pairs, votes, choices and agreement, as JSON."""

    store: str = required(STORE)
    project: str | None = option(None, WHICH_PROJECT)


@dataclass(frozen=True)
class Project:
    """Make a project in a store, or change how one asks. What is not given stays as it is."""

    name: str = required("of the project")
    store: str = required(NEW_STORE)
    aspects: list[str] | None = option(
        None, f"what is asked about each pair, the question that closes it last ({' '.join(ASPECTS)})"
    )
    gold_share: float | None = option(None, "share of pairs with a known answer (0.05)")
    repeat_share: float | None = option(None, "share of pairs shown again, swapped (0)")
    min_watched: float | None = option(None, "share of both videos to play first (0)")
    fast_seconds: float | None = option(None, "a faster label is flagged, in seconds (1)")


@dataclass(frozen=True)
class Invite:
    """Give an annotator a token, which is shown once; an older one of theirs ends."""

    name: str = required("of the annotator")
    store: str = required(STORE)
    role: str = option("annotator", "annotator labels, reviewer also sees statistics, admin changes things")


def add(argv: list[str]) -> None:
    """put pairs to be labelled into a store"""
    config = parse(Add, argv, "soralign preferences add", positional=("videosets",))
    pairs = preferences_pairing.pairs_of([videoset.read(folder) for folder in config.videosets])
    if not pairs:
        raise UserError("no two videos share a prompt; pairs need videos of the same prompt, see `soralign generate`")
    count = len(pairs) if config.num_pairs is None else config.num_pairs
    if not 1 <= count <= len(pairs):
        raise UserError(f"--num-pairs must be between 1 and {len(pairs)} here, seen {count}")
    drawn = preferences_pairing.draw(pairs, count, config.seed, config.scores or (), config.uniform_share)
    store = Store(config.store, project=config.project)
    store.look_at(track(preferences_pairing.videos_of(drawn[0]), "looking at videos"))
    with store.transaction():
        preferences_pairing.put(
            store,
            zip(*drawn, strict=True),
            source="active" if config.scores else "random",
            target_votes=config.target_votes,
            gold=config.gold,
        )
        store.log_event("pairs added", f"{count} to {store.project} from {', '.join(config.videosets)}")
    if unlike := store.num_unlike():
        print(f"note: {unlike} pairs have videos of different length, rate or size; annotators will see that")
    print(f"{count} pairs in {config.store}; label them with `soralign label --store {config.store}`")


def import_(argv: list[str]) -> None:
    """add votes from a JSONL, parquet or VideoAlign CSV file"""
    config = parse(Import, argv, "soralign preferences import", positional=("file",))
    path = Path(config.file)
    rows, add = preferences_io.recognised(path)  # before the store: a mistyped path must not make a new one
    found = track(rows, "looking at videos"), add
    count = preferences_io.import_rows(Store(config.store, project=config.project), path, found, config.annotator)
    print(f"{count} votes of {config.file} are in {config.store}")


def export(argv: list[str]) -> None:
    """write the votes that count to a file"""
    config = parse(Export, argv, "soralign preferences export", positional=("file",))
    count = preferences_io.export_(existing(config.store, config.project), config.file, config.form)
    print(f"{count} rows in {config.file}")


def stats(argv: list[str]) -> None:
    """count pairs, votes, choices and agreement"""
    config = parse(Stats, argv, "soralign preferences stats")
    found = preferences_quality.summary(existing(config.store, config.project))
    print(json.dumps(found, indent=2, ensure_ascii=False))


def project(argv: list[str]) -> None:
    """make a project in a store, or change how one asks"""
    config = parse(Project, argv, "soralign preferences project", positional=("name",))
    shares = {name: getattr(config, name) for name in ("gold_share", "repeat_share", "min_watched", "fast_seconds")}
    changes = {name: value for name, value in shares.items() if value is not None}
    store = Store(config.store)
    if config.name in store.projects():
        store = store.of_project(config.name)
        if config.aspects and tuple(config.aspects) != store.aspects:
            raise UserError(f"project {config.name!r} asks about {', '.join(store.aspects)}; make another for others")
        store.save_settings(dataclasses.replace(store.settings, **changes))
    else:
        store = store.add_project(config.name, config.aspects or ASPECTS, Settings(**changes))
    settings = ", ".join(f"{name} {value:g}" for name, value in dataclasses.asdict(store.settings).items())
    print(f"project {store.project!r} asks about {', '.join(store.aspects)}; {settings}")


def invite(argv: list[str]) -> None:
    """give an annotator a token"""
    config = parse(Invite, argv, "soralign preferences invite", positional=("name",))
    token = preferences_people.invite(existing(config.store), config.name, config.role)
    print(f"{config.role} {config.name!r} enters with the token {token}")
