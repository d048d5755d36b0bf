"""What an object does, from where it was seen: its flights between two contacts, its swing, its meeting with another.

Positions are pixels (x right, y down), time is frames, mass is proportional to area, radius is that of the disc of
equal area. What these should be by the laws of a scene is the business of `physics_probes.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base_model.world import reader
from base_model.world.spec import FLOOR, HEIGHT, below, reach

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """The frames in which one object is seen whole: frame [n] numbers, position [n, 2], and its radius in px."""

    frame: NDArray[np.int_]
    position: Array
    radius: float
    shape: str

    @classmethod
    def of(cls, track: reader.Track, height: int = HEIGHT) -> Path:
        """In frames of another `height`, y counts as if the floor were where the standard frame has it."""
        frame = np.flatnonzero(track.seen)
        radius = float(np.median(track.radius[frame])) if len(frame) else math.nan
        position = track.position[frame].astype(np.float64) - (0, height - HEIGHT)
        return cls(frame, position, radius, track.shape or "ball")

    @property
    def velocity(self) -> Array:
        """[n - 1, 2] px / frame between neighbouring seen frames."""
        return np.diff(self.position, axis=0) / np.diff(self.frame)[:, None]

    @property
    def acceleration(self) -> Array:
        """[n - 2, 2] second divided differences, exact for constant acceleration also across a gap."""
        velocity, gap = self.velocity, np.diff(self.frame)
        return 2 * np.diff(velocity, axis=0) / (gap[1:] + gap[:-1])[:, None]


def travel(step: Array) -> Array:
    """[n] how far something may have gone around each of n frames, of the n - 1 steps between them, px."""
    return np.maximum(np.r_[step, 0.0], np.r_[0.0, step])


def flights(path: Path) -> list[NDArray[np.int_]]:
    """Indices of seen frames of each stretch between two floor contacts, the lowest frame of each contact left out."""
    y = path.position[:, 1]
    step = np.abs(np.diff(y))
    near = y + below(path.shape, path.radius) + travel(step) > FLOOR - 1.0
    padded = np.r_[-np.inf, y, -np.inf]
    lowest = near & (y >= padded[:-2]) & (y >= padded[2:])
    stretches = np.split(np.arange(len(y)), np.flatnonzero(lowest))
    return [stretch[~lowest[stretch]] for stretch in stretches]


def swing(path: Path) -> tuple[Array, Array, float] | None:
    """Angle from the vertical [n], distance from the pivot [n] and length of the rod; None where there is no arc."""
    circle = _circle(path.position)
    if circle is None or not path.radius < circle[1] < 4 * HEIGHT:
        return None
    centre, length = circle
    arm = path.position - centre
    return np.unwrap(np.arctan2(arm[:, 0], arm[:, 1])), np.linalg.norm(arm, axis=1), length


def _circle(position: Array) -> tuple[Array, float] | None:
    """Centre and radius of the circle through points [n, 2], least squares (Kasa 1976); None on a line."""
    middle = position.mean(axis=0)
    p = position - middle
    design = np.c_[2 * p, np.ones(len(p))]
    solution, _, rank, _ = np.linalg.lstsq(design, (p**2).sum(axis=1), rcond=1e-9)
    if rank < 3:
        return None
    squared = solution[2] + solution[0] ** 2 + solution[1] ** 2
    return solution[:2] + middle, math.sqrt(max(squared, 0.0))


@dataclass(frozen=True)
class Meeting:
    """Two objects before and after they touch: mass [2], velocity before [2, 2] and after [2, 2] in px / frame."""

    mass: Array
    before: Array
    after: Array


def meeting(paths: list[Path]) -> Meeting | str:
    """The first two objects' contact, or why none can be measured."""
    if len(paths) < 2:
        return "fewer than two objects were seen"
    pair = sorted(paths, key=lambda path: -len(path.frame))[:2]
    common, mine, theirs = np.intersect1d(pair[0].frame, pair[1].frame, return_indices=True)
    if len(common) < 6:
        return "the objects were seen together in fewer than six frames"
    distance = np.linalg.norm(pair[0].position[mine] - pair[1].position[theirs], axis=1)
    closest = int(np.argmin(distance))
    if not 2 <= closest <= len(common) - 3:
        return "no contact seen"
    closing = max(abs(distance[closest] - distance[closest - 1]), abs(distance[closest + 1] - distance[closest]))
    touching = sum(reach(path.shape, path.radius) for path in pair)
    if distance[closest] - closing > touching + 0.5:
        return "no contact seen"
    before, after = slice(None, closest), slice(closest + 1, None)
    velocities = []
    for part in (before, after):
        rows = [
            np.polyfit(common[part], path.position[index][part], 1)[0]
            for path, index in zip(pair, (mine, theirs), strict=True)
        ]
        velocities.append(np.array(rows))
    return Meeting(np.array([path.radius**2 for path in pair]), velocities[0], velocities[1])


def closest_distance(first: Path, second: Path) -> float:
    """Smallest distance of two centres, px, with the straight way they take while one of them is not seen.

    What is inside another object is covered and not seen: the seen frames alone show no more than the rim of an
    overlap. The way goes on from the last common frame too, for objects that are lost where they touch.
    """
    common, mine, theirs = np.intersect1d(first.frame, second.frame, return_indices=True)
    apart = first.position[mine] - second.position[theirs]
    distance = np.linalg.norm(apart, axis=1)
    ways = [(apart[i], apart[i + 1]) for i in np.flatnonzero(np.diff(common) > 1)]
    if len(common) >= 2:
        step = (apart[-1] - apart[-2]) / (common[-1] - common[-2])
        touching = reach(first.shape, first.radius) + reach(second.shape, second.radius) + 0.5
        if distance[-1] - np.linalg.norm(step) < touching:
            unseen = max(first.frame[-1], second.frame[-1]) - common[-1]
            ways.append((apart[-1], apart[-1] + unseen * step))
    return min([*distance.tolist(), *(_nearest_to_origin(*way) for way in ways)], default=math.inf)


def _nearest_to_origin(start: Array, end: Array) -> float:
    """Distance of the origin from the line segment between two points [2]."""
    way = end - start
    share = float(np.clip(-(start @ way) / max(float(way @ way), 1e-12), 0.0, 1.0))
    return float(np.linalg.norm(start + share * way))
