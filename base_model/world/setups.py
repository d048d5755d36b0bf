"""Draws how a scene starts, family by family, and says whether its run shows what the family says.

Every family draws its start so that the objects stay inside the frame; a draw that does not fit, or whose objects touch
where the family does not want it, is thrown away and drawn again by `dataset`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from base_model.world.simulate import Body, Motion, Setup
from base_model.world.spec import FLOOR, GRAVITY, HEIGHT, NUM_FRAMES, WIDTH, SceneSpec, below, reach

LAST = NUM_FRAMES - 1  # frames that a motion lasts
CLEARANCE = 0.3  # px between an object that crosses the frame and the border, at both ends of its way

Pair = tuple[float, float]


@dataclass(frozen=True)
class _Draw:
    """What a family draws a start for; equal-area radii in px, the speeds asked for in px / frame."""

    spec: SceneSpec
    radii: list[float]
    rng: np.random.Generator
    speed_range: Pair | None

    @property
    def reaches(self) -> list[float]:
        """From each object's centroid to the farthest point of its outline, px."""
        return [reach(item.shape, radius) for item, radius in zip(self.spec.objects, self.radii, strict=True)]

    @property
    def lows(self) -> list[float]:
        """From each object's centroid down to its lowest point, px."""
        return [below(item.shape, radius) for item, radius in zip(self.spec.objects, self.radii, strict=True)]

    @property
    def sign(self) -> int:
        """-1 for ways to the left and up."""
        return -1 if self.spec.direction in ("left", "up") else 1

    def speed(self, low: float, high: float) -> float:
        return self.rng.uniform(*(self.speed_range or (low, high)))

    def crossing(self, speed: float, margin: float) -> float | None:
        """A start from which the whole way at `speed` stays inside the frame by `margin` px."""
        room = WIDTH - 2 * margin - speed * LAST
        if room < 0:
            return None
        start = margin + self.rng.uniform(0, room)
        return start if self.sign > 0 else WIDTH - start

    def lanes(self, size: float) -> list[float] | None:
        """Centres along an axis of `size` px so that no two objects share a lane; None if they do not fit."""
        reaches, low, high = self.reaches, 0.5, size - 0.5
        room = (high - low) - 2 * sum(reaches) - 1.5 * (len(reaches) - 1)
        if room < 0:
            return None
        gaps = np.sort(self.rng.uniform(0, room, len(reaches)))
        order = self.rng.permutation(len(reaches))
        centres, edge = [0.0] * len(reaches), low
        for slot, which in enumerate(order):
            start = edge + (gaps[slot] - (gaps[slot - 1] if slot else 0.0))
            centres[which] = start + reaches[which]
            edge = start + 2 * reaches[which] + 1.5
        return centres

    def bodies(self, positions: Sequence[Pair], velocities: Sequence[Pair] | None = None) -> tuple[Body, ...]:
        """At rest without velocities."""
        shapes = [item.shape for item in self.spec.objects]
        velocities = velocities or [(0.0, 0.0)] * len(shapes)
        return tuple(map(Body, shapes, self.radii, positions, velocities))


def draw_setup(
    spec: SceneSpec, radii: list[float], rng: np.random.Generator, speed_range: Pair | None = None
) -> Setup | None:
    """Random start of a scene of this spec; None if this draw does not fit in the frame.

    Args:
        radii: equal-area radius of each object, px.
        speed_range: px / frame, overrides the family's own (out-of-distribution splits).
    """
    if spec.family not in _FAMILIES:
        raise ValueError(f"family {spec.family!r} is unknown; there are: {', '.join(_FAMILIES)}")
    return _FAMILIES[spec.family](_Draw(spec, radii, rng, speed_range))


def _static(draw: _Draw) -> Setup | None:
    xs = draw.lanes(WIDTH)
    if xs is None:
        return None
    ys = [draw.rng.uniform(margin + 0.5, HEIGHT - margin - 0.5) for margin in draw.reaches]
    return Setup(draw.bodies(list(zip(xs, ys, strict=True))), 0.0, False)


def _uniform(draw: _Draw) -> Setup | None:
    vertical = draw.spec.direction in ("up", "down")
    lanes = draw.lanes(WIDTH)
    if lanes is None:
        return None
    positions, velocities = [], []
    for lane, margin in zip(lanes, draw.reaches, strict=True):
        fastest = min((WIDTH - 2 * margin - 1) / LAST, 2.6)
        speed = draw.speed(1.2, fastest)
        start = draw.crossing(speed, margin + CLEARANCE)
        if start is None:
            return None
        positions.append((lane, start) if vertical else (start, lane))
        velocities.append((0.0, draw.sign * speed) if vertical else (draw.sign * speed, 0.0))
    return Setup(draw.bodies(positions, velocities), 0.0, False)


def _bounce(draw: _Draw) -> Setup | None:
    xs = draw.lanes(WIDTH)
    if xs is None:
        return None
    ys = []
    for margin, low in zip(draw.reaches, draw.lows, strict=True):
        deepest = FLOOR - low - 16.0
        if deepest < margin + 1:
            return None
        ys.append(draw.rng.uniform(margin + 0.5, min(deepest, margin + 16.0)))
    return Setup(draw.bodies(list(zip(xs, ys, strict=True))), GRAVITY, True)


def _projectile(draw: _Draw) -> Setup | None:
    positions, velocities = [], []
    for margin, low in zip(draw.reaches, draw.lows, strict=True):
        speed = draw.speed(1.2, 2.4)
        start = draw.crossing(speed, margin + CLEARANCE)
        up = draw.rng.uniform(2.6, 4.6)
        rise = up**2 / (2 * GRAVITY)
        y = draw.rng.uniform(max(margin + rise + 0.5, FLOOR - low - 22), FLOOR - low - 4)
        if start is None or y - rise < margin:
            return None
        positions.append((start, y))
        velocities.append((draw.sign * speed, -up))
    return Setup(draw.bodies(positions, velocities), GRAVITY, True)


def _slide(draw: _Draw) -> Setup | None:
    xs = draw.lanes(WIDTH)
    if xs is None:
        return None
    positions = [(x, FLOOR - low) for x, low in zip(xs, draw.lows, strict=True)]
    velocities = [(draw.sign * draw.speed(2.6, 4.2), 0.0) for _ in xs]
    return Setup(draw.bodies(positions, velocities), GRAVITY, True)


def _pendulum(draw: _Draw) -> Setup | None:
    rng, alone = draw.rng, len(draw.radii) == 1
    xs = [WIDTH / 2 + rng.uniform(-5, 5)] if alone else [16 + rng.uniform(-1, 1), 48 + rng.uniform(-1, 1)]
    bodies = []
    for item, radius, x, margin in zip(draw.spec.objects, draw.radii, xs, draw.reaches, strict=True):
        rod = rng.uniform(22.0, 40.0 if alone else 34.0)
        widest = (31.0 if alone else 15.0) - margin
        angle = rng.uniform(0.55, 0.95)
        if rod * math.sin(angle) > widest:
            if widest / rod < 0.3:
                return None
            angle = math.asin(widest / rod)
        angle *= 1 if draw.spec.direction == "left" else -1  # the side it moves to first is the other one
        pivot = (x, 3.0)
        end = (x + rod * math.sin(angle), pivot[1] + rod * math.cos(angle))
        bodies.append(Body(item.shape, radius, end, (0.0, 0.0), pivot))
    return Setup(tuple(bodies), GRAVITY, False)


def _collision(draw: _Draw) -> Setup | None:
    rng, (a, b), (first_radius, second_radius) = draw.rng, draw.reaches, draw.radii
    y = rng.uniform(max(a, b) + 2, HEIGHT - max(a, b) - 2)
    share = 2 * first_radius**2 / (first_radius**2 + second_radius**2)  # elastic: of the closing speed, to the second
    for _ in range(12):
        speed = draw.speed(1.5, 2.8)
        other = 0.0 if rng.random() < 0.6 else -rng.uniform(0.4, 0.9)
        first = a + rng.uniform(0.3, 4.0)
        hit = rng.uniform(4.5, 8.5)  # frame of the contact
        second = first + first_radius + second_radius + hit * (speed - other)
        end = second + other * LAST + share * (speed - other) * (LAST - hit)
        if second < WIDTH - b - 0.5 and end < WIDTH - b - 0.5:
            break
    else:
        return None
    xs = [first, second] if draw.sign > 0 else [WIDTH - first, WIDTH - second]
    offset = rng.uniform(-0.6, 0.6)
    velocities = [(draw.sign * speed, 0.0), (draw.sign * other, 0.0)]
    return Setup(draw.bodies([(xs[0], y), (xs[1], y + offset)], velocities), 0.0, False)


def _occluder(draw: _Draw) -> Setup | None:
    width = draw.rng.uniform(14.0, 18.0)
    left = WIDTH / 2 - width / 2 + draw.rng.uniform(-3, 3)
    lanes = draw.lanes(HEIGHT)
    if lanes is None:
        return None
    positions, velocities = [], []
    for lane, margin in zip(lanes, draw.reaches, strict=True):
        speed = draw.speed(2.3, 3.1)
        start = draw.crossing(speed, margin + CLEARANCE)
        if start is None and draw.speed_range:
            return None
        if start is None:
            speed = (WIDTH - 2 * margin - 1) / LAST
            start = margin + CLEARANCE if draw.sign > 0 else WIDTH - margin - CLEARANCE
        positions.append((start, lane))
        velocities.append((draw.sign * speed, 0.0))
    return Setup(draw.bodies(positions, velocities), 0.0, False, (left, left + width))


_FAMILIES: dict[str, Callable[[_Draw], Setup | None]] = {
    "uniform": _uniform,
    "bounce": _bounce,
    "projectile": _projectile,
    "collision": _collision,
    "pendulum": _pendulum,
    "slide": _slide,
    "occluder": _occluder,
    "static": _static,
}


def acceptable(spec: SceneSpec, motion: Motion) -> bool:
    """Does the run show what its family says?

    Inside the frame, contact where it belongs and nowhere else, a whole passage behind the wall.
    """
    setup = motion.setup
    margins = np.array([reach(b.shape, b.radius) for b in setup.bodies])
    x, y = motion.position[..., 0], motion.position[..., 1]
    if (x < margins).any() or (x > WIDTH - margins).any() or (y < margins).any():
        return False
    if not setup.floor and (y > HEIGHT - margins).any():
        return False
    count = len(setup.bodies)
    pairs = motion.contact[:, :, :count].any()
    if spec.family == "collision":
        frames = np.flatnonzero(motion.contact[:, 0, 1])
        return bool(len(frames)) and 4 <= frames[0] <= 11
    if pairs:
        return False
    if count > 1:  # no overlap on screen either
        for i in range(count):
            for j in range(i):
                if (np.hypot(x[:, i] - x[:, j], y[:, i] - y[:, j]) < margins[i] + margins[j] + 0.5).any():
                    return False
    if spec.family == "bounce":
        return bool(motion.contact[1:14, :, count].any(axis=0).all())
    if spec.family == "occluder" and setup.wall is not None:
        left, right = setup.wall
        touching = (x + margins > left - 0.5) & (x - margins < right + 0.5)
        inside = (x > left) & (x < right)
        return bool(
            not touching[[0, -1]].any() and inside.any(axis=0).all() and ((x[0] < left) != (x[-1] < left)).all()
        )
    return True
