"""Which pair an annotator is lent next, until when, and how many labels a pair has: the queue of one project.

Nobody is lent a pair they have judged, and no pair gets more labels than it asks for. Now and then a hidden check comes
instead of a new pair: one with a known answer, or the swapped repeat of an earlier one. Everything here runs inside a
transaction of the store; votes are in `preferences_votes.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from core.errors import UserError
from core.preferences_database import Connection
from core.preferences_schema import CURRENT, EVERYONE, IS_LABEL
from core.preferences_types import Project
from core.randomness import seed_for

REPEAT_DISTANCE = 8  # labels between a pair and its swapped repeat, so that nobody remembers the sides
# Of a pair p: neither held nor judged by an annotator (asked twice for their id, then for the closing aspect).
UNTOUCHED = (
    "NOT EXISTS (SELECT 1 FROM lease l WHERE l.pair = p.id AND l.annotator = ? AND l.state = 'active')"
    f" AND NOT EXISTS (SELECT 1 FROM vote v WHERE v.pair = p.id AND v.annotator = ? AND v.aspect = ? AND {CURRENT})"
)


@dataclass(frozen=True)
class Queue:
    """One project's queue in one transaction. `conflicts`: what the database raises for a row it refuses."""

    connection: Connection
    project: Project
    conflicts: tuple[type[Exception], ...]

    def lend(self, annotator: str, count: int, ttl_seconds: float) -> list[int]:
        """Up to `count` leases of this annotator, all renewed: what they hold, then new ones."""
        now = time.time()
        self.expire(now)
        who = self.annotator(annotator)
        held = self.held(who)
        for lease in held:
            self.connection.execute("UPDATE lease SET expires = ? WHERE id = ?", (now + ttl_seconds, lease))
        while len(held) < count and (found := self._next(who, annotator)) is not None:
            pair, left_is = found
            added = self.connection.execute(
                "INSERT INTO lease (pair, annotator, left_is, issued, expires, state)"
                " VALUES (?, ?, ?, ?, ?, 'active') RETURNING id",
                (pair, who, left_is, now, now + ttl_seconds),
            )
            held.append(int(added.fetchone()[0]))
            self.count(pair)
        return held[:count]

    def annotator(self, name: str) -> int:
        """The id of an annotator, added if new."""
        if not name.strip():
            raise UserError("an annotator needs a name")
        found = self.connection.execute("SELECT id FROM annotator WHERE name = ?", (name,)).fetchone()
        if found is not None:
            return int(found[0])
        added = self.connection.execute(
            "INSERT INTO annotator (name, created) VALUES (?, ?) RETURNING id", (name, time.time())
        )
        return int(added.fetchone()[0])

    def held(self, who: int) -> list[int]:
        """This annotator's live leases in this project, oldest first."""
        rows = self.connection.execute(
            "SELECT l.id FROM lease l JOIN pair p ON p.id = l.pair"
            " WHERE l.annotator = ? AND l.state = 'active' AND p.project = ? ORDER BY l.id",
            (who, self.project.id),
        ).fetchall()
        return [int(lease) for (lease,) in rows]

    def expire(self, now: float) -> None:
        """Close this project's leases whose time is over and give their pairs back."""
        over = self.connection.execute(
            "SELECT l.id, l.pair FROM lease l JOIN pair p ON p.id = l.pair"
            " WHERE l.state = 'active' AND l.expires <= ? AND p.project = ?",
            (now, self.project.id),
        ).fetchall()
        for lease, pair in over:
            self.connection.execute("UPDATE lease SET state = 'expired' WHERE id = ?", (lease,))
            self.count(pair)

    def count(self, pair: int) -> None:
        """Bring `taken` up to date: annotators who finished the pair without skipping, or hold it now.

        Raises: UserError when they are more than the pair shall get.
        """
        try:
            self.connection.execute(
                "UPDATE pair SET taken = (SELECT count(*) FROM ("
                " SELECT v.annotator FROM vote v WHERE v.pair = pair.id AND v.aspect = ? AND v.choice <> 'skip'"
                f" AND {CURRENT} UNION SELECT annotator FROM lease WHERE lease.pair = pair.id AND state = 'active')"
                " AS busy) WHERE id = ?",
                (self.project.closing, pair),
            )
        except self.conflicts:
            raise UserError(f"pair {pair} already has all the labels it should get; raise its target first") from None

    def remaining(self, annotator: str) -> int:
        """How many pairs this annotator can still be given, those they hold included."""
        found = self.connection.execute("SELECT id FROM annotator WHERE name = ?", (annotator,)).fetchone()
        who = found[0] if found else -1
        open_pairs = f"SELECT count(*) FROM pair p WHERE p.project = ? AND p.taken < p.target_votes AND {IS_LABEL}"
        # Counting by hand what UNTOUCHED would ask of every pair: a screen wants this with every answer.
        touched = (
            f"{open_pairs} AND p.id IN (SELECT l.pair FROM lease l WHERE l.annotator = ? AND l.state = 'active'"
            f" UNION SELECT v.pair FROM vote v WHERE v.annotator = ? AND v.aspect = ? AND {CURRENT})"
        )
        num_open, num_touched = (
            int(self.connection.execute(sql, arguments).fetchone()[0])
            for sql, arguments in (
                (open_pairs, (self.project.id,)),
                (touched, (self.project.id, who, who, self.project.closing)),
            )
        )
        return len(self.held(who)) + num_open - num_touched

    def _next(self, who: int, name: str) -> tuple[int, str] | None:
        """The next pair for an annotator and the video that shall stand left."""
        pair = self.connection.execute(
            "SELECT p.id FROM pair p WHERE p.project = ? AND p.taken < p.target_votes AND p.gold IS NULL"
            f" AND p.repeats IS NULL AND {UNTOUCHED} ORDER BY p.rank LIMIT 1",
            (self.project.id, who, who, self.project.closing),
        ).fetchone()
        if pair is None:
            return None
        check = self._check_pair(who, name)
        if check is not None:
            return check
        return pair[0], "ab"[seed_for(pair[0], f"side of {name}") & 1]

    def _check_pair(self, who: int, name: str) -> tuple[int, str] | None:
        """A gold pair or a repeat, when it is this annotator's turn for one: drawn, so that nobody can count along."""
        settings = self.project.settings
        if settings.gold_share + settings.repeat_share == 0:
            return None
        turn = self.connection.execute("SELECT count(*) FROM lease WHERE annotator = ?", (who,)).fetchone()[0]
        drawn = seed_for(turn, f"check of {name}") / 2**63
        if drawn < settings.gold_share:
            gold = self.connection.execute(
                f"SELECT p.id FROM pair p WHERE p.project = ? AND p.gold IS NOT NULL AND {UNTOUCHED}"
                " ORDER BY p.rank LIMIT 1",
                (self.project.id, who, who, self.project.closing),
            ).fetchone()
            return None if gold is None else (gold[0], "ab"[seed_for(gold[0], f"side of {name}") & 1])
        if drawn < settings.gold_share + settings.repeat_share:
            return self._repeat(who)
        return None

    def _repeat(self, who: int) -> tuple[int, str] | None:
        """The oldest label that this annotator has not been asked for again, sides swapped: the same letter stands
        left, and the pair is stored the other way round."""
        given = self.connection.execute(
            "SELECT p.id, l.left_is, p.prompt, p.video_a, p.video_b, p.rank FROM vote v JOIN lease l ON l.id = v.lease"
            " JOIN pair p ON p.id = v.pair WHERE v.annotator = ? AND p.project = ? AND v.aspect = ?"
            f" AND v.choice <> 'skip' AND {CURRENT} AND {IS_LABEL} AND NOT EXISTS (SELECT 1 FROM pair r"
            " JOIN lease rl ON rl.pair = r.id WHERE r.repeats = p.id AND rl.annotator = ?)"
            # Somebody may have added the swapped pair to be labelled, too: it is no repeat.
            " AND NOT EXISTS (SELECT 1 FROM pair s WHERE s.project = p.project AND s.prompt = p.prompt"
            " AND s.video_a = p.video_b AND s.video_b = p.video_a AND s.repeats IS NULL) ORDER BY v.id",
            (who, self.project.id, self.project.closing, who),
        ).fetchall()
        if len(given) <= REPEAT_DISTANCE:
            return None
        pair, left_is, prompt, video_a, video_b, rank = given[0]
        self.connection.execute(
            "INSERT INTO pair (project, prompt, video_a, video_b, source, sampling_probability, target_votes, repeats,"
            " rank) VALUES (?, ?, ?, ?, 'repeat', 1.0, ?, ?, ?) ON CONFLICT (project, prompt, video_a, video_b)"
            " DO NOTHING",
            (self.project.id, prompt, video_b, video_a, EVERYONE, pair, rank),
        )
        return self.connection.execute("SELECT id FROM pair WHERE repeats = ?", (pair,)).fetchone()[0], left_is
