"""The labeling flow: which pair an annotator sees, what an answer does, how far they have come.

All state is in the store, so a page can be reloaded, or the server restarted, at any moment. What a browser sends is
checked here; what it is told here never says which model made which video. No Streamlit, no torch.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.preferences import SIDES, Lease, Store

LEASE_SECONDS = 900.0  # a coffee; after it the pair goes to somebody else
PAUSE_SECONDS = 120.0  # a longer gap between two labels is a pause, not pace
MAX_NAME_LENGTH = 60


@dataclass(frozen=True)
class Task:
    """The pair on an annotator's screen. `lease` must come back with the answer."""

    lease: int
    pair: int
    prompt: str
    left: Path
    right: Path


@dataclass(frozen=True)
class Progress:
    """`done` pairs judged and `remaining` ones open to this annotator; `pace_seconds` per label, None before three."""

    done: int
    remaining: int
    pace_seconds: float | None


def check_name(name: str) -> str:
    """An annotator's name, trimmed.

    Raises: UserError for names that are empty, longer than 60 characters, or hold control characters.
    """
    name = " ".join(name.split())
    if not name:
        raise UserError("please give a name; your votes are stored under it")
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise UserError(f"a name has at most {MAX_NAME_LENGTH} printable characters")
    return name


def current(store: Store, annotator: str) -> Task | None:
    """The pair to show: the same one until it is answered; None when nothing is left for this annotator."""
    return _task(store.claim(annotator, LEASE_SECONDS))


def answer(store: Store, annotator: str, lease: Any, pair: Any, answers: Any) -> str | None:
    """Record the answers to one pair, all or none.

    An answer belongs to the lease that was on the screen when it was given. If that lease ran out and the store lends
    the same pair again, the answer counts (the sides are the same); otherwise it is not recorded.

    Args:
        lease, pair, answers: as the browser sent them; answers maps aspects to "left", "right", "tie", "both_bad" or
            "skip" and holds at least the store's last aspect.
    Returns: why nothing was recorded, or None when all is.
    """
    closing = store.aspects[-1]
    if not isinstance(answers, dict) or closing not in answers:
        return f"The answer did not say anything about {readable(closing)}; nothing was recorded."
    if not all(aspect in store.aspects and choice in SIDES for aspect, choice in answers.items()):
        return "The answer was malformed; nothing was recorded. Reload the page."
    try:
        with store.transaction():
            held = store.claim(annotator, LEASE_SECONDS)
            if held is None or (held.id != lease and held.pair_id != pair):
                return "That answer was for an earlier pair and came too late; it was not recorded."
            for aspect in store.aspects:  # the last one closes the label
                if aspect in answers:
                    store.vote(held.id, aspect, answers[aspect])
    except UserError as error:
        return f"Not recorded: {error}"
    return None


def undo(store: Store, annotator: str) -> str | None:
    """Bring the newest label back to the screen.

    Returns: why that was not possible, or None.
    """
    try:
        if store.undo(annotator, LEASE_SECONDS) is None:
            return "Nothing to undo."
    except UserError as error:
        return f"Not undone: {error}"
    return None


def progress(store: Store, annotator: str) -> Progress:
    """How far an annotator has come."""
    times, remaining = store.done(annotator), store.remaining(annotator)
    gaps = [
        later - earlier for earlier, later in zip(times, times[1:], strict=False) if later - earlier < PAUSE_SECONDS
    ]
    return Progress(len(times), remaining, statistics.median(gaps[-30:]) if len(gaps) >= 2 else None)


def upcoming(store: Store, annotator: str, count: int) -> list[tuple[Path, Path]]:
    """The videos of the pairs that come next, lent ahead so that they can be loaded."""
    return [(lease.left, lease.right) for lease in store.queue(annotator, 1 + count, LEASE_SECONDS)[1:]]


def readable(aspect: str) -> str:
    """`text_alignment` as a person reads it."""
    return aspect.replace("_", " ")


def _task(lease: Lease | None) -> Task | None:
    return None if lease is None else Task(lease.id, lease.pair_id, lease.prompt, lease.left, lease.right)
