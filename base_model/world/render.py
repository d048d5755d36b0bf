"""Draws a scene: anti-aliased coverage from signed distances, floor and rods below the objects, the wall above them.

Pixel (row i, column j) covers the square [j, j+1] x [i, i+1]; its centre is at (j + .5, i + .5).
"""

from __future__ import annotations

import numpy as np

from base_model.world.spec import FLOOR, FLOOR_GREY, GROUND, HEIGHT, ROD_GREY, WALL_GREY, WIDTH, below


def _places(size: int) -> np.ndarray:
    """Centres of the pixels along a side of `size`."""
    return np.arange(size, dtype=np.float32) + 0.5


def coverage(shape: str, radius: float, position: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Share of each pixel inside the shape, [time, height, width] in [0, 1]; position [time, 2] px."""
    dx = _places(width)[None, None, :] - position[:, 0, None, None].astype(np.float32)
    dy = _places(height)[None, :, None] - position[:, 1, None, None].astype(np.float32)
    if shape == "ball":
        distance = np.sqrt(dx * dx + dy * dy) - radius
    elif shape == "square":
        distance = np.maximum(np.abs(dx), np.abs(dy)) - below(shape, radius)
    else:  # equilateral, point up: three half-planes at the inradius
        slope = np.abs(dx) * 0.8660254 - dy * 0.5
        distance = np.maximum(slope, dy) - below(shape, radius)
    return np.clip(0.5 - distance, 0.0, 1.0)


def render(
    position: np.ndarray,
    rgb: np.ndarray,
    alpha: np.ndarray,
    shapes: list[str],
    radii: list[float],
    *,
    floor: bool = False,
    wall: tuple[float, float] | None = None,
    pivots: list[tuple[float, float] | None] | None = None,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> np.ndarray:
    """Frames float32 [time, 3, height, width] in [0, 1].

    Args:
        position: [time, object, 2] px.
        rgb: [time, object, 3] colour of each object in each frame.
        alpha: [time, object] opacity; 0 hides an object.
        height, width: of the frames; the floor is as high above their lower edge as in the standard frame.
    """
    num_frames = position.shape[0]
    frames = np.empty((num_frames, 3, height, width), dtype=np.float32)
    frames[:] = np.asarray(GROUND, dtype=np.float32)[None, :, None, None]
    if floor:
        frames[:, :, int(FLOOR) + height - HEIGHT :] = FLOOR_GREY
    for i, pivot in enumerate(pivots or []):
        if pivot is not None:
            _rod(frames, np.asarray(pivot, dtype=np.float32), position[:, i].astype(np.float32), alpha[:, i])
    for i, (shape, radius) in enumerate(zip(shapes, radii, strict=True)):
        share = (coverage(shape, radius, position[:, i], height, width) * alpha[:, i, None, None].astype(np.float32))[
            :, None
        ]
        frames += share * (rgb[:, i, :, None, None].astype(np.float32) - frames)
    if wall is not None:
        x = _places(width)
        share = np.clip(np.minimum(x - wall[0], wall[1] - x) + 0.5, 0.0, 1.0)
        frames += share * (WALL_GREY - frames)
    return frames


def _rod(frames: np.ndarray, pivot: np.ndarray, end: np.ndarray, alpha: np.ndarray) -> None:
    axis = end - pivot
    length = np.maximum(np.hypot(axis[:, 0], axis[:, 1]), 1e-6)
    unit = axis / length[:, None]
    dx = _places(frames.shape[3])[None, None, :] - pivot[0]
    dy = _places(frames.shape[2])[None, :, None] - pivot[1]
    along = dx * unit[:, 0, None, None] + dy * unit[:, 1, None, None]
    across = np.abs(dx * unit[:, 1, None, None] - dy * unit[:, 0, None, None])
    inside = (along > 0) & (along < length[:, None, None])
    share = (np.clip(1.1 - across, 0.0, 1.0) * inside * alpha[:, None, None]).astype(np.float32)[:, None]
    frames += share * (ROD_GREY - frames)
