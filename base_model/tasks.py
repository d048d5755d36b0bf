"""What is given and what is to be made: every ability beyond text to video is a mask of known latent cells.

A mask is bool [time, rows, columns] over latent cells, True where the clip is given. The transformer sees given cells
clean and marked, and one set of weights is trained on all masks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_mask(shape: tuple[int, int, int], patch: int, rng: torch.Generator) -> Tensor:
    """A mask to train on, each kind equally often: beginning, end, both ends, a hole in space, a hole in space-time.

    Args:
        shape: latent (time, rows, columns), time at least 2. patch: cells per token side; holes end at token borders.
    """
    time, rows, columns = shape

    def draw(low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=rng))

    known = torch.zeros(shape, dtype=torch.bool)
    kind = draw(0, 4)
    if kind in (0, 2):
        known[: 1 if draw(0, 1) else draw(1, time - 1)] = True
    if kind in (1, 2) and time > 2:
        known[-draw(1, (time - 1) // 2) :] = True
    if kind > 2 or not known.any() or known.all():
        known[:] = True
        high, wide = draw(1, rows // patch), draw(1, columns // patch)
        top, left = draw(0, rows // patch - high) * patch, draw(0, columns // patch - wide) * patch
        begin = 0 if kind == 3 else draw(0, time - 2)
        known[begin:, top : top + high * patch, left : left + wide * patch] = False
    return known
