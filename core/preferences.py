"""The preference store: pairs of videos, who may judge them now, and every vote ever given.

One SQLite file (or one Postgres database) is the only truth. Every write is on disk before the call returns. Votes are
append-only: undo adds a row that supersedes. A pair is lent to an annotator by a lease, so it never gets more labels
than asked for. Not for network file systems, where SQLite's WAL cannot work. What it is made of: its nouns in
`preferences_types.py`, the tables in `preferences_schema.py`, who is lent what in `preferences_queue.py`, how votes are
written in `preferences_votes.py`. What surrounds it: people and roles in `preferences_people.py`, counts and
agreement in `preferences_quality.py`, other formats in `preferences_io.py`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from core import preferences_database, preferences_schema, preferences_votes, video
from core.errors import UserError
from core.preferences_database import Connection
from core.preferences_queue import Queue
from core.preferences_schema import CURRENT, EVERYONE, IS_LABEL
from core.preferences_types import ANSWERS, ASPECTS, CHOICES, SIDES, Lease, Pair, Project, Settings, Vote
from core.preferences_votes import Manner
from core.randomness import seed_for
from core.registry import unknown


class Store:
    """One project of an open preference store; safe to share between threads, and between processes that open it."""

    def __init__(
        self,
        path: Path | str,
        aspects: Sequence[str] | None = None,
        *,
        project: str | None = None,
        folder: Path | str = ".",
    ) -> None:
        """Open or create.

        Args:
            path: an SQLite file, or a URL postgresql://USER:PASSWORD@HOST:PORT/NAME.
            aspects: what is asked about each pair. The last one closes a label. Kept in the store from then on;
                None means the project's own, or ASPECTS for a new store.
            project: which of the store's projects; None means its first. A store is born with one called "default".
            folder: where a server's video paths start; a file's paths start beside it.
        Raises: UserError when this is no store, a newer one, or the project is unknown or has other aspects.
        """
        is_server = preferences_database.is_server(path)
        self.path = Path(os.path.abspath(folder if is_server else path))
        self.folder = self.path if is_server else self.path.parent
        self._database = preferences_database.connect(path)
        self.name = self._database.backend.name
        self._digests: dict[_FileState, str] = {}
        self._facts: dict[_FileState, tuple[object, ...]] = {}
        preferences_schema.prepare(self._database)
        found = self._projects()
        if not found:
            with self.transaction() as connection:
                connection.execute(
                    "INSERT INTO project (name, aspects, settings, created) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (project or "default", ",".join(_checked_aspects(aspects or ASPECTS)), "{}", time.time()),
                )
            found = self._projects()
        self._project = self._named(project) if project else found[0]
        if aspects is not None and tuple(aspects) != self.aspects:
            raise UserError(f"{self.name}: made for aspects {', '.join(self.aspects)}; asked for {', '.join(aspects)}")

    @property
    def project(self) -> str:
        """The name of the project."""
        return self._project.name

    @property
    def aspects(self) -> tuple[str, ...]:
        """What is asked about each pair; the last one closes a label."""
        return self._project.aspects

    @property
    def settings(self) -> Settings:
        """How the project asks."""
        return self._project.settings

    def transaction(self) -> contextlib.AbstractContextManager[Connection]:
        """Everything inside happens or nothing does; calls of other methods inside join it. One fsync for all."""
        return self._database.transaction()

    def snapshot(self) -> contextlib.AbstractContextManager[Connection]:
        """Everything read inside is of one moment; labeling goes on meanwhile."""
        return self._database.snapshot()

    def projects(self) -> list[str]:
        """The names of the store's projects, oldest first."""
        return [project.name for project in self._projects()]

    def add_project(self, name: str, aspects: Sequence[str], settings: Settings | None = None) -> Store:
        """A new project in the same store.

        Returns: this store, opened on the new project.
        Raises: UserError when the name is taken or empty, or an aspect cannot be stored.
        """
        if not name.strip() or len(name) > 80 or not name.isprintable():
            raise UserError(f"project name {name!r} is not usable; give 1 to 80 printable characters")
        row = (name.strip(), ",".join(_checked_aspects(aspects)), json.dumps(asdict(settings or Settings())))
        with self.transaction() as connection:
            if row[0] in self.projects():
                raise UserError(f"project {row[0]!r} exists already; choose another name")
            connection.execute(
                "INSERT INTO project (name, aspects, settings, created) VALUES (?, ?, ?, ?)", (*row, time.time())
            )
        return self.of_project(row[0])

    def of_project(self, name: str) -> Store:
        """The same open store, seen as another of its projects."""
        other = copy.copy(self)
        other._project = self._named(name)
        return other

    def save_settings(self, settings: Settings) -> None:
        """Change how this project asks, for everybody who opens it from now on."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE project SET settings = ? WHERE id = ?", (json.dumps(asdict(settings)), self._project.id)
            )
        self._project = replace(self._project, settings=settings)

    def look_at(self, paths: Iterable[Path | str]) -> None:
        """Decode the videos that are new, so that `add_video` need not do it inside a transaction: that would keep
        everybody who labels waiting as long as it takes.

        Raises: UserError as `add_video`.
        """
        for path in paths:
            if self._known(path) is None:
                self._measured(path)

    def add_video(self, path: Path | str, *, model: str | None = None, seed: int | None = None) -> int:
        """The id of a video file, added if new. Files under the store's folder are kept by relative path, so the folder
        can be moved. A new file is decoded once, whole: that proves it and measures its motion.

        Raises: UserError when the file cannot be read as a video of two frames or more, or was replaced by another
            under the same name.
        """
        if (known := self._known(path)) is not None:
            return known
        stored, digest, facts = self._stored(path), self._digest(path), self._measured(path)
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO video (path, sha256, model, seed, fps, num_frames, width, height, motion)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO NOTHING",
                (stored, digest, model, seed, *facts),
            )
            return int(connection.execute("SELECT id FROM video WHERE path = ?", (stored,)).fetchone()[0])

    def add_pair(
        self,
        prompt: str,
        video_a_id: int,
        video_b_id: int,
        *,
        source: str = "random",
        sampling_probability: float = 1.0,
        target_votes: int = 1,
        gold: str | None = None,
        repeats: int | None = None,
    ) -> int:
        """The id of a pair, added if new; a pair that is there keeps what it was added with.

        Args:
            source: how the pair was chosen ("random", "disagreement", ...).
            sampling_probability: chance with which it was chosen, for unbiased estimates later.
            target_votes: how many annotators shall label it.
            gold: the known answer ("a", "b" or "tie") of a hidden check that every annotator shall get.
            repeats: the pair that this one shows again the other way round.
        """
        if video_a_id == video_b_id:
            raise UserError(f"pair of {prompt!r}: both videos are number {video_a_id}; two different ones are needed")
        if not 0 < sampling_probability <= 1 or target_votes < 1:
            raise UserError(
                f"pair of {prompt!r}: sampling_probability must lie in (0, 1] and target_votes be at least 1, "
                f"seen {sampling_probability} and {target_votes}"
            )
        if gold not in (None, *ANSWERS):
            raise UserError(f"pair of {prompt!r}: gold answer {gold!r} is unknown; known: {', '.join(ANSWERS)}")
        rank = seed_for(video_a_id, prompt, video_b_id)
        target = EVERYONE if gold or repeats else target_votes
        with self.transaction() as connection:
            for number in (video_a_id, video_b_id):
                if connection.execute("SELECT 1 FROM video WHERE id = ?", (number,)).fetchone() is None:
                    raise UserError(f"pair of {prompt!r}: video {number} is not in the store")
            connection.execute("INSERT INTO prompt (text) VALUES (?) ON CONFLICT (text) DO NOTHING", (prompt,))
            text = connection.execute("SELECT id FROM prompt WHERE text = ?", (prompt,)).fetchone()[0]
            key = (self._project.id, text, video_a_id, video_b_id)
            connection.execute(
                "INSERT INTO pair (project, prompt, video_a, video_b, source, sampling_probability, target_votes, gold,"
                " repeats, rank) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (project, prompt, video_a, video_b) DO NOTHING",
                (*key, source, sampling_probability, target, gold, repeats, rank),
            )
            return int(
                connection.execute(
                    "SELECT id FROM pair WHERE project = ? AND prompt = ? AND video_a = ? AND video_b = ?", key
                ).fetchone()[0]
            )

    def raise_target(self, pair_id: int, target_votes: int) -> None:
        """Let a pair collect at least `target_votes` labels; never lowers."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE pair SET target_votes = ? WHERE id = ? AND target_votes < ?",
                (target_votes, pair_id, target_votes),
            )

    def claim(self, annotator: str, ttl_seconds: float = 300) -> Lease | None:
        """The pair this annotator should judge now: the one already lent to them, else an open one they have not
        judged; None when there is none. The lease is (re)newed for `ttl_seconds`."""
        leases = self.queue(annotator, 1, ttl_seconds)
        return leases[0] if leases else None

    def queue(self, annotator: str, count: int, ttl_seconds: float = 300) -> list[Lease]:
        """Up to `count` pairs lent to this annotator, in the order to judge them: what they hold, then new ones.

        All their leases are renewed. Sides are drawn from pair and annotator, so that showing a pair again shows it the
        same way. Now and then a new one is a gold pair or the swapped repeat of an earlier one (see `Settings`).
        """

        def work(connection: Connection) -> list[Lease]:
            leases = self._queue(connection).lend(annotator, count, ttl_seconds)
            return [self._lease(connection, lease) for lease in leases]

        return self._database.write(work)

    def vote(self, lease_id: int, aspect: str, choice: str) -> int:
        """Record a choice made on a screen; on disk when this returns. The last of `aspects` closes the lease.

        Args:
            choice: "left", "right", "tie", "both_bad" or "skip". A skip of the last aspect leaves the pair to others.
        Returns: the vote's id. Sending the same vote again (a reconnecting browser) returns the same id; another choice
            under a lease that is still open replaces the first.
        Raises: UserError when the lease is unknown, closed or expired. Nothing is recorded then.
        """
        self._check(aspect, choice, SIDES)
        return self._database.write(
            lambda connection: preferences_votes.give(self._queue(connection), lease_id, aspect, choice, Manner())
        )

    def label(
        self,
        lease_id: int,
        annotator: str,
        answers: Mapping[str, str],
        *,
        seconds: float | None = None,
        watched: float | None = None,
        comment: str | None = None,
    ) -> None:
        """Record all answers to one pair, or none; as `vote`, but a lease that ran out is renewed when its pair is
        still free.

        Args: answers: aspect -> side, the closing aspect among them.
        Raises: UserError when the lease is somebody else's, closed, or its pair went to another annotator.
        """
        for aspect, choice in answers.items():
            self._check(aspect, choice, SIDES)
        if self.aspects[-1] not in answers:
            raise UserError(f"an answer about {self.aspects[-1]} is missing; nothing was recorded")
        manner = Manner(seconds, watched, comment)
        self._database.write(
            lambda connection: preferences_votes.label(self._queue(connection), lease_id, annotator, answers, manner)
        )

    def record_vote(
        self,
        pair_id: int,
        annotator: str,
        aspect: str,
        choice: str,
        *,
        left_is: str | None = None,
        time_given: float | None = None,
        seconds: float | None = None,
        watched: float | None = None,
        comment: str | None = None,
        make_room: bool = False,
    ) -> int:
        """Record a vote that was not given under a lease: imported, or by a simulated annotator.

        Args:
            choice: "a", "b", "tie", "both_bad" or "skip".
            make_room: where the pair has its labels already, raise its target: what was labelled elsewhere is kept.
        Returns: the vote's id; the same vote again changes nothing.
        Raises: UserError when the annotator has voted differently on it, or the pair has its labels already.
        """
        self._check(aspect, choice, CHOICES)
        with self.transaction() as connection:
            return preferences_votes.record(
                self._queue(connection),
                pair_id,
                annotator,
                aspect,
                choice,
                Manner(seconds, watched, comment),
                left_is=left_is,
                time_given=time_given,
                make_room=make_room,
            )

    def undo(self, annotator: str, ttl_seconds: float = 300, *, lease: int | None = None) -> Lease | None:
        """Take back this annotator's newest label and lend them its pair again, sides as they were; None if there is
        no label. Pressed again, it goes one label further back. The votes stay in the file, superseded.

        Args: lease: the label that is meant; when the newest is another one, nothing happens. So a browser may send
            the same undo twice.
        Raises: UserError when the label was a skip and the pair has got its labels from others meanwhile.
        """

        def work(connection: Connection) -> Lease | None:
            taken_back = preferences_votes.undo(self._queue(connection), annotator, ttl_seconds, lease)
            return None if taken_back is None else self._lease(connection, taken_back)

        return self._database.write(work)

    def newest_label(self, annotator: str) -> int | None:
        """The lease of this annotator's newest label, which `undo` would take back."""
        with self._database.snapshot() as connection:
            who = connection.execute("SELECT id FROM annotator WHERE name = ?", (annotator,)).fetchone()
            newest = None if who is None else preferences_votes.newest(self._queue(connection), who[0])
        return None if newest is None else newest[0]

    def newest_vote(self) -> int:
        """A number that grows with every vote and every withdrawal in the store; 0 before the first."""
        return int(self._one("SELECT coalesce(max(id), 0) FROM vote")[0])

    def votes(self, aspect: str | None = None, *, checks: bool = False) -> list[Vote]:
        """The votes that count, oldest first, of one aspect or of all.

        Args: checks: those on gold pairs and repeats, which say something about annotators, instead of those on pairs
            that say something about videos.
        """
        wanted, arguments = ("", ()) if aspect is None else (" AND v.aspect = ?", (aspect,))
        rows = self._all(
            "SELECT v.pair, t.text, a.path, b.path, n.name, v.aspect, v.choice, v.time, v.left_is, v.seconds,"
            " v.watched, v.comment FROM vote v JOIN pair p ON p.id = v.pair JOIN prompt t ON t.id = p.prompt"
            " JOIN video a ON a.id = p.video_a JOIN video b ON b.id = p.video_b JOIN annotator n ON n.id = v.annotator"
            f" WHERE p.project = ? AND {CURRENT}{wanted} AND {'NOT ' if checks else ''}{IS_LABEL} ORDER BY v.id",
            self._project.id,
            *arguments,
        )
        return [Vote(row[0], row[1], self._full(row[2]), self._full(row[3]), *row[4:]) for row in rows]

    def pairs(self, *, checks: bool = False) -> list[Pair]:
        """All pairs to be labelled, in the order they were added; or the gold pairs and repeats that check people."""
        rows = self._all(
            "SELECT p.id, t.text, a.path, b.path, p.source, p.sampling_probability, p.target_votes, p.taken, p.gold,"
            " p.repeats FROM pair p JOIN prompt t ON t.id = p.prompt JOIN video a ON a.id = p.video_a"
            f" JOIN video b ON b.id = p.video_b WHERE p.project = ? AND {'NOT ' if checks else ''}{IS_LABEL}"
            " ORDER BY p.id",
            self._project.id,
        )
        return [Pair(row[0], row[1], self._full(row[2]), self._full(row[3]), *row[4:]) for row in rows]

    def find_pair(self, prompt: str, video_a_id: int, video_b_id: int) -> int | None:
        """The id of the pair to be labelled with these videos in this order, or None; checks of people are no such."""
        row = self._one(
            "SELECT p.id FROM pair p JOIN prompt t ON t.id = p.prompt"
            f" WHERE p.project = ? AND t.text = ? AND p.video_a = ? AND p.video_b = ? AND {IS_LABEL}",
            self._project.id,
            prompt,
            video_a_id,
            video_b_id,
        )
        return None if row is None else int(row[0])

    def num_labels(self, pair_id: int) -> int:
        """Finished labels and live leases of a pair."""
        return int(self._one("SELECT taken FROM pair WHERE id = ?", pair_id)[0])

    def origins(self) -> dict[Path, tuple[str | None, int | None]]:
        """For each video the model and seed it came from."""
        return {
            self._full(path): (model, seed) for path, model, seed in self._all("SELECT path, model, seed FROM video")
        }

    def done(self, annotator: str) -> list[float]:
        """When this annotator gave their labels, checks and skips included; Unix seconds, oldest first."""
        rows = self._all(
            "SELECT v.time FROM vote v JOIN annotator n ON n.id = v.annotator JOIN pair p ON p.id = v.pair"
            f" WHERE n.name = ? AND p.project = ? AND v.aspect = ? AND {CURRENT} ORDER BY v.id",
            annotator,
            self._project.id,
            self.aspects[-1],
        )
        return [given for (given,) in rows]

    def remaining(self, annotator: str) -> int:
        """How many pairs this annotator can still be given, those they hold included."""
        with self._database.snapshot() as connection:
            return self._queue(connection).remaining(annotator)

    def is_empty(self) -> bool:
        """Whether the project has no pair yet."""
        return not self._all("SELECT 1 FROM pair WHERE project = ? LIMIT 1", self._project.id)

    def num_unlike(self) -> int:
        """How many pairs have videos of different length, rate or size, which annotators can see."""
        return int(
            self._one(
                "SELECT count(*) FROM pair p JOIN video a ON a.id = p.video_a JOIN video b ON b.id = p.video_b"
                " WHERE p.project = ? AND (a.num_frames <> b.num_frames OR a.fps <> b.fps OR a.width <> b.width"
                " OR a.height <> b.height)",
                self._project.id,
            )[0]
        )

    def log_event(self, kind: str, detail: str, annotator: str | None = None) -> None:
        """Note something that happened to the store: who exported, which video was found replaced."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO event (time, kind, annotator, detail) VALUES (?, ?, ?, ?)",
                (time.time(), kind, annotator, detail),
            )

    def events(self, count: int = 100) -> list[tuple[float, str, str | None, str]]:
        """The newest events first: (Unix seconds, kind, annotator, detail)."""
        return self._all("SELECT time, kind, annotator, detail FROM event ORDER BY id DESC LIMIT ?", count)

    def _queue(self, connection: Connection) -> Queue:
        return Queue(connection, self._project, self._database.backend.conflicts)

    def _lease(self, connection: Connection, lease_id: int) -> Lease:
        pair, prompt, a, hash_a, b, hash_b, left_is, expires = connection.execute(
            "SELECT p.id, t.text, a.path, a.sha256, b.path, b.sha256, l.left_is, l.expires FROM lease l"
            " JOIN pair p ON p.id = l.pair JOIN prompt t ON t.id = p.prompt JOIN video a ON a.id = p.video_a"
            " JOIN video b ON b.id = p.video_b WHERE l.id = ?",
            (lease_id,),
        ).fetchone()
        sides = ((a, hash_a), (b, hash_b)) if left_is == "a" else ((b, hash_b), (a, hash_a))
        (left, left_hash), (right, right_hash) = sides
        full = (self._full(left), self._full(right))
        return Lease(lease_id, pair, prompt, *full, left_is, expires, left_hash, right_hash)

    def _check(self, aspect: str, choice: str, choices: tuple[str, ...]) -> None:
        if aspect not in self.aspects:
            raise UserError(f"aspect {aspect!r} is not asked in {self.name}; known: {', '.join(self.aspects)}")
        if choice not in choices:
            raise UserError(f"choice {choice!r} is unknown; known: {', '.join(choices)}")

    def _known(self, path: Path | str) -> int | None:
        """The id of a video that is in the store. Raises: UserError when the file was replaced since."""
        digest = self._digest(path)
        known = self._one("SELECT id, sha256 FROM video WHERE path = ?", self._stored(path))
        if known is not None and known[1] != digest:
            raise UserError(f"{path}: the file is not the one that was added (sha256 differs); use another name")
        return None if known is None else int(known[0])

    def _digest(self, path: Path | str) -> str:
        """A file's sha256, taken again only when its size or time has changed: every row of an import names it."""
        key = _state(path)
        if key not in self._digests:
            self._digests[key] = video.sha256(path)
        return self._digests[key]

    def _measured(self, path: Path | str) -> tuple[object, ...]:
        """Rate, frames, width, height and motion of a file, which is decoded once, whole."""
        key = _state(path)
        if key not in self._facts:
            info = video.probe(path)
            self._facts[key] = (info.fps, info.num_frames, info.width, info.height, video.motion(path))
        return self._facts[key]

    def _stored(self, path: Path | str) -> str:
        full = Path(os.path.abspath(path))
        inside = full.is_relative_to(self.folder)
        return full.relative_to(self.folder).as_posix() if inside else str(full)

    def _full(self, stored: str) -> Path:
        return self.folder / stored

    def _projects(self) -> list[Project]:
        rows = self._all("SELECT id, name, aspects, settings FROM project ORDER BY id")
        return [Project(row[0], row[1], tuple(row[2].split(",")), Settings.read(row[3])) for row in rows]

    def _named(self, name: str) -> Project:
        projects = {project.name: project for project in self._projects()}
        if name not in projects:
            raise unknown(name, projects, f"{self.name}: project")
        return projects[name]

    def _one(self, sql: str, *arguments: object) -> Any:
        with self._database.snapshot() as connection:
            return connection.execute(sql, arguments).fetchone()

    def _all(self, sql: str, *arguments: object) -> list[Any]:
        with self._database.snapshot() as connection:
            return connection.execute(sql, arguments).fetchall()


def existing(address: Path | str, project: str | None = None, folder: Path | str = ".") -> Store:
    """A store that must be there already; a mistyped path must not make a new one.

    Raises: UserError when the file does not exist.
    """
    if not preferences_database.is_server(address) and not Path(address).is_file():
        raise UserError(
            f"store {str(address)!r} does not exist; "
            f"make one with `soralign preferences add VIDEOSET --store {address}`"
        )
    return Store(address, project=project, folder=folder)


_FileState = tuple[str, int, int]


def _state(path: Path | str) -> _FileState:
    """Name, size and time of a file: while they stay, so does what was read of it."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return os.path.abspath(path), stat.st_size, stat.st_mtime_ns


def _checked_aspects(aspects: Sequence[str]) -> tuple[str, ...]:
    if not aspects or len(set(aspects)) != len(aspects):
        raise UserError(f"aspects must be one or more different names, seen {', '.join(aspects) or 'none'}")
    for aspect in aspects:
        if not aspect.replace("_", "").isalnum() or len(aspect) > 40:
            raise UserError(f"aspect {aspect!r} is not usable; letters, digits and underscores make a name")
    return tuple(aspects)
