"""Rotary positions over (time, row, column), so that one set of weights takes any duration, size and aspect.

Source: RoFormer (Su et al. 2021, eq. 15), one third of each head's channels per axis.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grid_positions(shape: tuple[int, int, int]) -> Tensor:
    """(time, row, column) of every token of a grid, float [tokens, 3], row-major."""
    grid = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    return torch.stack([place.flatten() for place in grid], dim=1)


def rotary_table(shape: tuple[int, int, int], head_dim: int, theta: float = 100.0) -> tuple[Tensor, Tensor]:
    """cos and sin [tokens, head_dim] of every token of a (time, rows, columns) grid, row-major."""
    return rotary_at(grid_positions(shape), head_dim, theta)


def rotary_at(position: Tensor, head_dim: int, theta: float = 100.0) -> tuple[Tensor, Tensor]:
    """cos and sin [tokens, head_dim] of tokens at `position`, float [tokens, 3].

    Each axis takes an even share of the head's channels; what is left over is not turned. theta 100 suits axes of tens
    of places.
    """
    share = head_dim // 3 // 2 * 2
    rate = theta ** (-torch.arange(0, share, 2, dtype=torch.float32, device=position.device) / share)
    angles = [place[:, None] * rate[None] for place in position.T]
    rest = angles[0].new_zeros(len(position), head_dim // 2 - 3 * share // 2)
    angle = torch.cat([*angles, rest], dim=1).repeat(1, 2)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pairs (i, i + half) of x [batch, head, token, head_dim] by the table's angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-second, first], dim=-1) * sin.to(x.dtype)
