"""What a sandbox scene is: objects with attributes, a family of motion, a direction.

The spec is the machine-readable truth of a clip and of a prompt; captions are written from it and parsed back into it.
A field that is None was not stated (a short caption names no size), so it is not checked either. Lengths are pixels,
times are frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

HEIGHT = WIDTH = 64
NUM_FRAMES = 17  # 4k + 1: a causal codec keeps the first frame alone
FPS = 8.0
GRAVITY = 0.8  # px / frame^2, downwards
FLOOR = 58.0  # y of the floor's top edge, px from the top
RESTITUTION = 0.75  # of the floor; two objects collide elastically

Direction = Literal["left", "right", "up", "down"]

GROUND = (0.08, 0.08, 0.08)
# Greys carry no chroma, so the reader sees objects and props apart by colour alone.
FLOOR_GREY, WALL_GREY, ROD_GREY = 0.36, 0.52, 0.46
# Eight hues at least 30 degrees apart in the chroma plane, all brighter than the ground.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.93, 0.18, 0.18),
    "orange": (0.98, 0.56, 0.10),
    "yellow": (0.94, 0.92, 0.18),
    "green": (0.18, 0.80, 0.24),
    "cyan": (0.16, 0.82, 0.88),
    "blue": (0.22, 0.40, 0.98),
    "purple": (0.62, 0.24, 0.96),
    "pink": (0.98, 0.36, 0.74),
}
SHAPES = ("ball", "square", "triangle")
# Radius is that of the disc of equal area, px. Gaps between the bands keep the words distinct.
SIZES: dict[str, tuple[float, float]] = {"small": (4.2, 4.8), "medium": (5.8, 6.4), "large": (7.6, 8.2)}
FAMILIES = ("uniform", "bounce", "projectile", "collision", "pendulum", "slide", "occluder", "static")


@dataclass(frozen=True)
class ObjectSpec:
    """One object; `size` is None where a prompt does not state it."""

    colour: str
    shape: str
    size: str | None = None


@dataclass(frozen=True)
class SceneSpec:
    """One scene. In a collision the first object moves and the second is hit."""

    family: str
    objects: tuple[ObjectSpec, ...]
    direction: Direction | None = None


def directions(family: str) -> tuple[Direction, ...]:
    """The ways a family's scenes can go; none where nothing travels."""
    if family in ("static", "bounce"):
        return ()
    return get_args(Direction) if family == "uniform" else ("left", "right")


def below(shape: str, radius: float) -> float:
    """Distance from the centroid of an upright shape of this equal-area radius down to its lowest point, px."""
    return {"ball": 1.0, "square": 0.8862, "triangle": 0.7776}[shape] * radius


def reach(shape: str, radius: float) -> float:
    """Largest distance from the centroid to the outline, px."""
    return {"ball": 1.0, "square": 1.2533, "triangle": 1.5551}[shape] * radius
