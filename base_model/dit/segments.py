"""Who may see whom where several clips lie in one sequence: a block-diagonal mask, in the form each kernel likes.

mask    bool [1, 1, query, key] for SDPA: any device; cost grows with the square of the whole sequence
split   one small attention per clip: any device, exact, no masked pair is ever computed
flex    FlexAttention's block mask, compiled: CUDA (its backward does not exist on CPUs, torch 2.15)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Kernel = Literal["auto", "mask", "split", "flex"]


@dataclass(frozen=True)
class Segments:
    """Queries and keys lie clip after clip, and a query sees its own clip's keys. Numbers are tokens per clip."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]


Mask = Tensor | Segments | BlockMask


def numbers(lengths: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Clip number of every token, long [token]: (2, 3) gives 0 0 1 1 1."""
    return torch.arange(len(lengths), device=device).repeat_interleave(torch.tensor(lengths, device=device))


def block_diagonal(
    queries: tuple[int, ...], keys: tuple[int, ...], kernel: Kernel = "auto", device: torch.device | None = None
) -> Mask:
    """What `dit.blocks.attend` takes so that each clip's queries see that clip's keys alone.

    Args:
        queries, keys: tokens per clip. kernel: see the module's first lines; "auto" is flex on CUDA, else split.
    Raises: ValueError for an unknown kernel.
    """
    if kernel == "auto":
        kernel = "flex" if device is not None and device.type == "cuda" else "split"
    if kernel == "split":
        return Segments(queries, keys)
    of_query, of_key = numbers(queries, device), numbers(keys, device)
    if kernel == "mask":
        return (of_query[:, None] == of_key[None])[None, None]
    if kernel == "flex":

        def same(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return of_query[query] == of_key[key]

        return create_block_mask(same, None, None, len(of_query), len(of_key), device=str(device or "cpu"))
    raise ValueError(f"attention kernel '{kernel}' is unknown; known: auto, mask, split, flex")


@functools.cache
def _flex(compiled: bool) -> Callable[..., Any]:
    return cast(Callable[..., Any], torch.compile(flex_attention, dynamic=True) if compiled else flex_attention)


def flex_attend(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    """Softmax attention [batch, head, token, head_dim] by FlexAttention."""
    return cast(Tensor, _flex(q.is_cuda)(q, k, v, block_mask=mask))
