"""Rotary positions over (time, row, column), so that one set of weights takes any duration, size and aspect.

Source: RoFormer (Su et al. 2021, eq. 15), one third of each head's channels per axis.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(shape: tuple[int, int, int], head_dim: int, theta: float = 100.0) -> tuple[Tensor, Tensor]:
    """cos and sin [tokens, head_dim] of every token of a (time, rows, columns) grid, row-major.

    Each axis takes an even share of the head's channels; what is left over is not turned. theta 100 suits axes of tens
    of places.
    """
    share = head_dim // 3 // 2 * 2
    rate = theta ** (-torch.arange(0, share, 2, dtype=torch.float32) / share)
    grid = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    angles = [place.flatten()[:, None] * rate[None] for place in grid]
    rest = torch.zeros(angles[0].shape[0], head_dim // 2 - 3 * share // 2)
    angle = torch.cat([*angles, rest], dim=1).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pairs (i, i + half) of x [batch, head, token, head_dim] by the table's angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)
