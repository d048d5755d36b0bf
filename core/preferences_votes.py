"""How votes get into the preference store: under a lease, from a file or a simulation, and taken back.

Votes form chains: one that changes another supersedes it, and a withdrawal is a vote too, so nothing is ever changed or
deleted. Every function runs inside one transaction; what it raises leaves nothing behind.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import UserError
from core.preferences_queue import Queue
from core.preferences_schema import CURRENT

GRACE_SECONDS = 60  # of a lease that ran out while its pair stayed free; enough to write the label under it
Last = tuple[int, str, int]  # id, choice and lease of the newest vote on a question


@dataclass(frozen=True)
class Manner:
    """How an answer came about: time on the screen, share of the videos played, what was written; None if unknown."""

    seconds: float | None = None
    watched: float | None = None
    comment: str | None = None


def give(queue: Queue, lease: int, aspect: str, side: str, manner: Manner) -> int:
    """The id of the vote that an answer ("left", ...) under a lease becomes; the closing aspect closes the lease."""
    found = queue.connection.execute(
        "SELECT pair, annotator, left_is, expires, state FROM lease WHERE id = ?", (lease,)
    ).fetchone()
    if found is None:
        raise UserError(f"lease {lease} is unknown; claim a pair first")
    pair, who, left_is, expires, state = found
    choice = {"left": left_is, "right": "b" if left_is == "a" else "a"}.get(side, side)
    last = _last(queue, pair, who, aspect)
    if last is not None and (last[1], last[2]) == (choice, lease):
        return int(last[0])
    if state == "voted":
        raise UserError("this pair has another answer already, perhaps from another window; nothing was recorded")
    if state != "active":
        raise UserError(f"lease {lease} is {state}; this vote was not recorded, claim the next pair")
    now = time.time()
    if expires <= now:
        raise UserError(f"lease {lease} has expired; this vote was not recorded, claim the pair again")
    vote = _insert(queue, (pair, who, aspect, choice, left_is, lease, now), manner, last)
    if aspect == queue.project.closing:
        queue.connection.execute("UPDATE lease SET state = 'voted' WHERE id = ?", (lease,))
        queue.count(pair)
    return vote


def label(queue: Queue, lease: int, annotator: str, answers: Mapping[str, str], manner: Manner) -> None:
    """All answers to one pair (aspect -> side), under a lease that may have run out while its pair stayed free."""
    now = time.time()
    queue.expire(now)
    found = queue.connection.execute(
        "SELECT l.pair, l.state FROM lease l JOIN annotator n ON n.id = l.annotator WHERE l.id = ? AND n.name = ?",
        (lease, annotator),
    ).fetchone()
    if found is None:
        raise UserError(f"lease {lease} was not given to {annotator!r}; nothing was recorded")
    pair, state = found
    if state == "expired":
        try:
            _renew(queue, lease, pair, now + GRACE_SECONDS)
        except UserError:
            raise UserError(
                "this pair was on the screen for too long and went to somebody else; nothing was recorded"
            ) from None
    for aspect in queue.project.aspects:  # the last one closes the label
        if aspect in answers:
            give(queue, lease, aspect, answers[aspect], manner)


def record(
    queue: Queue,
    pair: int,
    annotator: str,
    aspect: str,
    choice: str,
    manner: Manner,
    *,
    left_is: str | None,
    time_given: float | None,
    make_room: bool,
) -> int:
    """The id of a vote given without a lease; `make_room` raises the target of a pair that has its labels already."""
    if queue.connection.execute("SELECT 1 FROM pair WHERE id = ?", (pair,)).fetchone() is None:
        raise UserError(f"pair {pair} is not in the store")
    who = queue.annotator(annotator)
    last = _last(queue, pair, who, aspect)
    if last is not None and last[1] == choice:
        return int(last[0])
    if last is not None and last[1] != "withdrawn":
        raise UserError(f"pair {pair}: {annotator!r} has already voted {last[1]!r} on {aspect}, not {choice!r}")
    given = time.time() if time_given is None else time_given
    vote = _insert(queue, (pair, who, aspect, choice, left_is, None, given), manner, last)
    if aspect == queue.project.closing:
        if make_room and choice != "skip":
            queue.connection.execute(
                "UPDATE pair SET target_votes = taken + 1 WHERE id = ? AND target_votes = taken", (pair,)
            )
        queue.count(pair)
    return vote


def undo(queue: Queue, annotator: str, ttl_seconds: float, lease: int | None) -> int | None:
    """Take back this annotator's newest label, if it was given under `lease` (None: whichever), and lend its pair
    again. Returns the lease, or None where there was nothing to take back."""
    now = time.time()
    queue.expire(now)
    who = queue.annotator(annotator)
    found = newest(queue, who)
    if found is None or lease not in (None, found[0]):
        return None
    taken_back, pair = found
    given = queue.connection.execute(
        f"SELECT v.id, v.choice, v.aspect, v.left_is FROM vote v WHERE v.lease = ? AND {CURRENT}", (taken_back,)
    ).fetchall()
    for vote, choice, aspect, left_is in given:
        row = (pair, who, aspect, "withdrawn", left_is, taken_back, now)
        _insert(queue, row, Manner(), (vote, choice, taken_back))
    _renew(queue, taken_back, pair, now + ttl_seconds)
    return taken_back


def newest(queue: Queue, who: int) -> tuple[int, int] | None:
    """Lease and pair of an annotator's newest label in this project."""
    found = queue.connection.execute(
        "SELECT l.id, l.pair FROM vote v JOIN lease l ON l.id = v.lease JOIN pair p ON p.id = v.pair"
        f" WHERE v.annotator = ? AND p.project = ? AND l.state = 'voted' AND {CURRENT} ORDER BY v.id DESC LIMIT 1",
        (who, queue.project.id),
    ).fetchone()
    return None if found is None else (int(found[0]), int(found[1]))


def _last(queue: Queue, pair: int, who: int, aspect: str) -> Last | None:
    """The end of the chain of votes on one question."""
    return queue.connection.execute(
        "SELECT v.id, v.choice, v.lease FROM vote v WHERE v.pair = ? AND v.annotator = ? AND v.aspect = ?"
        " AND NOT EXISTS (SELECT 1 FROM vote s WHERE s.supersedes = v.id)",
        (pair, who, aspect),
    ).fetchone()


def _insert(queue: Queue, row: tuple[object, ...], manner: Manner, last: Last | None) -> int:
    """Add a vote (pair, annotator, aspect, choice, left_is, lease, time) that supersedes the `last` on its question."""
    added = queue.connection.execute(
        "INSERT INTO vote (pair, annotator, aspect, choice, left_is, lease, time, seconds, watched, comment,"
        " supersedes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (*row, manner.seconds, manner.watched, manner.comment, last[0] if last else None),
    )
    return int(added.fetchone()[0])


def _renew(queue: Queue, lease: int, pair: int, expires: float) -> None:
    """Bring a closed lease to life again; UserError when the pair has its labels from others."""
    queue.connection.execute("UPDATE lease SET state = 'active', expires = ? WHERE id = ?", (expires, lease))
    queue.count(pair)
