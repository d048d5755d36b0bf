"""Rows of samples.jsonl that belong together. Torch-free: the dashboard ranks with it too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
Pair = tuple[Row, Row]


def paired(a: Sequence[Row], b: Sequence[Row]) -> list[Pair]:
    """Rows of the same prompt and seed, in a's order; several without a seed are matched in their order."""
    waiting: dict[tuple[str, int | None], list[Row]] = defaultdict(list)
    for row in b:
        waiting[row["prompt"], row.get("seed")].append(row)
    pairs = []
    for row in a:
        partners = waiting[row["prompt"], row.get("seed")]
        if partners:
            pairs.append((row, partners.pop(0)))
    return pairs
