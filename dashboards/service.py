"""The labeling flow: which pairs an annotator sees, what an action does, how far they have come.

All state is in the store, so a page can be reloaded, or the server restarted, at any moment. What a browser sends is
checked here; what it is told here never says which model made which video, nor which pair is a check. No Streamlit, no
torch.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.preferences import SIDES, Store

LEASE_SECONDS = 900.0  # a coffee; after it the pair goes to somebody else
PAUSE_SECONDS = 120.0  # a longer gap between two labels is a pause, not pace
NUM_AHEAD = 3  # the pair on the screen and the two that are loaded behind it
MAX_COMMENT = 500  # characters
SKIP_REASONS = ("a video is broken", "the text is unclear", "I cannot decide", "it is offensive")


@dataclass(frozen=True)
class Task:
    """A pair for an annotator's screen. `lease` must come back with the answer; the hashes say which files to show."""

    lease: int
    prompt: str
    left: Path
    right: Path
    left_sha256: str
    right_sha256: str


@dataclass(frozen=True)
class Progress:
    """`done` pairs judged and `remaining` ones open to this annotator; `pace_seconds` per label, None before three."""

    done: int
    remaining: int
    pace_seconds: float | None


def tasks(store: Store, annotator: str) -> list[Task]:
    """The pair to show, then those to load behind it; the same ones until they are answered."""
    return [
        Task(lease.id, lease.prompt, lease.left, lease.right, lease.left_sha256, lease.right_sha256)
        for lease in store.queue(annotator, NUM_AHEAD, LEASE_SECONDS)
    ]


def act(store: Store, annotator: str, actions: Any, acknowledged: int) -> tuple[int, str | None]:
    """Do what a screen asks for, in order: answers with their leases, and undos.

    A screen sends an action again until it is acknowledged; what was done already is passed over.

    Args:
        actions: as the browser sent it: a list of {id, lease, answers, seconds, watched, comment} or {id, undo}.
        acknowledged: the newest id of this screen that has been dealt with.
    Returns: the newest id now, and why an action was refused, or None.
    """
    refused = None
    for action in actions if isinstance(actions, list) else []:
        number = action.get("id") if isinstance(action, dict) else None
        if not isinstance(number, int) or number <= acknowledged:
            continue
        if "undo" in action:
            trouble = undo(store, annotator, action["undo"])
        else:
            trouble = answer(store, annotator, action)
        refused = trouble or refused
        acknowledged = number
    return acknowledged, refused


def answer(store: Store, annotator: str, action: dict[str, Any]) -> str | None:
    """Record the answers to one pair, all or none.

    An answer belongs to the lease that was on the screen when it was given. If that lease ran out and its pair is still
    free, the answer counts; otherwise it is not recorded.

    Args: action: `answers` maps aspects to "left", "right", "tie", "both_bad" or "skip" and holds the closing one.
    Returns: why nothing was recorded, or None when all is.
    """
    answers, lease, closing = action.get("answers"), action.get("lease"), store.aspects[-1]
    if not isinstance(answers, dict) or closing not in answers:
        return f"The answer did not say anything about {readable(closing)}; nothing was recorded."
    is_known = all(a in store.aspects and c in SIDES for a, c in answers.items())
    if not isinstance(lease, int) or lease.bit_length() > 63 or not is_known:  # the database holds 64 bits
        return "The answer was malformed; nothing was recorded. Reload the page."
    watched = _number(action.get("watched"), 1.0)
    least = store.settings.min_watched
    if answers[closing] != "skip" and least > 0 and (watched is None or watched < least - 0.01):
        return f"Both videos must be watched to {least:.0%} first; nothing was recorded."
    try:
        store.label(
            lease,
            annotator,
            answers,
            seconds=_number(action.get("seconds"), 86_400.0),
            watched=watched,
            comment=_comment(action.get("comment")),
        )
    except UserError as error:
        return f"Not recorded: {error}"
    return None


def undo(store: Store, annotator: str, lease: Any) -> str | None:
    """Bring the newest label back to the screen, if it is the one that is meant.

    Returns: why that was not possible, or None.
    """
    try:
        if store.newest_label(annotator) is None:
            return "Nothing to undo."
        store.undo(annotator, LEASE_SECONDS, lease=lease if isinstance(lease, int) else None)
    except UserError as error:
        return f"Not undone: {error}"
    return None


def progress(store: Store, annotator: str) -> Progress:
    """How far an annotator has come."""
    times = store.done(annotator)
    gaps = [
        later - earlier for earlier, later in zip(times, times[1:], strict=False) if later - earlier < PAUSE_SECONDS
    ]
    pace = statistics.median(gaps[-30:]) if len(gaps) >= 2 else None
    return Progress(len(times), store.remaining(annotator), pace)


def readable(aspect: str) -> str:
    """`text_alignment` as a person reads it."""
    return aspect.replace("_", " ")


def duration(seconds: float) -> str:
    """A length of time as a person says it; "–" for NaN."""
    if math.isnan(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _number(value: Any, most: float) -> float | None:
    """A number from a browser, in [0, most]; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return min(max(number, 0.0), most) if math.isfinite(number) else None


def _comment(value: Any) -> str | None:
    """What was written, without what no database holds (half a letter, NUL); None for nothing."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-8", "replace").decode().replace("\0", "").strip()[:MAX_COMMENT] or None
