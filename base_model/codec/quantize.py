"""Bottlenecks with a finite number of values: a learned codebook (VQ) and plain rounding (FSQ).

Both take vectors [..., channel] and give the snapped ones, with gradients passed straight through, and their codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate.utils import gather
from torch import Tensor, nn


@dataclass(frozen=True)
class Snapped:
    """values [..., channel], on the codes, gradient as of what went in; codes long [..., group]; loss scalar."""

    values: Tensor
    codes: Tensor
    loss: Tensor


def straight_through(value: Tensor, snapped: Tensor) -> Tensor:
    """`snapped` forward, to the bit, and the identity backward (Bengio et al. 2013)."""
    return snapped.detach() + (value - value.detach())


def perplexity(codes: Tensor, num_codes: int) -> float:
    """How many codes are in even use: exp of the entropy of code frequencies, 1 to num_codes."""
    share = torch.bincount(codes.flatten(), minlength=num_codes).double() / codes.numel()
    return float(torch.special.entr(share).sum().exp())


class VectorQuantizer(nn.Module):
    """Nearest entry of a codebook that follows a moving average of what is assigned to it.

    Channels are cut into groups with a codebook each (product quantisation): 4 groups of 256 say more than one of 1024.
    An entry that hardly anything is assigned to moves to a vector of the batch, or most of a codebook would stay
    unused. Codebooks change only in training mode, and follow the vectors of all processes alike.

    Source: VQ-VAE (van den Oord et al. 2017), eq. 3 and appendix A.1; commitment .25 as there.
    """

    entries: Tensor
    count: Tensor
    total: Tensor
    COMMITMENT, DECAY, RARE = 0.25, 0.99, 0.03  # RARE: of the even share

    def __init__(self, channels: int, num_codes: int, num_groups: int = 1) -> None:
        super().__init__()
        if channels % num_groups:
            raise ValueError(f"{channels} channels do not divide into {num_groups} groups")
        self.num_codes, self.num_groups = num_codes, num_groups
        # With no count yet, the first batch moves every entry that nothing is assigned to.
        self.register_buffer("entries", torch.randn(num_groups, num_codes, channels // num_groups))
        self.register_buffer("count", torch.zeros(num_groups, num_codes))
        self.register_buffer("total", torch.zeros_like(self.entries))

    def forward(self, values: Tensor) -> Snapped:
        x = values.unflatten(-1, (self.num_groups, -1))
        flat = x.detach().float().reshape(-1, *x.shape[-2:])  # [vector, group, channel]
        codes = torch.cdist(flat.transpose(0, 1), self.entries).argmin(dim=-1).T
        if self.training:
            with torch.autocast(flat.device.type, enabled=False):
                self._follow(gather(flat).transpose(0, 1), gather(codes.contiguous()).T)
        codes = codes.reshape(*x.shape[:-1])
        snapped = self.look_up(codes).to(values.dtype)
        loss = self.COMMITMENT * F.mse_loss(values, snapped)
        return Snapped(straight_through(values, snapped), codes, loss)

    def look_up(self, codes: Tensor) -> Tensor:
        """Vectors [..., channel] of codes [..., group]."""
        return torch.stack([self.entries[i][codes[..., i]] for i in range(self.num_groups)], dim=-2).flatten(-2)

    @torch.no_grad()
    def _follow(self, flat: Tensor, codes: Tensor) -> None:
        """Move the codebooks towards vectors [group, vector, channel], assigned to codes [group, vector]."""
        chosen = F.one_hot(codes, self.num_codes).to(flat.dtype)
        self.count.lerp_(chosen.sum(1), 1 - self.DECAY)
        self.total.lerp_(chosen.mT @ flat, 1 - self.DECAY)
        even = self.count.sum(1, keepdim=True) / self.num_codes
        rare = self.count < self.RARE * even
        for group in rare.any(1).nonzero().flatten().tolist():
            which = rare[group].nonzero().flatten()
            # Spread over the batch rather than drawn: nothing here depends on a global generator.
            rows = torch.linspace(0, flat.shape[1] - 1, len(which), device=flat.device).long()
            self.total[group, which] = flat[group, rows] * even[group]
            self.count[group, which] = even[group]
        self.entries.copy_(self.total / self.count.clamp(min=1e-5)[..., None])


class FiniteScalarQuantizer(nn.Module):
    """Each channel bounded and rounded to a few levels; nothing is learned and every code is in reach.

    Args:
        levels: values per channel; the implicit codebook has their product.
    Source: FSQ (Mentzer et al. 2024), section 3.
    """

    levels: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if min(levels) < 3:
            raise ValueError(f"levels are {list(levels)}; each channel needs 3 or more")
        self.num_groups = len(levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)

    def _bounded(self, values: Tensor) -> Tensor:
        """Into the range that rounds to the levels; an even number of levels lies half a step off zero."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(values.float() + torch.atanh(offset / half)) * half - offset

    def forward(self, values: Tensor) -> Snapped:
        bounded = self._bounded(values)
        whole = straight_through(bounded, bounded.round())
        codes = (whole.detach() + self.levels // 2).long()
        return Snapped((whole / (self.levels // 2)).to(values.dtype), codes, values.new_zeros(()))

    def look_up(self, codes: Tensor) -> Tensor:
        """Vectors [..., channel] of codes [..., channel]."""
        return (codes - self.levels // 2).float() / (self.levels // 2)
