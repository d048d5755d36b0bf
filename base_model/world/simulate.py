"""Moves a scene: pymunk does the mechanics, this file sets the scenes up.

Objects do not rotate (infinite moment), so a shape stays readable and a square's collision stays a momentum exchange
along the line of contact. Every family draws its start so that the objects stay inside the frame; a draw whose objects
touch where the family does not want it is thrown away and drawn again by `dataset`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pymunk

from base_model.world.spec import FLOOR, GRAVITY, HEIGHT, NUM_FRAMES, RESTITUTION, WIDTH, SceneSpec, below, reach

SUBSTEPS = 10  # per frame: a fall is a parabola whose speed is ahead by g / 20, so .64 px after a whole clip
SLIDE_FRICTION = 0.36  # deceleration = friction x gravity, px / frame^2


@dataclass(frozen=True)
class Body:
    """Where an object starts: centroid (px) and velocity (px / frame); `pivot` hangs it on a rod."""

    shape: str
    radius: float
    position: tuple[float, float]
    velocity: tuple[float, float]
    pivot: tuple[float, float] | None = None


@dataclass(frozen=True)
class Setup:
    """A scene ready to be run. `wall` is the (left, right) edge of an occluder, px."""

    bodies: tuple[Body, ...]
    gravity: float
    floor: bool
    wall: tuple[float, float] | None = None


@dataclass
class Motion:
    """What happened: position and velocity [time, object, 2]; contact [time, object, object + 1] (last: floor)."""

    position: np.ndarray
    velocity: np.ndarray
    contact: np.ndarray
    setup: Setup = field(repr=False)


def _outline(shape: str, radius: float) -> list[tuple[float, float]]:
    if shape == "square":
        half = 0.8862 * radius
        return [(-half, -half), (half, -half), (half, half), (-half, half)]
    corner = 1.5551 * radius
    return [
        (0.0, -corner),
        (corner * math.sin(2 * math.pi / 3), corner / 2),
        (-corner * math.sin(2 * math.pi / 3), corner / 2),
    ]


def simulate(setup: Setup, num_frames: int = NUM_FRAMES) -> Motion:
    """Run the mechanics; frame 0 is the start itself."""
    space = pymunk.Space()
    space.gravity = (0.0, setup.gravity)
    space.collision_slop = 0.01
    bodies: list[pymunk.Body] = []
    shapes: list[pymunk.Shape] = []
    for item in setup.bodies:
        body = pymunk.Body(math.pi * item.radius**2, float("inf"))
        body.position, body.velocity = item.position, item.velocity
        shape = (
            pymunk.Circle(body, item.radius)
            if item.shape == "ball"
            else pymunk.Poly(body, _outline(item.shape, item.radius))
        )
        slides = setup.floor and item.velocity[1] == 0.0 and item.velocity[0] != 0.0
        shape.elasticity, shape.friction = 1.0, 1.0 if slides else 0.0
        space.add(body, shape)
        if item.pivot is not None:
            space.add(pymunk.PinJoint(space.static_body, body, item.pivot, (0.0, 0.0)))
        bodies.append(body)
        shapes.append(shape)
    if setup.floor:
        ground = pymunk.Poly(
            space.static_body, [(-99, FLOOR), (WIDTH + 99, FLOOR), (WIDTH + 99, FLOOR + 60), (-99, FLOOR + 60)]
        )
        ground.elasticity, ground.friction = RESTITUTION, SLIDE_FRICTION
        space.add(ground)

    count = len(bodies)
    index = {shape: i for i, shape in enumerate(shapes)}
    contact = np.zeros((num_frames, count, count + 1), dtype=bool)
    position = np.zeros((num_frames, count, 2))
    velocity = np.zeros((num_frames, count, 2))
    frame = 0

    def touched(arbiter: pymunk.Arbiter, _space: pymunk.Space, _data: object) -> None:
        first, second = (index.get(shape, count) for shape in arbiter.shapes)
        if first < count:
            contact[frame, first, second] = True
        if second < count:
            contact[frame, second, first] = True

    space.on_collision(None, None, post_solve=touched)
    for frame in range(num_frames):
        if frame:
            for _ in range(SUBSTEPS):
                space.step(1.0 / SUBSTEPS)
        for i, body in enumerate(bodies):
            position[frame, i], velocity[frame, i] = body.position, body.velocity
    return Motion(position, velocity, contact, setup)


def _lanes(rng: np.random.Generator, reaches: list[float], low: float, high: float) -> list[float] | None:
    """Centres along one axis so that no two objects share a lane; None if they do not fit."""
    room = (high - low) - 2 * sum(reaches) - 1.5 * (len(reaches) - 1)
    if room < 0:
        return None
    gaps = np.sort(rng.uniform(0, room, len(reaches)))
    order = rng.permutation(len(reaches))
    centres, edge = [0.0] * len(reaches), low
    for slot, which in enumerate(order):
        start = edge + (gaps[slot] - (gaps[slot - 1] if slot else 0.0))
        centres[which] = start + reaches[which]
        edge = start + 2 * reaches[which] + 1.5
    return centres


def draw_setup(
    spec: SceneSpec, radii: list[float], rng: np.random.Generator, speed_range: tuple[float, float] | None = None
) -> Setup | None:
    """Random start of a scene of this spec; None if this draw does not fit in the frame.

    Args:
        radii: equal-area radius of each object, px.
        speed_range: px / frame, overrides the family's own (out-of-distribution splits).
    """
    shapes = [item.shape for item in spec.objects]
    reaches = [reach(s, r) for s, r in zip(shapes, radii, strict=True)]
    lows = [below(s, r) for s, r in zip(shapes, radii, strict=True)]
    last = NUM_FRAMES - 1
    sign = {"left": -1, "right": 1, "up": -1, "down": 1, None: 1}[spec.direction]

    def bodies(positions: list[tuple[float, float]], velocities: list[tuple[float, float]]) -> tuple[Body, ...]:
        return tuple(Body(s, r, p, v) for s, r, p, v in zip(shapes, radii, positions, velocities, strict=True))

    def crossing(speed: float, margin: float, size: float) -> float | None:
        """A start on an axis of this size so that the whole path at `speed` stays inside by `margin`."""
        travel = speed * last
        room = size - 2 * margin - travel
        if room < 0:
            return None
        start = margin + rng.uniform(0, room)
        return start if sign > 0 else size - start

    if spec.family == "static":
        xs = _lanes(rng, reaches, 0.5, WIDTH - 0.5)
        if xs is None:
            return None
        ys = [rng.uniform(h + 0.5, HEIGHT - h - 0.5) for h in reaches]
        return Setup(bodies(list(zip(xs, ys, strict=True)), [(0.0, 0.0)] * len(radii)), 0.0, False)

    if spec.family == "uniform":
        vertical = spec.direction in ("up", "down")
        lanes = _lanes(rng, reaches, 0.5, WIDTH - 0.5)
        if lanes is None:
            return None
        positions, velocities = [], []
        for lane, margin in zip(lanes, reaches, strict=True):
            top = min((WIDTH - 2 * margin - 1) / last, 2.7)
            low, high = speed_range or (1.2, 2.6)
            speed = rng.uniform(low, high if speed_range else min(top, high))
            start = crossing(speed, margin + 0.3, WIDTH)
            if start is None:
                return None
            positions.append((lane, start) if vertical else (start, lane))
            velocities.append((0.0, sign * speed) if vertical else (sign * speed, 0.0))
        return Setup(bodies(positions, velocities), 0.0, False)

    if spec.family == "bounce":
        xs = _lanes(rng, reaches, 0.5, WIDTH - 0.5)
        if xs is None:
            return None
        ys = []
        for margin, low in zip(reaches, lows, strict=True):
            deepest = FLOOR - low - 16.0
            if deepest < margin + 1:
                return None
            ys.append(rng.uniform(margin + 0.5, min(deepest, margin + 16.0)))
        return Setup(bodies(list(zip(xs, ys, strict=True)), [(0.0, 0.0)] * len(radii)), GRAVITY, True)

    if spec.family == "projectile":
        positions, velocities = [], []
        for margin, low in zip(reaches, lows, strict=True):
            speed = rng.uniform(*(speed_range or (1.2, 2.4)))
            start = crossing(speed, margin + 0.3, WIDTH)
            up = rng.uniform(2.6, 4.6)
            y = rng.uniform(max(margin + up**2 / (2 * GRAVITY) + 0.5, FLOOR - low - 22), FLOOR - low - 4)
            if start is None or y - up**2 / (2 * GRAVITY) < margin:
                return None
            positions.append((start, y))
            velocities.append((sign * speed, -up))
        return Setup(bodies(positions, velocities), GRAVITY, True)

    if spec.family == "slide":
        xs = _lanes(rng, reaches, 0.5, WIDTH - 0.5)
        if xs is None:
            return None
        positions, velocities = [], []
        for x, low in zip(xs, lows, strict=True):
            positions.append((x, FLOOR - low))
            velocities.append((sign * rng.uniform(*(speed_range or (2.6, 4.2))), 0.0))
        return Setup(bodies(positions, velocities), GRAVITY, True)

    if spec.family == "pendulum":
        positions, velocities, pivots = [], [], []
        xs = [WIDTH / 2 + rng.uniform(-5, 5)] if len(radii) == 1 else [16 + rng.uniform(-1, 1), 48 + rng.uniform(-1, 1)]
        for x, margin in zip(xs, reaches, strict=True):
            longest = 40.0 if len(radii) == 1 else 34.0
            rod = rng.uniform(22.0, longest)
            widest = (31.0 if len(radii) == 1 else 15.0) - margin
            angle = rng.uniform(0.55, 0.95)
            if rod * math.sin(angle) > widest:
                if widest / rod < 0.3:
                    return None
                angle = math.asin(widest / rod)
            angle *= 1 if spec.direction == "left" else -1  # the side it moves to first is the other one
            pivot = (x, 3.0)
            positions.append((x + rod * math.sin(angle), pivot[1] + rod * math.cos(angle)))
            velocities.append((0.0, 0.0))
            pivots.append(pivot)
        items = [
            Body(s, r, p, v, c) for s, r, p, v, c in zip(shapes, radii, positions, velocities, pivots, strict=True)
        ]
        return Setup(tuple(items), GRAVITY, False)

    if spec.family == "collision":
        a, b = reaches
        y = rng.uniform(max(a, b) + 2, HEIGHT - max(a, b) - 2)
        # Elastic: the second leaves with share x closing speed.
        share = 2 * radii[0] ** 2 / (radii[0] ** 2 + radii[1] ** 2)
        for _ in range(12):
            speed = rng.uniform(*(speed_range or (1.5, 2.8)))
            other = 0.0 if rng.random() < 0.6 else -rng.uniform(0.4, 0.9)
            first = a + rng.uniform(0.3, 4.0)
            hit = rng.uniform(4.5, 8.5)  # frame of the contact
            second = first + radii[0] + radii[1] + hit * (speed - other)
            end = second + other * last + share * (speed - other) * (last - hit)
            if second < WIDTH - b - 0.5 and end < WIDTH - b - 0.5:
                break
        else:
            return None
        xs = [first, second] if sign > 0 else [WIDTH - first, WIDTH - second]
        offset = rng.uniform(-0.6, 0.6)
        return Setup(bodies([(xs[0], y), (xs[1], y + offset)], [(sign * speed, 0.0), (sign * other, 0.0)]), 0.0, False)

    if spec.family == "occluder":
        width = rng.uniform(14.0, 18.0)
        left = WIDTH / 2 - width / 2 + rng.uniform(-3, 3)
        lanes = _lanes(rng, reaches, 0.5, HEIGHT - 0.5)
        if lanes is None:
            return None
        positions, velocities = [], []
        for lane, margin in zip(lanes, reaches, strict=True):
            speed = rng.uniform(*(speed_range or (2.3, 3.1)))
            start = crossing(speed, margin + 0.3, WIDTH)
            if start is None and speed_range:
                return None
            if start is None:
                speed = (WIDTH - 2 * margin - 1) / last
                start = margin + 0.3 if sign > 0 else WIDTH - margin - 0.3
            positions.append((start, lane))
            velocities.append((sign * speed, 0.0))
        return Setup(bodies(positions, velocities), 0.0, False, (left, left + width))

    raise ValueError(f"family {spec.family!r} is unknown")


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
