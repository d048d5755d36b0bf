"""How objects move, and whether what was read of a clip is what its spec says."""

from __future__ import annotations

import math

import numpy as np

from base_model.world.reader import Observation, Props, Track
from base_model.world.spec import GRAVITY, SceneSpec


def match(observation: Observation, spec: SceneSpec) -> dict[str, bool]:
    """Is what was read what the spec says? Keys: colour, shape, size, count, family, direction.

    An attribute that is not stated counts as right. Colours are compared as sets; shape and size need
    every stated object found with it.
    """
    by_colour = {track.colour: track for track in observation.tracks}
    found = [by_colour.get(item.colour) for item in spec.objects]
    return {
        "colour": {item.colour for item in spec.objects} == set(by_colour),
        "shape": all(t is not None and t.shape == item.shape for t, item in zip(found, spec.objects, strict=True)),
        "size": all(t is not None and item.size in (None, t.size) for t, item in zip(found, spec.objects, strict=True)),
        "count": len(observation.tracks) == len(spec.objects),
        "family": read_family(observation) == spec.family,
        "direction": _direction_right(found[0], spec) if found else False,
    }


def read_family(observation: Observation) -> str | None:
    """The family of motion the tracks show, from motion and props; None where they show none of them.

    With several objects all must agree, except in a collision, which two make together.
    """
    least = 6 if observation.props.wall is None else 2  # a large object is hidden or cut most of the way past a wall
    tracks = [t for t in observation.tracks if t.seen.sum() >= least]
    if not tracks or len(tracks) < len(observation.tracks):
        return None
    if len(tracks) == 2 and observation.props.wall is None and not observation.props.floor and _collided(*tracks):
        return "collision"
    kinds = {_motion(track, observation.props) for track in tracks}
    return kinds.pop() if len(kinds) == 1 else None


def _pieces(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Frames seen and positions there."""
    frames = np.flatnonzero(track.seen)
    return frames, track.position[frames]


def _motion(track: Track, props: Props) -> str | None:
    frames, p = _pieces(track)
    span = np.ptp(p, axis=0)
    if span.max() < 1.6:
        return "static"
    line = [np.polyfit(frames, p[:, axis], 1) for axis in (0, 1)]
    off = np.stack([p[:, axis] - np.polyval(line[axis], frames) for axis in (0, 1)], axis=1)
    straight = float(np.sqrt((off**2).sum(axis=1).mean()))
    if props.wall is not None:
        hidden = [t for t, s in enumerate(track.status) if s == "hidden"]
        crosses = (p[0, 0] < props.wall[0]) != (p[-1, 0] < props.wall[0])
        return "occluder" if hidden and crosses and span[1] < 3.0 and straight < 1.6 else None
    steps = np.diff(p, axis=0) / np.diff(frames)[:, None]
    near = np.diff(frames) <= 2
    speed = np.abs(steps[near])
    if len(speed) < 4:
        return None
    third = max(2, len(speed) // 4)
    if props.floor:
        if span[1] < 2.2 and span[0] > 4:
            slows = speed[-third:, 0].mean() < 0.6 * speed[:third, 0].mean()
            return "slide" if slows else None
        bend = _vertical_acceleration(frames, p[:, 1])
        if not bend > 0.35 * GRAVITY:
            return None
        if span[0] < 4.0 and span[1] > 8:
            return "bounce"
        if span[0] >= 8.0 and abs(off[:, 0]).max() < 4.0:
            return "projectile"
        return None
    bend = np.polyfit(frames, p[:, 1], 2)[0] * 2
    if props.rod and span[0] > 5.0 and bend < -0.012 and abs(off[:, 1]).max() > 0.5:
        return "pendulum"
    if straight < 1.2 and min(span) < 3.0 and max(span) > 8.0:
        return "uniform"
    return None


def _vertical_acceleration(frames: np.ndarray, y: np.ndarray) -> float:
    """Median second difference of y over three consecutive frames, px / frame^2.

    Contacts are outliers that the median ignores; NaN with fewer than four triples.
    """
    bends = [y[i + 1] - 2 * y[i] + y[i - 1] for i in range(1, len(y) - 1) if frames[i + 1] - frames[i - 1] == 2]
    return float(np.median(bends)) if len(bends) >= 4 else math.nan


def _collided(first: Track, second: Track) -> bool:
    """Did two objects meet and change speed along the line between them, at the moment of the meeting?"""
    both = np.flatnonzero(first.seen & second.seen)
    if len(both) < 8:
        return False
    a, b = first.position[both], second.position[both]
    distance = np.hypot(*(a - b).T)
    touch = int(np.argmin(distance))
    radii = float(np.median(first.radius[both])), float(np.median(second.radius[both]))
    reach = sum(radii)
    if distance[touch] > 1.45 * reach + 1.0 or not 2 <= touch <= len(both) - 3:
        return False

    def change(p: np.ndarray) -> float:
        before = (p[touch - 1] - p[0]) / max(both[touch - 1] - both[0], 1)
        after = (p[-1] - p[touch + 1]) / max(both[-1] - both[touch + 1], 1)
        return float(np.hypot(*(after - before)))

    # The lighter one shows the blow; the heavier one moves less by the ratio of the masses.
    ratio = (radii[1] / radii[0]) ** 2
    return change(a) > 0.35 * min(1.0, ratio) and change(b) > 0.35 * min(1.0, 1.0 / ratio)


def _direction_right(track: Track | None, spec: SceneSpec) -> bool:
    if spec.direction is None:
        return True
    if track is None or track.seen.sum() < 2:
        return False
    _, p = _pieces(track)
    turns = {"pendulum": len(p) // 2, "collision": 3}  # the way is that before it comes back or is thrown back
    way = p[min(len(p) - 1, turns.get(spec.family, len(p)))] - p[0]
    sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[spec.direction]
    return bool(way[sign[0]] * sign[1] > 1.0)
