"""The preference store: pairs of videos, who may judge them now, and every vote ever given.

One SQLite file in WAL mode is the only truth. Every write is one `BEGIN IMMEDIATE` transaction (a deferred one that
reads first is refused when another writer came between) and is on disk before the call returns. Votes are append-only:
undo adds a row that supersedes. A pair is lent to an annotator by a lease, so it never gets more labels than asked for.
Not for network file systems, where WAL cannot work. Other formats are read and written by `preferences_io.py`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import video
from core.errors import UserError
from core.preferences_schema import MIGRATIONS
from core.randomness import seed_for
from core.stats import krippendorff_alpha

ASPECTS = ("text_alignment", "motion_quality", "visual_quality", "overall")
CHOICES = ("a", "b", "tie", "both_bad", "skip")
SIDES = ("left", "right", "tie", "both_bad", "skip")
BUSY_SECONDS = 30.0
# A vote counts while nothing supersedes it and it is not itself a withdrawal.
CURRENT = "v.choice <> 'withdrawn' AND NOT EXISTS (SELECT 1 FROM vote s WHERE s.supersedes = v.id)"


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


@dataclass(frozen=True)
class Pair:
    """Two videos of one prompt; `num_labels` counts finished labels and live leases, never above `target_votes`."""

    id: int
    prompt: str
    video_a: Path
    video_b: Path
    source: str
    sampling_probability: float
    target_votes: int
    num_labels: int


@dataclass(frozen=True)
class Vote:
    """One opinion that counts. choice: "a", "b", "tie", "both_bad" or "skip"; time: Unix seconds.

    `left_is` is the video that stood left ("a" or "b"), None for votes that were not given on a screen.
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


class Store:
    """An open preference store; safe to share between threads, and between processes that open it themselves."""

    def __init__(self, path: Path | str, aspects: Sequence[str] | None = None) -> None:
        """Open or create.

        Args:
            aspects: what is asked about each pair. The last one closes a label. Kept in the file from then on;
                None means the file's own, or ASPECTS for a new one.
        Raises: UserError when the file is no store, is of a newer version, or has other aspects.
        """
        self.path = Path(os.path.abspath(path))
        self._lock = threading.RLock()  # threads of one process queue here, which is fairer than SQLite's busy wait
        self._local = threading.local()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.transaction() as connection:
            self._migrate(connection)
            stored = connection.execute("SELECT value FROM meta WHERE key = 'aspects'").fetchone()
            if stored is None:
                stored = (",".join(aspects or ASPECTS),)
                connection.execute("INSERT INTO meta VALUES ('aspects', ?)", stored)
        self.aspects = tuple(stored[0].split(","))
        if aspects is not None and tuple(aspects) != self.aspects:
            raise UserError(f"{self.path}: made for aspects {', '.join(self.aspects)}; asked for {', '.join(aspects)}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside happens or nothing does; calls of other methods inside join it. One fsync for all."""
        with self._lock:
            connection = self._connection()
            if connection.in_transaction:
                yield connection
                return
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                # SQLite has already rolled back after some errors, a full disk for one.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise _of_the_file(self.path, error) from error
                raise

    def add_video(self, path: Path | str, *, model: str | None = None, seed: int | None = None) -> int:
        """The id of a video file, added if new. Files under the store's folder are kept by relative path, so the folder
        can be moved.

        Raises: UserError when the file cannot be read as a video, or was replaced by another under the same name.
        """
        stored = self._stored(path)
        digest = video.sha256(path)
        known = self._one("SELECT id, sha256 FROM video WHERE path = ?", stored)
        if known is not None:
            if known[1] != digest:
                raise UserError(f"{path}: the file is not the one that was added (sha256 differs); use another name")
            return int(known[0])
        info = video.probe(path)
        size = (info.fps, info.num_frames, info.width, info.height)
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO video (path, sha256, model, seed, fps, num_frames, width, height)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO NOTHING",
                (stored, digest, model, seed, *size),
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
    ) -> int:
        """The id of a pair, added if new; a pair that is there keeps what it was added with.

        Args:
            source: how the pair was chosen ("random", "disagreement", ...).
            sampling_probability: chance with which it was chosen, for unbiased estimates later.
            target_votes: how many annotators shall label it.
        """
        if video_a_id == video_b_id:
            raise UserError(f"pair of {prompt!r}: both videos are number {video_a_id}; two different ones are needed")
        if not 0 < sampling_probability <= 1 or target_votes < 1:
            raise UserError(
                f"pair of {prompt!r}: sampling_probability must lie in (0, 1] and target_votes be at least 1, "
                f"seen {sampling_probability} and {target_votes}"
            )
        rank = seed_for(video_a_id, prompt, video_b_id)
        key = (prompt, video_a_id, video_b_id)
        with self.transaction() as connection:
            try:
                connection.execute(
                    "INSERT INTO pair (prompt, video_a, video_b, source, sampling_probability, target_votes, rank)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (prompt, video_a, video_b) DO NOTHING",
                    (*key, source, sampling_probability, target_votes, rank),
                )
            except sqlite3.IntegrityError:
                raise UserError(f"pair of {prompt!r}: video {video_a_id} or {video_b_id} is not in the store") from None
            found = connection.execute("SELECT id FROM pair WHERE prompt = ? AND video_a = ? AND video_b = ?", key)
            return int(found.fetchone()[0])

    def raise_target(self, pair_id: int, target_votes: int) -> None:
        """Let a pair collect at least `target_votes` labels; never lowers."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE pair SET target_votes = max(target_votes, ?) WHERE id = ?", (target_votes, pair_id)
            )

    def claim(self, annotator: str, ttl_seconds: float = 300) -> Lease | None:
        """The pair this annotator should judge now: the one already lent to them, else an open one they have not
        judged; None when there is none. The lease is (re)newed for `ttl_seconds`.

        Sides are drawn from pair and annotator, so that showing a pair again shows it the same way.
        """
        with self.transaction() as connection:
            now = time.time()
            self._expire(connection, now)
            who = self._annotator(connection, annotator)
            held = connection.execute(
                "SELECT id FROM lease WHERE annotator = ? AND state = 'active'", (who,)
            ).fetchone()
            if held is not None:
                connection.execute("UPDATE lease SET expires = ? WHERE id = ?", (now + ttl_seconds, held[0]))
                return self._lease(connection, held[0])
            pair = connection.execute(
                "SELECT p.id FROM pair p WHERE p.taken < p.target_votes AND NOT EXISTS"
                f" (SELECT 1 FROM vote v WHERE v.pair = p.id AND v.annotator = ? AND v.aspect = ? AND {CURRENT})"
                " ORDER BY p.rank LIMIT 1",
                (who, self.aspects[-1]),
            ).fetchone()
            if pair is None:
                return None
            left_is = "ab"[seed_for(pair[0], f"side of {annotator}") & 1]
            lease_id = connection.execute(
                "INSERT INTO lease (pair, annotator, left_is, issued, expires, state) VALUES (?, ?, ?, ?, ?, 'active')",
                (pair[0], who, left_is, now, now + ttl_seconds),
            ).lastrowid
            self._count(connection, pair[0])
            return self._lease(connection, int(lease_id or 0))

    def vote(self, lease_id: int, aspect: str, choice: str) -> int:
        """Record a choice made on a screen; on disk when this returns. The last of `aspects` closes the lease.

        Args:
            choice: "left", "right", "tie", "both_bad" or "skip". A skip of the last aspect leaves the pair to others.
        Returns: the vote's id. Sending the same vote again (a reconnecting browser) returns the same id; another choice
            under a lease that is still open replaces the first.
        Raises: UserError when the lease is unknown, closed or expired. Nothing is recorded then.
        """
        self._check(aspect, choice, SIDES)
        with self.transaction() as connection:
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
            if expires <= time.time():
                raise UserError(f"lease {lease_id} has expired; this vote was not recorded, claim the pair again")
            vote_id = self._insert(connection, (pair, who, aspect, canonical, left_is, lease_id, time.time()), last)
            if aspect == self.aspects[-1]:
                connection.execute("UPDATE lease SET state = 'voted' WHERE id = ?", (lease_id,))
                self._count(connection, pair)
            return vote_id

    def record_vote(
        self,
        pair_id: int,
        annotator: str,
        aspect: str,
        choice: str,
        *,
        left_is: str | None = None,
        time_given: float | None = None,
    ) -> int:
        """Record a vote that was not given under a lease: imported, or by a simulated annotator.

        Args: choice: "a", "b", "tie", "both_bad" or "skip".
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
            vote_id = self._insert(connection, (pair_id, who, aspect, choice, left_is, None, given), last)
            if aspect == self.aspects[-1]:
                self._count(connection, pair_id)
            return vote_id

    def undo(self, annotator: str, ttl_seconds: float = 300) -> Lease | None:
        """Take back this annotator's newest label and lend them its pair again, sides as they were; None if there is
        no label. Pressed again, it goes one label further back. The votes stay in the file, superseded."""
        with self.transaction() as connection:
            now = time.time()
            self._expire(connection, now)
            who = self._annotator(connection, annotator)
            newest = connection.execute(
                "SELECT l.id, l.pair FROM vote v JOIN lease l ON l.id = v.lease"
                f" WHERE v.annotator = ? AND l.state = 'voted' AND {CURRENT} ORDER BY v.id DESC LIMIT 1",
                (who,),
            ).fetchone()
            if newest is None:
                return None
            lease_id, pair = newest
            held = connection.execute(
                "SELECT id, pair FROM lease WHERE annotator = ? AND state = 'active'", (who,)
            ).fetchone()
            if held is not None:
                connection.execute("UPDATE lease SET state = 'released' WHERE id = ?", (held[0],))
                self._count(connection, held[1])
            given = connection.execute(
                f"SELECT v.id, v.aspect, v.left_is FROM vote v WHERE v.lease = ? AND {CURRENT}", (lease_id,)
            ).fetchall()
            for vote_id, aspect, left_is in given:
                row = (pair, who, aspect, "withdrawn", left_is, lease_id, now)
                self._insert(connection, row, (vote_id, "", lease_id))
            connection.execute(
                "UPDATE lease SET state = 'active', expires = ? WHERE id = ?", (now + ttl_seconds, lease_id)
            )
            self._count(connection, pair)
            return self._lease(connection, lease_id)

    def votes(self, aspect: str | None = None) -> list[Vote]:
        """The votes that count, oldest first, of one aspect or of all."""
        rows = self._all(
            "SELECT v.pair, p.prompt, a.path, b.path, n.name, v.aspect, v.choice, v.time, v.left_is FROM vote v"
            " JOIN pair p ON p.id = v.pair JOIN video a ON a.id = p.video_a JOIN video b ON b.id = p.video_b"
            f" JOIN annotator n ON n.id = v.annotator WHERE {CURRENT} AND (? IS NULL OR v.aspect = ?) ORDER BY v.id",
            aspect,
            aspect,
        )
        return [Vote(row[0], row[1], self._full(row[2]), self._full(row[3]), *row[4:]) for row in rows]

    def pairs(self) -> list[Pair]:
        """All pairs, in the order they were added."""
        rows = self._all(
            "SELECT p.id, p.prompt, a.path, b.path, p.source, p.sampling_probability, p.target_votes, p.taken"
            " FROM pair p JOIN video a ON a.id = p.video_a JOIN video b ON b.id = p.video_b ORDER BY p.id"
        )
        return [Pair(row[0], row[1], self._full(row[2]), self._full(row[3]), *row[4:]) for row in rows]

    def find_pair(self, prompt: str, video_a_id: int, video_b_id: int) -> int | None:
        """The id of the pair with these videos in this order, or None."""
        key = (prompt, video_a_id, video_b_id)
        row = self._one("SELECT id FROM pair WHERE prompt = ? AND video_a = ? AND video_b = ?", *key)
        return None if row is None else int(row[0])

    def num_labels(self, pair_id: int) -> int:
        """Finished labels and live leases of a pair."""
        return int(self._one("SELECT taken FROM pair WHERE id = ?", pair_id)[0])

    def origins(self) -> dict[Path, tuple[str | None, int | None]]:
        """For each video the model and seed it came from."""
        return {
            self._full(path): (model, seed) for path, model, seed in self._all("SELECT path, model, seed FROM video")
        }

    def stats(self) -> dict[str, Any]:
        """Counts, choices by aspect, labels by annotator, share of left choices, agreement by aspect (nominal
        Krippendorff alpha, None where nothing was judged twice)."""
        votes, pairs = self.votes(), self.pairs()
        lent = {row[0] for row in self._all("SELECT pair FROM lease WHERE state = 'active'")}
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
            "videos": self._one("SELECT count(*) FROM video")[0],
            "pairs": len(pairs),
            "complete_pairs": sum(pair.num_labels == pair.target_votes and pair.id not in lent for pair in pairs),
            "votes": len(votes),
            "choices": {aspect: dict(counts) for aspect, counts in choices.items()},
            "annotators": dict(Counter(vote.annotator for vote in votes if vote.aspect == self.aspects[-1])),
            "left_share": sum(sides) / len(sides) if sides else None,
            "agreement": agreement,
        }

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection. A forked child opens its own: SQLite forbids carrying one across a fork."""
        if getattr(self._local, "pid", None) != os.getpid():
            try:
                connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")  # a vote that was paid for survives a power cut
                connection.execute("PRAGMA foreign_keys = ON")
            except sqlite3.DatabaseError as error:
                raise _of_the_file(self.path, error) from error
            self._local.connection, self._local.pid = connection, os.getpid()
        return self._local.connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise UserError(
                f"{self.path}: schema version {version} is newer than the {len(MIGRATIONS)} known here; update Soralign"
            )
        if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise UserError(f"{self.path}: an SQLite file, but no preference store; choose another path")
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _expire(self, connection: sqlite3.Connection, now: float) -> None:
        """Close leases whose time is over and give their pairs back."""
        over = connection.execute(
            "SELECT id, pair FROM lease WHERE state = 'active' AND expires <= ?", (now,)
        ).fetchall()
        for lease_id, pair in over:
            connection.execute("UPDATE lease SET state = 'expired' WHERE id = ?", (lease_id,))
            self._count(connection, pair)

    def _count(self, connection: sqlite3.Connection, pair: int) -> None:
        """Bring `taken` up to date: annotators who finished the pair without skipping, or hold it now."""
        try:
            connection.execute(
                "UPDATE pair SET taken = (SELECT count(*) FROM ("
                f" SELECT v.annotator FROM vote v WHERE v.pair = pair.id AND v.aspect = ? AND v.choice <> 'skip'"
                f" AND {CURRENT}"
                " UNION SELECT annotator FROM lease WHERE lease.pair = pair.id AND state = 'active')) WHERE id = ?",
                (self.aspects[-1], pair),
            )
        except sqlite3.IntegrityError:
            raise UserError(f"pair {pair} already has all the labels it should get; raise its target first") from None

    def _annotator(self, connection: sqlite3.Connection, name: str) -> int:
        if not name.strip():
            raise UserError("an annotator needs a name")
        found = connection.execute("SELECT id FROM annotator WHERE name = ?", (name,)).fetchone()
        if found is not None:
            return int(found[0])
        added = connection.execute("INSERT INTO annotator (name, created) VALUES (?, ?)", (name, time.time()))
        return int(added.lastrowid or 0)

    def _last(self, connection: sqlite3.Connection, pair: int, who: int, aspect: str) -> tuple[int, str, int] | None:
        """The end of the chain of votes on one question: (id, choice, lease)."""
        return connection.execute(
            "SELECT v.id, v.choice, v.lease FROM vote v WHERE v.pair = ? AND v.annotator = ? AND v.aspect = ?"
            " AND NOT EXISTS (SELECT 1 FROM vote s WHERE s.supersedes = v.id)",
            (pair, who, aspect),
        ).fetchone()

    def _insert(self, connection: sqlite3.Connection, row: tuple[Any, ...], last: tuple[int, str, int] | None) -> int:
        added = connection.execute(
            "INSERT INTO vote (pair, annotator, aspect, choice, left_is, lease, time, supersedes)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, last[0] if last else None),
        )
        return int(added.lastrowid or 0)

    def _lease(self, connection: sqlite3.Connection, lease_id: int) -> Lease:
        pair, prompt, a, b, left_is, expires = connection.execute(
            "SELECT p.id, p.prompt, a.path, b.path, l.left_is, l.expires FROM lease l JOIN pair p ON p.id = l.pair"
            " JOIN video a ON a.id = p.video_a JOIN video b ON b.id = p.video_b WHERE l.id = ?",
            (lease_id,),
        ).fetchone()
        left, right = (a, b) if left_is == "a" else (b, a)
        return Lease(lease_id, pair, prompt, self._full(left), self._full(right), left_is, expires)

    def _check(self, aspect: str, choice: str, choices: tuple[str, ...]) -> None:
        if aspect not in self.aspects:
            raise UserError(f"aspect {aspect!r} is not asked in {self.path.name}; known: {', '.join(self.aspects)}")
        if choice not in choices:
            raise UserError(f"choice {choice!r} is unknown; known: {', '.join(choices)}")

    def _stored(self, path: Path | str) -> str:
        full = Path(os.path.abspath(path))
        inside = full.is_relative_to(self.path.parent)
        return full.relative_to(self.path.parent).as_posix() if inside else str(full)

    def _full(self, stored: str) -> Path:
        return self.path.parent / stored

    def _one(self, sql: str, *arguments: object) -> Any:
        return self._connection().execute(sql, arguments).fetchone()

    def _all(self, sql: str, *arguments: object) -> list[Any]:
        return self._connection().execute(sql, arguments).fetchall()


def _of_the_file(path: Path, error: sqlite3.DatabaseError) -> UserError:
    """A line for what SQLite says about the file itself."""
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return UserError(f"{path}: not a preference store ({text}); choose another path")
    if "locked" in text:
        return UserError(f"{path}: another program has held the store for {BUSY_SECONDS:.0f} seconds; try again")
    if "full" in text:
        return UserError(f"{path}: the disk is full; nothing of this change was recorded")
    if "readonly" in text or "unable to open" in text:
        return UserError(f"{path}: the store cannot be written here ({text}); check the folder and its permissions")
    return UserError(f"{path}: {text}")
