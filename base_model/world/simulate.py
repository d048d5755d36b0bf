"""Moves a scene: pymunk does the mechanics.

Objects do not rotate (infinite moment), so a shape stays readable and a square's collision stays a momentum exchange
along the line of contact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pymunk

from base_model.world.spec import FLOOR, NUM_FRAMES, RESTITUTION, WIDTH, below, reach

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
        half = below(shape, radius)
        return [(-half, -half), (half, -half), (half, half), (-half, half)]
    corner = reach(shape, radius)
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
