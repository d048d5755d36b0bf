"""Attention inside boxes of the token grid: joint, factorised and windowed attention are one thing with other boxes.

    joint     (t, h, w)   every token sees every other
    space     (1, h, w)   a frame sees itself
    time      (t, 1, 1)   a place sees itself over time
    window    (t, p, p)   a column of a few places

Rotary positions are relative, so inside a box they may start at 0. Sources: ViViT (Arnab et al. 2021, section 3.3),
W.A.L.T (Gupta et al. 2023, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from base_model.dit.blocks import Attention, attend
from base_model.dit.patches import Box
from base_model.dit.position import rotary_table, rotate

Layout = Literal["joint", "factorised_encoder", "factorised_self", "factorised_dot", "window"]
LAYOUTS: tuple[Layout, ...] = ("joint", "factorised_encoder", "factorised_self", "factorised_dot", "window")


def layer_boxes(layout: Layout, layer: int, num_layers: int, grid: Box, window: int) -> tuple[tuple[Box, ...], ...]:
    """The attentions of one layer, one after another; of each, the boxes that an even share of its heads works in.

    Args:
        window: most tokens along a side of a window; the largest number up to it that divides the side is taken.
    Returns, by layout:
        factorised_encoder: space in the first half of the layers, time in the second.
        factorised_self: space, then time, in every layer.
        factorised_dot: half of the heads space, half time.
        window: whole frames and columns of windows in turn. An image's tokens stay apart in the latter (the identity
            mask of W.A.L.T), so these layers only ever learn time.
    """
    t, h, w = grid
    space, time = (1, h, w), (t, 1, 1)
    if layout == "joint":
        return ((grid,),)
    if layout == "factorised_encoder":
        return ((space,),) if layer < (num_layers + 1) // 2 else ((time,),)
    if layout == "factorised_self":
        return (space,), (time,)
    if layout == "factorised_dot":
        return ((space, time),)
    if layout == "window":
        if layer % 2 == 0:
            return ((space,),)
        return (((1, 1, 1) if t == 1 else (t, _divisor(h, window), _divisor(w, window)),),)
    raise ValueError(f"attention layout '{layout}' is unknown; known: {', '.join(LAYOUTS)}")


def num_mixers(layout: Layout) -> int:
    """Attentions per layer."""
    return 2 if layout == "factorised_self" else 1


def _divisor(side: int, most: int) -> int:
    return max(size for size in range(1, min(side, most) + 1) if side % size == 0)


def to_boxes(x: Tensor, grid: Box, box: Box) -> Tensor:
    """[batch, head, token, dim] -> [batch * boxes, head, token of a box, dim]."""
    (t, h, w), (bt, bh, bw) = grid, box
    batch, heads, _, dim = x.shape
    x = x.reshape(batch, heads, t // bt, bt, h // bh, bh, w // bw, bw, dim)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7, 8).reshape(-1, heads, bt * bh * bw, dim)


def from_boxes(x: Tensor, grid: Box, box: Box) -> Tensor:
    """The inverse of `to_boxes`."""
    (t, h, w), (bt, bh, bw) = grid, box
    heads, _, dim = x.shape[1:]
    x = x.reshape(-1, t // bt, h // bh, w // bw, heads, bt, bh, bw, dim)
    return x.permute(0, 4, 1, 5, 2, 6, 3, 7, 8).reshape(len(x), heads, t * h * w, dim)


class BoxAttention(nn.Module):
    """Multi-head attention of tokens [batch, token, width] inside boxes of their grid."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads, width)

    def forward(self, x: Tensor, grid: Box, boxes: Sequence[Box]) -> Tensor:
        """Heads are shared out evenly among `boxes`, in order."""
        q, k, v = (part.chunk(len(boxes), dim=1) for part in self.attention.project(x, x))
        found = []
        for index, box in enumerate(boxes):
            inner = [to_boxes(part[index], grid, box) for part in (q, k, v)]
            cos, sin = (part.to(x.device) for part in rotary_table(box, inner[0].shape[-1]))
            out = attend(rotate(inner[0], cos, sin), rotate(inner[1], cos, sin), inner[2])
            found.append(from_boxes(out, grid, box))
        return self.attention.join(torch.cat(found, dim=1))
