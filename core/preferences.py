"""The preference store: pairs of videos, who may judge them now, and every vote ever given.

One SQLite file (or one Postgres database) is the only truth. Every write is on disk before the call returns. Votes are
append-only: undo adds a row that supersedes. A pair is lent to an annotator by a lease, so it never gets more labels
than asked for. Not for network file systems, where SQLite's WAL cannot work. What surrounds it: the tables in
`preferences_schema.py`, people and roles in `preferences_people.py`, other formats in `preferences_io.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from core import preferences_database, preferences_schema, video
from core.errors import UserError
from core.preferences_database import Connection
from core.preferences_schema import EVERYONE
from core.randomness import seed_for
from core.registry import unknown
from core.stats import krippendorff_alpha

ASPECTS = ("text_alignment", "motion_quality", "visual_quality", "overall")
CHOICES = ("a", "b", "tie", "both_bad", "skip")
ANSWERS = ("a", "b", "tie")  # that a gold pair may have
SIDES = ("left", "right", "tie", "both_bad", "skip")
# A vote counts while nothing supersedes it and it is not itself a withdrawal.
CURRENT = "v.choice <> 'withdrawn' AND NOT EXISTS (SELECT 1 FROM vote s WHERE s.supersedes = v.id)"
REPEAT_DISTANCE = 8  # labels between a pair and its swapped repeat, so that nobody remembers the sides


@dataclass(frozen=True)
class Settings:
    """How a project asks. Shares lie in [0, 1]; gold pairs are shown only where there are some."""

    gold_share: float = 0.05
    repeat_share: float = 0.0
    min_watched: float = 0.0
    fast_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("gold_share", "repeat_share", "min_watched"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie between 0 and 1, seen {getattr(self, name)}")
        if not self.fast_seconds >= 0:
            raise UserError(f"fast_seconds must be at least 0, seen {self.fast_seconds}")
        if self.gold_share + self.repeat_share > 0.5:
            raise UserError("gold_share and repeat_share together may be at most 0.5: labels are the purpose")

    @classmethod
    def read(cls, text: str) -> Settings:
        """From what a project stores; what a newer Soralign has added to it is left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in json.loads(text).items() if key in known})


@dataclass(frozen=True)
class Lease:
    """A pair lent to one annotator until `expires` (Unix seconds). `left_is` says which video stands left."""

    id: int
    pair_id: int
    prompt: str
    left: Path
    right: Path
    left_is: str
    expires: float
    left_sha256: str
    right_sha256: str


@dataclass(frozen=True)
class Pair:
    """Two videos of one prompt; `num_labels` counts finished labels and live leases, never above `target_votes`.

    A pair with `gold` has a known answer ("a", "b" or "tie"); one with `repeats` shows an earlier pair with its sides
    swapped. Both check annotators and are shown to all of them.
    """

    id: int
    prompt: str
    video_a: Path
    video_b: Path
    source: str
    sampling_probability: float
    target_votes: int
    num_labels: int
    gold: str | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class Vote:
    """One opinion that counts. choice: "a", "b", "tie", "both_bad" or "skip"; time: Unix seconds.

    `left_is` is the video that stood left ("a" or "b"), None for votes that were not given on a screen. `seconds` is
    the time the pair was on the screen, `watched` the share of the less watched video that was played, `comment` what
    was written about it (for a skip: why); None where unknown.
    """

    pair_id: int
    prompt: str
    video_a: Path
    video_b: Path
    annotator: str
    aspect: str
    choice: str
    time: float
    left_is: str | None
    seconds: float | None = None
    watched: float | None = None
    comment: str | None = None


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
        preferences_schema.prepare(self._database)
        found = self._all("SELECT id, name, aspects, settings FROM project ORDER BY id")
        if not found:
            with self.transaction() as connection:
                connection.execute(
                    "INSERT INTO project (name, aspects, settings, created) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (project or "default", ",".join(_checked_aspects(aspects or ASPECTS)), "{}", time.time()),
                )
            found = self._all("SELECT id, name, aspects, settings FROM project ORDER BY id")
        names = {name: (number, asked, settings) for number, name, asked, settings in found}
        self.project = project or found[0][1]
        if self.project not in names:
            raise unknown(self.project, names, f"{self.name}: project")
        self._project, asked, settings = names[self.project]
        self.aspects = tuple(asked.split(","))
        self.settings = Settings.read(settings)
        if aspects is not None and tuple(aspects) != self.aspects:
            raise UserError(f"{self.name}: made for aspects {', '.join(self.aspects)}; asked for {', '.join(aspects)}")

    def transaction(self) -> contextlib.AbstractContextManager[Connection]:
        """Everything inside happens or nothing does; calls of other methods inside join it. One fsync for all."""
        return self._database.transaction()

    def snapshot(self) -> contextlib.AbstractContextManager[Connection]:
        """Everything read inside is of one moment; labeling goes on meanwhile."""
        return self._database.snapshot()

    def projects(self) -> list[str]:
        """The names of the store's projects, oldest first."""
        return [name for (name,) in self._all("SELECT name FROM project ORDER BY id")]

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
        other = object.__new__(Store)
        other.__dict__.update(self.__dict__)
        row = self._one("SELECT id, aspects, settings FROM project WHERE name = ?", name)
        if row is None:
            raise unknown(name, self.projects(), f"{self.name}: project")
        other.project, other._project, other.aspects = name, row[0], tuple(row[1].split(","))
        other.settings = Settings.read(row[2])
        return other

    def save_settings(self, settings: Settings) -> None:
        """Change how this project asks, for everybody who opens it from now on."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE project SET settings = ? WHERE id = ?", (json.dumps(asdict(settings)), self._project)
            )
        self.settings = settings

    def add_video(self, path: Path | str, *, model: str | None = None, seed: int | None = None) -> int:
        """The id of a video file, added if new. Files under the store's folder are kept by relative path, so the folder
        can be moved. A new file is decoded once, whole: that proves it and measures its motion.

        Raises: UserError when the file cannot be read as a video of two frames or more, or was replaced by another
            under the same name.
        """
        stored = self._stored(path)
        digest = video.sha256(path)
        known = self._one("SELECT id, sha256 FROM video WHERE path = ?", stored)
        if known is not None:
            if known[1] != digest:
                raise UserError(f"{path}: the file is not the one that was added (sha256 differs); use another name")
            return int(known[0])
        info = video.probe(path)
        facts = (info.fps, info.num_frames, info.width, info.height, video.motion(path))
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
            key = (self._project, text, video_a_id, video_b_id)
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
            now = time.time()
            self._expire(connection, now)
            who = self._annotator(connection, annotator)
            held = self._held(connection, who)
            for lease in held:
                connection.execute("UPDATE lease SET expires = ? WHERE id = ?", (now + ttl_seconds, lease))
            while len(held) < count and (found := self._next(connection, who, annotator)) is not None:
                pair, left_is = found
                row = (pair, who, left_is, now, now + ttl_seconds)
                added = connection.execute(
                    "INSERT INTO lease (pair, annotator, left_is, issued, expires, state)"
                    " VALUES (?, ?, ?, ?, ?, 'active') RETURNING id",
                    row,
                )
                held.append(int(added.fetchone()[0]))
                self._count(connection, pair)
            return [self._lease(connection, lease) for lease in held[:count]]

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
        return self._database.write(lambda connection: self._vote(connection, lease_id, aspect, choice))

    def label(
        self,
        lease_id: int,
        annotator: str,
        answers: Mapping[str, str],
        *,
        seconds: float | None = None,
        watched: float | None = None,
        comment: str | None = None,
        grace_seconds: float = 60,
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

        def work(connection: Connection) -> None:
            now = time.time()
            self._expire(connection, now)
            lease = connection.execute(
                "SELECT l.pair, l.state FROM lease l JOIN annotator n ON n.id = l.annotator"
                " WHERE l.id = ? AND n.name = ?",
                (lease_id, annotator),
            ).fetchone()
            if lease is None:
                raise UserError(f"lease {lease_id} was not given to {annotator!r}; nothing was recorded")
            if lease[1] == "expired":
                connection.execute(
                    "UPDATE lease SET state = 'active', expires = ? WHERE id = ?", (now + grace_seconds, lease_id)
                )
                try:
                    self._count(connection, lease[0])
                except UserError:
                    raise UserError(
                        "this pair was on the screen for too long and went to somebody else; nothing was recorded"
                    ) from None
            for aspect in self.aspects:  # the last one closes the label
                if aspect in answers:
                    self._vote(connection, lease_id, aspect, answers[aspect], seconds, watched, comment)

        self._database.write(work)

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
            if connection.execute("SELECT 1 FROM pair WHERE id = ?", (pair_id,)).fetchone() is None:
                raise UserError(f"pair {pair_id} is not in the store")
            who = self._annotator(connection, annotator)
            last = self._last(connection, pair_id, who, aspect)
            if last is not None and last[1] == choice:
                return int(last[0])
            if last is not None and last[1] != "withdrawn":
                raise UserError(
                    f"pair {pair_id}: {annotator!r} has already voted {last[1]!r} on {aspect}, not {choice!r}"
                )
            given = time.time() if time_given is None else time_given
            facts = (left_is, None, given, seconds, watched, comment)
            vote_id = self._insert(connection, (pair_id, who, aspect, choice, *facts), last)
            if aspect == self.aspects[-1]:
                if make_room and choice != "skip":
                    self.raise_target(pair_id, self.num_labels(pair_id) + 1)
                self._count(connection, pair_id)
            return vote_id

    def undo(self, annotator: str, ttl_seconds: float = 300, *, lease: int | None = None) -> Lease | None:
        """Take back this annotator's newest label and lend them its pair again, sides as they were; None if there is
        no label. Pressed again, it goes one label further back. The votes stay in the file, superseded.

        Args: lease: the label that is meant; when the newest is another one, nothing happens. So a browser may send
            the same undo twice.
        Raises: UserError when the label was a skip and the pair has got its labels from others meanwhile.
        """

        def work(connection: Connection) -> Lease | None:
            now = time.time()
            self._expire(connection, now)
            who = self._annotator(connection, annotator)
            newest = self._newest(connection, who)
            if newest is None or lease not in (None, newest[0]):
                return None
            lease_id, pair = newest
            given = connection.execute(
                f"SELECT v.id, v.aspect, v.left_is FROM vote v WHERE v.lease = ? AND {CURRENT}", (lease_id,)
            ).fetchall()
            for vote_id, aspect, left_is in given:
                row = (pair, who, aspect, "withdrawn", left_is, lease_id, now, None, None, None)
                self._insert(connection, row, (vote_id, "", lease_id))
            connection.execute(
                "UPDATE lease SET state = 'active', expires = ? WHERE id = ?", (now + ttl_seconds, lease_id)
            )
            self._count(connection, pair)
            return self._lease(connection, lease_id)

        return self._database.write(work)

    def newest_label(self, annotator: str) -> int | None:
        """The lease of this annotator's newest label, which `undo` would take back."""
        with self._database.snapshot() as connection:
            who = connection.execute("SELECT id FROM annotator WHERE name = ?", (annotator,)).fetchone()
            newest = None if who is None else self._newest(connection, who[0])
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
            f" WHERE p.project = ? AND {CURRENT}{wanted} AND {'NOT ' if checks else ''}{_IS_LABEL} ORDER BY v.id",
            self._project,
            *arguments,
        )
        return [Vote(row[0], row[1], self._full(row[2]), self._full(row[3]), *row[4:]) for row in rows]

    def pairs(self, *, checks: bool = False) -> list[Pair]:
        """All pairs to be labelled, in the order they were added; or the gold pairs and repeats that check people."""
        rows = self._all(
            "SELECT p.id, t.text, a.path, b.path, p.source, p.sampling_probability, p.target_votes, p.taken, p.gold,"
            " p.repeats FROM pair p JOIN prompt t ON t.id = p.prompt JOIN video a ON a.id = p.video_a"
            f" JOIN video b ON b.id = p.video_b WHERE p.project = ? AND {'NOT ' if checks else ''}{_IS_LABEL}"
            " ORDER BY p.id",
            self._project,
        )
        return [Pair(row[0], row[1], self._full(row[2]), self._full(row[3]), *row[4:]) for row in rows]

    def find_pair(self, prompt: str, video_a_id: int, video_b_id: int) -> int | None:
        """The id of the pair with these videos in this order, or None."""
        row = self._one(
            "SELECT p.id FROM pair p JOIN prompt t ON t.id = p.prompt"
            " WHERE p.project = ? AND t.text = ? AND p.video_a = ? AND p.video_b = ?",
            self._project,
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
            self._project,
            self.aspects[-1],
        )
        return [given for (given,) in rows]

    def remaining(self, annotator: str) -> int:
        """How many pairs this annotator can still be given, those they hold included."""
        with self._database.snapshot() as connection:
            found = connection.execute("SELECT id FROM annotator WHERE name = ?", (annotator,)).fetchone()
            who = found[0] if found else -1
            open_pairs = f"SELECT count(*) FROM pair p WHERE p.project = ? AND p.taken < p.target_votes AND {_IS_LABEL}"
            # Counting by hand what _UNTOUCHED would ask of every pair: a screen wants this with every answer.
            touched = (
                f"{open_pairs} AND p.id IN (SELECT l.pair FROM lease l WHERE l.annotator = ? AND l.state = 'active'"
                f" UNION SELECT v.pair FROM vote v WHERE v.annotator = ? AND v.aspect = ? AND {CURRENT})"
            )
            num_open, num_touched = (
                int(connection.execute(sql, arguments).fetchone()[0])
                for sql, arguments in (
                    (open_pairs, (self._project,)),
                    (touched, (self._project, who, who, self.aspects[-1])),
                )
            )
            return len(self._held(connection, who)) + num_open - num_touched

    def is_empty(self) -> bool:
        """Whether the project has no pair yet."""
        return not self._all("SELECT 1 FROM pair WHERE project = ? LIMIT 1", self._project)

    def num_unlike(self) -> int:
        """How many pairs have videos of different length, rate or size, which annotators can see."""
        return int(
            self._one(
                "SELECT count(*) FROM pair p JOIN video a ON a.id = p.video_a JOIN video b ON b.id = p.video_b"
                " WHERE p.project = ? AND (a.num_frames <> b.num_frames OR a.fps <> b.fps OR a.width <> b.width"
                " OR a.height <> b.height)",
                self._project,
            )[0]
        )

    def stats(self) -> dict[str, Any]:
        """Counts, choices by aspect, labels by annotator, share of left choices, agreement by aspect (nominal
        Krippendorff alpha, None where nothing was judged twice)."""
        with self.snapshot():
            votes, pairs = self.votes(), self.pairs()
            lent = {row[0] for row in self._all("SELECT pair FROM lease WHERE state = 'active'")}
            videos = self._one("SELECT count(*) FROM video")[0]
        choices = {aspect: Counter(vote.choice for vote in votes if vote.aspect == aspect) for aspect in self.aspects}
        sides = [vote.choice == vote.left_is for vote in votes if vote.left_is and vote.choice in ("a", "b")]
        agreement: dict[str, float | None] = {}
        for aspect in self.aspects:
            units: dict[int, list[str]] = defaultdict(list)
            for vote in votes:
                if vote.aspect == aspect and vote.choice != "skip":
                    units[vote.pair_id].append(vote.choice)
            alpha = krippendorff_alpha(list(units.values()))
            agreement[aspect] = None if alpha != alpha else alpha
        return {
            "videos": videos,
            "pairs": len(pairs),
            "complete_pairs": sum(pair.num_labels == pair.target_votes and pair.id not in lent for pair in pairs),
            "votes": len(votes),
            "choices": {aspect: dict(counts) for aspect, counts in choices.items()},
            "annotators": dict(Counter(vote.annotator for vote in votes if vote.aspect == self.aspects[-1])),
            "left_share": sum(sides) / len(sides) if sides else None,
            "agreement": agreement,
        }

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

    def _vote(
        self,
        connection: Connection,
        lease_id: int,
        aspect: str,
        choice: str,
        seconds: float | None = None,
        watched: float | None = None,
        comment: str | None = None,
    ) -> int:
        lease = connection.execute(
            "SELECT pair, annotator, left_is, expires, state FROM lease WHERE id = ?", (lease_id,)
        ).fetchone()
        if lease is None:
            raise UserError(f"lease {lease_id} is unknown; claim a pair first")
        pair, who, left_is, expires, state = lease
        canonical = {"left": left_is, "right": "b" if left_is == "a" else "a"}.get(choice, choice)
        last = self._last(connection, pair, who, aspect)
        if last is not None and (last[1], last[2]) == (canonical, lease_id):
            return int(last[0])
        if state != "active":
            raise UserError(f"lease {lease_id} is {state}; this vote was not recorded, claim the next pair")
        now = time.time()
        if expires <= now:
            raise UserError(f"lease {lease_id} has expired; this vote was not recorded, claim the pair again")
        row = (pair, who, aspect, canonical, left_is, lease_id, now, seconds, watched, comment)
        vote_id = self._insert(connection, row, last)
        if aspect == self.aspects[-1]:
            connection.execute("UPDATE lease SET state = 'voted' WHERE id = ?", (lease_id,))
            self._count(connection, pair)
        return vote_id

    def _next(self, connection: Connection, who: int, name: str) -> tuple[int, str] | None:
        """The next pair for an annotator and the video that shall stand left."""
        pair = connection.execute(
            "SELECT p.id FROM pair p WHERE p.project = ? AND p.taken < p.target_votes AND p.gold IS NULL"
            f" AND p.repeats IS NULL AND {_UNTOUCHED} ORDER BY p.rank LIMIT 1",
            (self._project, who, who, self.aspects[-1]),
        ).fetchone()
        if pair is None:
            return None
        check = self._check_pair(connection, who, name)
        if check is not None:
            return check
        return pair[0], "ab"[seed_for(pair[0], f"side of {name}") & 1]

    def _check_pair(self, connection: Connection, who: int, name: str) -> tuple[int, str] | None:
        """A gold pair or a repeat, when it is this annotator's turn for one: drawn, so that nobody can count along."""
        settings = self.settings
        if settings.gold_share + settings.repeat_share == 0:
            return None
        turn = connection.execute("SELECT count(*) FROM lease WHERE annotator = ?", (who,)).fetchone()[0]
        drawn = seed_for(turn, f"check of {name}") / 2**63
        if drawn < settings.gold_share:
            gold = connection.execute(
                f"SELECT p.id FROM pair p WHERE p.project = ? AND p.gold IS NOT NULL AND {_UNTOUCHED}"
                " ORDER BY p.rank LIMIT 1",
                (self._project, who, who, self.aspects[-1]),
            ).fetchone()
            return None if gold is None else (gold[0], "ab"[seed_for(gold[0], f"side of {name}") & 1])
        if drawn < settings.gold_share + settings.repeat_share:
            return self._repeat(connection, who)
        return None

    def _repeat(self, connection: Connection, who: int) -> tuple[int, str] | None:
        """The oldest label that this annotator has not been asked for again, sides swapped: the same letter stands
        left, and the pair is stored the other way round."""
        given = connection.execute(
            "SELECT p.id, l.left_is, p.prompt, p.video_a, p.video_b, p.rank FROM vote v JOIN lease l ON l.id = v.lease"
            " JOIN pair p ON p.id = v.pair WHERE v.annotator = ? AND p.project = ? AND v.aspect = ?"
            f" AND v.choice <> 'skip' AND {CURRENT} AND {_IS_LABEL} AND NOT EXISTS (SELECT 1 FROM pair r"
            " JOIN lease rl ON rl.pair = r.id WHERE r.repeats = p.id AND rl.annotator = ?) ORDER BY v.id",
            (who, self._project, self.aspects[-1], who),
        ).fetchall()
        if len(given) <= REPEAT_DISTANCE:
            return None
        pair, left_is, prompt, video_a, video_b, rank = given[0]
        connection.execute(
            "INSERT INTO pair (project, prompt, video_a, video_b, source, sampling_probability, target_votes, repeats,"
            " rank) VALUES (?, ?, ?, ?, 'repeat', 1.0, ?, ?, ?) ON CONFLICT (project, prompt, video_a, video_b)"
            " DO NOTHING",
            (self._project, prompt, video_b, video_a, EVERYONE, pair, rank),
        )
        found = connection.execute("SELECT id FROM pair WHERE repeats = ?", (pair,)).fetchone()
        return None if found is None else (found[0], left_is)  # None: somebody added the swapped pair to be labelled

    def _newest(self, connection: Connection, who: int) -> tuple[int, int] | None:
        """Lease and pair of an annotator's newest label in this project."""
        found = connection.execute(
            "SELECT l.id, l.pair FROM vote v JOIN lease l ON l.id = v.lease JOIN pair p ON p.id = v.pair"
            f" WHERE v.annotator = ? AND p.project = ? AND l.state = 'voted' AND {CURRENT} ORDER BY v.id DESC LIMIT 1",
            (who, self._project),
        ).fetchone()
        return None if found is None else (int(found[0]), int(found[1]))

    def _held(self, connection: Connection, who: int) -> list[int]:
        """This annotator's live leases in this project, oldest first."""
        rows = connection.execute(
            "SELECT l.id FROM lease l JOIN pair p ON p.id = l.pair"
            " WHERE l.annotator = ? AND l.state = 'active' AND p.project = ? ORDER BY l.id",
            (who, self._project),
        ).fetchall()
        return [int(lease) for (lease,) in rows]

    def _expire(self, connection: Connection, now: float) -> None:
        """Close leases whose time is over and give their pairs back."""
        over = connection.execute(
            "SELECT id, pair FROM lease WHERE state = 'active' AND expires <= ?", (now,)
        ).fetchall()
        for lease_id, pair in over:
            connection.execute("UPDATE lease SET state = 'expired' WHERE id = ?", (lease_id,))
            self._count(connection, pair)

    def _count(self, connection: Connection, pair: int) -> None:
        """Bring `taken` up to date: annotators who finished the pair without skipping, or hold it now."""
        try:
            connection.execute(
                "UPDATE pair SET taken = (SELECT count(*) FROM ("
                " SELECT v.annotator FROM vote v WHERE v.pair = pair.id AND v.aspect = ? AND v.choice <> 'skip'"
                f" AND {CURRENT} UNION SELECT annotator FROM lease WHERE lease.pair = pair.id AND state = 'active')"
                " AS busy) WHERE id = ?",
                (self.aspects[-1], pair),
            )
        except self._database.backend.conflicts:
            raise UserError(f"pair {pair} already has all the labels it should get; raise its target first") from None

    def _annotator(self, connection: Connection, name: str) -> int:
        if not name.strip():
            raise UserError("an annotator needs a name")
        found = connection.execute("SELECT id FROM annotator WHERE name = ?", (name,)).fetchone()
        if found is not None:
            return int(found[0])
        added = connection.execute(
            "INSERT INTO annotator (name, created) VALUES (?, ?) RETURNING id", (name, time.time())
        )
        return int(added.fetchone()[0])

    def _last(self, connection: Connection, pair: int, who: int, aspect: str) -> tuple[int, str, int] | None:
        """The end of the chain of votes on one question: (id, choice, lease)."""
        return connection.execute(
            "SELECT v.id, v.choice, v.lease FROM vote v WHERE v.pair = ? AND v.annotator = ? AND v.aspect = ?"
            " AND NOT EXISTS (SELECT 1 FROM vote s WHERE s.supersedes = v.id)",
            (pair, who, aspect),
        ).fetchone()

    def _insert(self, connection: Connection, row: tuple[Any, ...], last: tuple[int, str, int] | None) -> int:
        added = connection.execute(
            "INSERT INTO vote (pair, annotator, aspect, choice, left_is, lease, time, seconds, watched, comment,"
            " supersedes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            (*row, last[0] if last else None),
        )
        return int(added.fetchone()[0])

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

    def _stored(self, path: Path | str) -> str:
        full = Path(os.path.abspath(path))
        inside = full.is_relative_to(self.folder)
        return full.relative_to(self.folder).as_posix() if inside else str(full)

    def _full(self, stored: str) -> Path:
        return self.folder / stored

    def _one(self, sql: str, *arguments: object) -> Any:
        with self._database.snapshot() as connection:
            return connection.execute(sql, arguments).fetchone()

    def _all(self, sql: str, *arguments: object) -> list[Any]:
        with self._database.snapshot() as connection:
            return connection.execute(sql, arguments).fetchall()


# Conditions on a pair p: not a check of people; neither held nor judged by an annotator (asked twice for their id, then
# for the closing aspect).
_IS_LABEL = "(p.gold IS NULL AND p.repeats IS NULL)"
_UNTOUCHED = (
    "NOT EXISTS (SELECT 1 FROM lease l WHERE l.pair = p.id AND l.annotator = ? AND l.state = 'active')"
    f" AND NOT EXISTS (SELECT 1 FROM vote v WHERE v.pair = p.id AND v.annotator = ? AND v.aspect = ? AND {CURRENT})"
)


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


def _checked_aspects(aspects: Sequence[str]) -> tuple[str, ...]:
    if not aspects or len(set(aspects)) != len(aspects):
        raise UserError(f"aspects must be one or more different names, seen {', '.join(aspects) or 'none'}")
    for aspect in aspects:
        if not aspect.replace("_", "").isalnum() or len(aspect) > 40:
            raise UserError(f"aspect {aspect!r} is not usable; letters, digits and underscores make a name")
    return tuple(aspects)
