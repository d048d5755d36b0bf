"""What belongs together in several sets: videos, or rows of samples.jsonl, of one prompt and seed. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

Row = dict[str, Any]
Pair = tuple[Row, Row]
T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)


def matched(sets: Sequence[Sequence[T]], key: Callable[[T], Key]) -> list[tuple[Key, list[T | None]]]:
    """(key, one entry a set or None), in the order of the first set; the n-th of a key goes with the n-th."""
    found: dict[tuple[Key, int], list[T | None]] = {}
    for place, entries in enumerate(sets):
        counts: dict[Key, int] = {}
        for entry in entries:
            name = key(entry)
            counts[name] = counts.get(name, -1) + 1
            found.setdefault((name, counts[name]), [None] * len(sets))[place] = entry
    return [(name, row) for (name, _), row in found.items()]


def cluster(row: Row) -> str:
    """What rows that are not independent have in common: the prompt; one without stands for itself."""
    return row["prompt"] or row["id"]


def paired(a: Sequence[Row], b: Sequence[Row]) -> list[Pair]:
    """Rows of the same prompt and seed, in a's order; several without a seed are matched in their order."""
    rows = matched([a, b], lambda row: (row["prompt"], row.get("seed")))
    return [(one, two) for _, (one, two) in rows if one is not None and two is not None]
