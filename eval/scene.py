"""What several models made for one prompt and seed, with the numbers measured on it: for report and dashboard.

Read from what an evaluation left on disk; what is missing or broken is said, never raised. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import files, videoset
from core.errors import UserError
from core.videoset import VideoItem
from eval.pairs import matched
from eval.result import SAMPLES, TRACKS, as_dict, finite

Tracks = Mapping[str, Mapping[str, Any]]  # video id -> a line of tracks.jsonl


@dataclass(frozen=True)
class Judged:
    """One video of a set with the numbers measured on it, and per metric why it has none or why the video fails."""

    id: str
    path: Path
    prompt: str
    seed: int | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """What several sets made for one prompt and seed; `videos` by the name of the set, None where one made nothing."""

    prompt: str
    seed: int | None
    videos: Mapping[str, Judged | None]

    def values(self, metric: str) -> list[float | None]:
        """What was measured on every set's video, None where it was not."""
        return [None if one is None else one.metrics.get(metric) for one in self.videos.values()]

    def gap(self, metric: str) -> float | None:
        """The last set's value minus the first's, or None where one is missing."""
        values = self.values(metric)
        first, last = values[0], values[-1]
        return None if first is None or last is None else last - first


def read_set(folder: Path) -> tuple[list[Judged], list[str]]:
    """The videos of a set with their numbers from samples.jsonl, and what could not be read."""
    try:
        items = videoset.read(folder)
    except (UserError, OSError) as error:
        return [], [str(error)]
    rows, problems = _lines(folder / SAMPLES)
    by_id = {str(row.get("id")): row for row in rows}
    return [_judged(item, by_id.get(item.id, {})) for item in items], problems


def _judged(item: VideoItem, row: Mapping[str, Any]) -> Judged:
    numbers = {key: finite(value) for key, value in row.items() if key != "seed"}
    metrics = {key: value for key, value in numbers.items() if value is not None}
    return Judged(item.id, item.video, item.prompt, item.seed, metrics, as_dict(row.get("reasons")))


def read_tracks(folder: Path) -> tuple[Tracks, list[str]]:
    """Video id -> where the reader saw its objects, from tracks.jsonl, and what could not be read."""
    rows, problems = _lines(folder / TRACKS)
    return {str(row["id"]): row for row in rows if "id" in row and _is_track(row)}, problems


def _is_track(row: Mapping[str, Any]) -> bool:
    """Whether a line can be drawn: every object has a list of places, (x, y) or None."""
    objects = row.get("objects")
    return isinstance(objects, list) and all(
        isinstance(one, dict) and _is_trail(one.get("position")) for one in objects
    )


def _is_trail(places: Any) -> bool:
    return isinstance(places, list) and all(
        at is None or (isinstance(at, list) and len(at) == 2 and None not in map(finite, at)) for at in places
    )


def side_by_side(sets: Mapping[str, Sequence[Judged]]) -> list[Scene]:
    """Prompts and seeds in the order of the first set; without seeds the n-th of a prompt goes with the n-th."""
    found = matched(list(sets.values()), lambda one: (one.prompt, one.seed))
    return [Scene(prompt, seed, dict(zip(sets, row, strict=True))) for (prompt, seed), row in found]


def by_gap(scenes: Sequence[Scene], metric: str, ascending: bool = False) -> list[Scene]:
    """Sorted by the gap in a metric, scenes without it last."""
    gaps = [(gap, scene) for scene in scenes if (gap := scene.gap(metric)) is not None]
    gaps.sort(key=lambda entry: entry[0], reverse=not ascending)
    return [scene for _, scene in gaps] + [scene for scene in scenes if scene.gap(metric) is None]


def _lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects of a JSON-lines file; none of a missing one, none and the reason of a broken one."""
    try:
        return (files.read_lines(path) if path.exists() else []), []
    except (UserError, OSError) as error:
        return [], [str(error)]
