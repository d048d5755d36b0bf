"""State back from pixels: which objects are there, where they are in each frame, what they look like.

Ground and props are grey and objects are not, so the chroma plane (colour minus its grey part) separates them: a
pixel's hue names the object, its chroma the share of the pixel the object covers. Sums of that share give area and
centroid to a few hundredths of a pixel. Nothing is guessed: a frame in which an object is absent, cut by the wall or
the border, or torn into pieces has NaN for a position and says which of these it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.ndimage import maximum_filter

from base_model.world.spec import (
    COLOURS,
    FLOOR,
    FLOOR_GREY,
    GROUND,
    HEIGHT,
    ROD_GREY,
    SIZES,
    WALL_GREY,
    WIDTH,
)

Status = Literal["seen", "hidden", "absent", "torn"]

# Orthonormal axes of the chroma plane: grey is orthogonal to both.
_AXES = np.array([[2.0, -1.0, -1.0], [0.0, 1.0, -1.0]], dtype=np.float32) / np.sqrt([[6.0], [2.0]]).astype(np.float32)
_NAMES = list(COLOURS)
_CHROMA = np.array([COLOURS[name] for name in _NAMES], dtype=np.float32) @ _AXES.T  # [colour, 2]
_LENGTH = np.hypot(_CHROMA[:, 0], _CHROMA[:, 1])
_UNIT = _CHROMA / _LENGTH[:, None]
SMALLEST_AREA = 14.0  # px^2: half the smallest object of the odd-radius split; less is a smear
FAINT = 0.06  # chroma share below this is noise of a codec
STRONG = 0.25  # chroma share that no noise reaches
CELL = 17  # px, a window that reaches a codec's cell of 8 px to every side; inside one cell colours run together


@dataclass(frozen=True)
class Track:
    """One object through the clip, found by its colour.

    position [time, 2] px (x right, y down), NaN unless status is "seen"; area [time] px^2; radius [time] px = sqrt(area
    / pi); rgb [time, 3] mean colour of the fully covered pixels, NaN where there are none. `shape` and `size` are None
    where the seen frames do not agree on one.
    """

    colour: str
    shape: str | None
    size: str | None
    position: np.ndarray
    area: np.ndarray
    radius: np.ndarray
    rgb: np.ndarray
    status: tuple[Status, ...]

    @property
    def seen(self) -> np.ndarray:
        """bool [time]"""
        return np.array([state == "seen" for state in self.status])


@dataclass(frozen=True)
class Props:
    """What stands in the scene: the floor, the wall's (left, right) edge in px, a pendulum's rod."""

    floor: bool
    wall: tuple[float, float] | None
    rod: bool


@dataclass(frozen=True)
class Observation:
    """All that was read of frames `height` x `width` px.

    `residual` is the mean distance of pixels from ground + props + objects, in [0, 1].
    """

    tracks: tuple[Track, ...]
    props: Props
    residual: float
    height: int = HEIGHT
    width: int = WIDTH


def read(frames: np.ndarray) -> Observation:
    """Read a clip, float32 [time, 3, height >= 64, width >= 64] in [0, 1]."""
    frames = np.asarray(frames, dtype=np.float32)
    pixels = frames.transpose(0, 2, 3, 1)
    chroma = pixels @ _AXES.T
    length = np.hypot(chroma[..., 0], chroma[..., 1])
    label = np.where(length > 0.04, np.argmax(chroma @ _UNIT.T, axis=-1), -1)
    props = _props(pixels, length)
    shares = _shares(chroma, label)
    _unmix(shares, chroma)
    tracks, explained = [], np.zeros(length.shape, dtype=np.float32)
    for index, share in shares.items():
        explained += share
        area = share.sum(axis=(1, 2))
        if (area > SMALLEST_AREA).sum() >= 2:
            tracks.append(_track(index, share, area, pixels, props))
    tracks = _without_slivers(tracks)
    residual = _residual(pixels, length, explained, props)
    return Observation(tuple(tracks), props, residual, *frames.shape[2:])


def _floor(pixels: np.ndarray) -> int:
    """Row of the floor's top edge in pixels [..., height, width, 3]; it is measured from the lower edge."""
    return int(FLOOR) + pixels.shape[-3] - HEIGHT


def _shares(chroma: np.ndarray, label: np.ndarray) -> dict[int, np.ndarray]:
    """How much of each pixel each colour covers, [time, height, width] by colour index.

    Colours that do not occur are left out. Only pixels beside a strongly coloured one count: noise has chroma too, and
    far from the centre it weighs most.
    """
    shares = {}
    for index in range(len(_NAMES)):
        mine = label == index
        if mine.sum() < SMALLEST_AREA / 2:
            continue
        along = chroma[mine] @ _UNIT[index] / _LENGTH[index]
        share = np.zeros(label.shape, dtype=np.float32)
        share[mine] = np.where(along < FAINT, 0.0, np.minimum(along, 1.15))
        strong = share > STRONG
        if strong.any():
            shares[index] = np.where(maximum_filter(strong, size=(1, 5, 5)), share, 0.0)
    return shares


def _unmix(shares: dict[int, np.ndarray], chroma: np.ndarray) -> None:
    """Give the mixed edge of two touching objects back to them, in place.

    Where red and blue share a codec's cell, or only a blurred edge, the pixels between them are purple: no third
    object.
    """
    area = {index: share.sum(axis=(1, 2)) for index, share in shares.items()}
    for mixed in sorted(shares, key=lambda index: float(area[index].max())):
        larger = [index for index in shares if area[index].max() > area[mixed].max()]
        for first, second in combinations(larger, 2):
            basis = np.linalg.inv(_CHROMA[[first, second]])
            if (_UNIT[mixed] @ basis > 0).all() and _is_mixture(shares, area, mixed, first, second):
                where = shares[mixed] > 0
                parts = np.clip(chroma[where] @ basis, 0.0, 1.15)
                for index, part in zip((first, second), parts.T, strict=True):
                    shares[index][where] += part
                    area[index] = shares[index].sum(axis=(1, 2))
                del shares[mixed]
                break


def _is_mixture(
    shares: dict[int, np.ndarray], area: dict[int, np.ndarray], mixed: int, first: int, second: int
) -> bool:
    """Is this colour only where two others are side by side, and do they lack there what it has?"""
    there = area[mixed] > 2.0
    if there.mean() > 0.6 or not ((area[first] > SMALLEST_AREA) & (area[second] > SMALLEST_AREA))[there].all():
        return False
    whole = [float(np.median(area[index][~there])) for index in (first, second)]
    lacking = whole[0] + whole[1] - area[first] - area[second]
    plenty = area[mixed] > SMALLEST_AREA / 2
    if (lacking < 0.4 * area[mixed])[plenty].any():
        return False
    around = maximum_filter(shares[mixed][there] > STRONG, size=(1, CELL, CELL))
    return all((around & (shares[index][there] > STRONG)).any() for index in (first, second))


def _props(pixels: np.ndarray, length: np.ndarray) -> Props:
    grey = np.where(length < 0.08, pixels.mean(axis=-1), np.nan)
    with np.errstate(invalid="ignore"):
        below = grey[:, _floor(pixels) + 1 :]
        floor = bool((np.abs(below - FLOOR_GREY) < 0.09).mean() > 0.7)
        tall = (np.abs(grey[:, : _floor(pixels) - 2] - WALL_GREY) < 0.09).mean(axis=(0, 1))
    columns = np.flatnonzero(tall > 0.6)
    wall = None
    if 6 <= len(columns) and columns[-1] - columns[0] + 1 == len(columns):
        wall = (float(columns[0]), float(columns[-1] + 1))
    thin = _rod_share(pixels, length, floor, wall).sum(axis=(1, 2))
    return Props(floor, wall, bool(np.median(thin) > 2.0))


def _rod_share(pixels: np.ndarray, length: np.ndarray, floor: bool, wall: tuple[float, float] | None) -> np.ndarray:
    """How much of each pixel a rod could cover, [time, height, width]: grey where there is neither floor nor wall."""
    grey = (pixels.mean(axis=-1) - GROUND[0]) / (ROD_GREY - GROUND[0])
    share = np.where((length < 0.08) & (grey > 0.3), grey, 0.0)
    if floor:
        share[:, _floor(pixels) - 1 :] = 0.0
    if wall is not None:
        share[:, :, max(0, int(wall[0]) - 2) : int(wall[1]) + 2] = 0.0
    return share


def _track(index: int, share: np.ndarray, area: np.ndarray, pixels: np.ndarray, props: Props) -> Track:
    num_frames = len(area)
    x, y = np.arange(share.shape[2], dtype=np.float64) + 0.5, np.arange(share.shape[1], dtype=np.float64) + 0.5
    safe = np.maximum(area, 1e-6)
    by_column, by_row = share.sum(axis=1), share.sum(axis=2)
    cx, cy = by_column @ x / safe, by_row @ y / safe
    spread = (by_column @ x**2 + by_row @ y**2) / safe - cx**2 - cy**2  # second moment; a disc has area / 2 pi
    present = area > SMALLEST_AREA
    # A passage behind a wall shows parts of the object in half of the frames.
    typical = float(np.quantile(area[present], 0.5 if props.wall is None else 0.8))
    status: list[Status] = []
    for t in range(num_frames):
        reach = 1.25 * math.sqrt(max(area[t], typical) / math.pi) * 1.3
        at_wall = props.wall is not None and props.wall[0] - reach < cx[t] < props.wall[1] + reach
        filled = np.flatnonzero(by_column[t] > 0.5), np.flatnonzero(by_row[t] > 0.5)
        at_border = any(len(f) and (f[0] <= 0 or f[-1] >= n - 1) for f, n in zip(filled, (len(x), len(y)), strict=True))
        if area[t] < max(SMALLEST_AREA, 0.25 * typical):
            status.append("hidden" if _was_near_wall(cx, present, t, props, typical) else "absent")
        elif at_wall and _touches(filled[0], props) and area[t] < 0.97 * typical:
            status.append("hidden")
        elif at_border and area[t] < 0.93 * typical:
            status.append("hidden")
        elif spread[t] > 0.30 * area[t]:  # ball .159, square .167, triangle .192 of its area
            status.append("torn")
        else:
            status.append("seen")
    seen = np.array([s == "seen" for s in status])
    position = np.where(seen[:, None], np.stack([cx, cy], axis=1), np.nan)
    rgb = np.full((num_frames, 3), np.nan)
    for t in np.flatnonzero(area > SMALLEST_AREA).tolist():
        inside = share[t] > 0.85
        if inside.any():
            rgb[t] = pixels[t][inside].mean(axis=0)
    size, shape = None, None
    if seen.any():
        shape = _shape(share[seen], cx[seen], cy[seen], x, y)
        radius = float(np.median(np.sqrt(area[seen] / math.pi)))
        size = min(SIZES, key=lambda name: abs(sum(SIZES[name]) / 2 - radius))
    return Track(_NAMES[index], shape, size, position, area, np.sqrt(area / math.pi), rgb, tuple(status))


def _touches(columns: np.ndarray, props: Props) -> bool:
    return (
        props.wall is not None
        and len(columns) > 0
        and columns[0] <= props.wall[1] + 0.5
        and columns[-1] >= props.wall[0] - 1.5
    )


def _was_near_wall(cx: np.ndarray, present: np.ndarray, t: int, props: Props, typical: float) -> bool:
    """Could an object that cannot be seen at t stand behind the wall? Only if it was last or is next seen beside it."""
    if props.wall is None:
        return False
    reach = math.sqrt(typical / math.pi) + 5.0  # a frame's travel at the family's speed
    before, after = np.flatnonzero(present[:t]), np.flatnonzero(present[t + 1 :])
    near = [cx[before[-1]]] if len(before) else []
    near += [cx[t + 1 + after[0]]] if len(after) else []
    return bool(near) and all(props.wall[0] - reach < c < props.wall[1] + reach for c in near)


def _shape(share: np.ndarray, cx: np.ndarray, cy: np.ndarray, x: np.ndarray, y: np.ndarray) -> str | None:
    """Shape by angular harmonics about the centroid: a triangle has a third, an upright square a fourth."""
    z = (x[None, None, :] - cx[:, None, None]) + 1j * (y[None, :, None] - cy[:, None, None])
    r2 = np.abs(z) ** 2
    third = (share * z**3).sum(axis=(1, 2)) / (share * r2**1.5).sum(axis=(1, 2))
    fourth = (share * z**4).sum(axis=(1, 2)) / (share * r2**2).sum(axis=(1, 2))
    pointed = float(np.median(third.imag))  # its size for an exact upright triangle: .51
    corners = float(np.median(fourth.real))  # exact square: -.43
    if abs(pointed) > 0.22:
        return "triangle"
    if corners < -0.21:
        return "square"
    return "ball" if corners < 0.21 else None


def _without_slivers(tracks: list[Track]) -> list[Track]:
    """Drop a track that is never more than the coloured edge of another object."""
    largest = max((float(track.area.max()) for track in tracks), default=0.0)
    return [track for track in tracks if track.area.max() >= min(0.2 * largest, 2.0 * SMALLEST_AREA)]


def _residual(pixels: np.ndarray, length: np.ndarray, explained: np.ndarray, props: Props) -> float:
    """Mean grey departure of the pixels that no object, floor, wall or rod explains."""
    free = explained < 0.02
    if props.floor:
        free[:, _floor(pixels) - 1 :] = False
    if props.wall is not None:
        free[:, :, max(0, int(props.wall[0]) - 1) : int(props.wall[1]) + 1] = False
    if props.rod:
        free &= maximum_filter(_rod_share(pixels, length, props.floor, props.wall), size=(1, 3, 3)) == 0.0
    return float(np.abs(pixels[free] - np.asarray(GROUND, dtype=np.float32)).mean()) if free.any() else 0.0
