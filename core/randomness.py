"""Randomness as an argument: (seed, purpose, index) names one generator, on every machine and after every resume.

There is no global state here and nothing is ever seeded twice with the same numbers for two purposes. Only
`torch_generator` needs torch, and imports it when called.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_for(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit integer that depends on all arguments, stable across processes and versions (unlike `hash`)."""
    name = "/".join([str(int(seed)), purpose, *(str(int(i)) for i in index)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """The NumPy generator of (seed, purpose, index)."""
    return np.random.default_rng(seed_for(seed, purpose, *index))


def torch_generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """The torch generator of (seed, purpose, index). Always on the CPU, so that a GPU draws the same noise."""
    import torch

    return torch.Generator().manual_seed(seed_for(seed, purpose, *index))


def walk(size: int, start: int, count: int, seed: int, purpose: str) -> list[int]:
    """Positions `start` to `start + count` of an endless walk over 0 .. size - 1, every turn in a new random order.

    A function of its arguments, so whoever resumes needs no cursor.
    """
    chosen = []
    for index in range(start, start + count):
        turn, position = divmod(index, size)
        chosen.append(int(numpy_generator(seed, purpose, turn).permutation(size)[position]))
    return chosen
