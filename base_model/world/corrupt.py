"""Web noise: the ways scraped video goes wrong, applied to a clip while it is made.

A stated share of the pretraining clips is spoilt, so that the base model learns clean and broken motion side by side,
as real base models do; undoing this is what preference alignment is for. State defects are applied before drawing, time
defects after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from base_model.world.spec import COLOURS, HEIGHT, WIDTH

# Relative frequency of each defect among spoilt clips. Wrong captions teach wrong words for right videos: rare.
DEFECTS = {
    "vanish": 0.22,
    "teleport": 0.20,
    "freeze": 0.18,
    "colour_swap": 0.10,
    "gravity": 0.12,
    "flicker": 0.08,
    "reverse": 0.04,
    "caption": 0.06,
}


@dataclass
class Drawn:
    """What will be drawn: position [time, object, 2], rgb [time, object, 3], alpha [time, object]."""

    position: np.ndarray
    rgb: np.ndarray
    alpha: np.ndarray


def choose_defect(rng: np.random.Generator) -> str:
    names = list(DEFECTS)
    weights = np.array(list(DEFECTS.values()))
    return str(rng.choice(names, p=weights / weights.sum()))


def spoil_state(defect: str, drawn: Drawn, margins: list[float], rng: np.random.Generator) -> None:
    """Teleport, vanish, colour swap or flicker one object, in place."""
    num_frames, count = drawn.alpha.shape
    which = int(rng.integers(count))
    start = int(rng.integers(4, num_frames - 4))
    if defect == "teleport":
        margin = margins[which]
        for _ in range(20):
            shift = rng.uniform(-26, 26, 2)
            moved = drawn.position[start:, which] + shift
            inside = (moved > margin).all() and (moved < (WIDTH - margin, HEIGHT - margin)).all()
            if np.hypot(*shift) > 9 and inside:
                drawn.position[start:, which] = moved
                return
        drawn.alpha[start:, which] = 0.0  # no room to jump to: it is gone instead
    elif defect == "vanish":
        end = num_frames if rng.random() < 0.7 else min(num_frames, start + int(rng.integers(3, 7)))
        drawn.alpha[start:end, which] = 0.0
    elif defect == "colour_swap":
        now = tuple(drawn.rgb[0, which])
        others = [rgb for rgb in COLOURS.values() if not np.allclose(rgb, now)]
        drawn.rgb[start:, which] = others[int(rng.integers(len(others)))]
    elif defect == "flicker":
        drawn.alpha[:, which] *= np.where(rng.random(num_frames) < 0.35, rng.uniform(0.0, 0.6, num_frames), 1.0)


def spoil_time(defect: str, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Index [time] of the frames to show instead: a frozen stretch, a frozen rest, or the clip reversed."""
    num_frames = len(frames)
    order = np.arange(num_frames)
    if defect == "freeze":
        start = int(rng.integers(3, num_frames - 5))
        length = num_frames - start if rng.random() < 0.6 else int(rng.integers(4, 9))
        order[start:] = np.maximum(start, order[start:] - length)
    elif defect == "reverse":
        order = order[::-1].copy()
    return order
