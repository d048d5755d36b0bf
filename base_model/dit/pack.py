"""Patch n' Pack: clips of different duration, size and aspect in one sequence of tokens, without padding.

Every token carries its place in its own clip (rotary) and listens to its own clip's noise level and prompt; a
block-diagonal mask keeps clips apart. So a packed clip comes out as it would alone, from the weights as they are.
Words are packed too. `buckets` is the simple alternative: batches of one shape.

Source: NaViT (Dehghani et al. 2023), sections 2.1 to 2.3. One flat sequence rather than a batch of fixed rows: its
length may differ from step to step, and then nothing at all is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from base_model.dit.patches import Box, grid_of, patchify, unpatchify
from base_model.dit.position import grid_positions, rotary_at
from base_model.dit.segments import Kernel, block_diagonal, numbers
from base_model.transformer import VideoTransformer
from core.errors import UserError

Shape = tuple[int, ...]


def num_tokens(shape: Shape, patch: Box) -> int:
    """Tokens of a clip's latents [..., T, H, W]."""
    time, rows, columns = grid_of(shape, patch)
    return time * rows * columns


def fill(lengths: Sequence[int], budget: int, order: Sequence[int] | None = None) -> list[list[int]]:
    """Clips (by index) of each sequence, so that none is longer than `budget` tokens: each goes where it first fits.

    Args:
        order: of placing them; None = longest first, which leaves least free. A shuffled order mixes clips anew.
    Raises: UserError where one clip alone is longer.
    """
    longest = max(range(len(lengths)), key=lengths.__getitem__, default=None)
    if longest is not None and lengths[longest] > budget:
        raise UserError(
            f"the token budget is {budget}, but clip {longest} alone has {lengths[longest]} tokens; "
            f"raise the budget to {lengths[longest]} or more, or give shorter or smaller clips"
        )
    packs: list[list[int]] = []
    free: list[int] = []
    for index in order if order is not None else sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = (number for number, room in enumerate(free) if room >= lengths[index])
        number = next(fitting, len(packs))
        if number == len(packs):
            packs.append([])
            free.append(budget)
        packs[number].append(index)
        free[number] -= lengths[index]
    return packs


def buckets(shapes: Sequence[Shape], batch: int) -> list[list[int]]:
    """Batches of clips (by index) of one shape each, at most `batch` long; every clip once."""
    same: dict[Shape, list[int]] = {}
    for index, shape in enumerate(shapes):
        same.setdefault(shape, []).append(index)
    return [group[start : start + batch] for group in same.values() for start in range(0, len(group), batch)]


def drop_rate(step: int, steps: int, rate: float, until: float = 0.8) -> float:
    """Share of tokens left out at a training step: `rate` at first, falling linearly to 0 at `until` of the steps.

    The last steps see whole clips, as generation does.
    """
    return rate * max(0.0, 1.0 - step / max(1.0, until * steps))


def draw_kept(count: int, rate: float, rng: torch.Generator) -> Tensor:
    """Ascending indices of the tokens that stay when a share `rate` of `count` is dropped; at least one stays."""
    stay = max(1, round(count * (1.0 - rate)))
    return torch.randperm(count, generator=rng)[:stay].sort().values


@dataclass(frozen=True)
class Packed:
    """Clips as one sequence: tokens [1, token, C * cells], place in the own clip [token, 3], tokens kept per clip."""

    tokens: Tensor
    position: Tensor
    lengths: tuple[int, ...]


def pack(clips: Sequence[Tensor], patch: Box, kept: Sequence[Tensor | None]) -> Packed:
    """Join clips [C, T, H, W]; of each only the tokens `kept` (long indices, None = all)."""
    tokens, position = [], []
    for clip, stay in zip(clips, kept, strict=True):
        cells, place = patchify(clip[None], patch)[0], grid_positions(grid_of(clip.shape, patch)).to(clip.device)
        tokens.append(cells if stay is None else cells[stay])
        position.append(place if stay is None else place[stay])
    return Packed(torch.cat(tokens)[None], torch.cat(position), tuple(map(len, tokens)))


def unpack(tokens: Tensor, shapes: Sequence[Shape], patch: Box, kept: Sequence[Tensor | None]) -> list[Tensor]:
    """The inverse of `pack` for clips of `shapes` [..., T, H, W]; cells of dropped tokens are 0."""
    clips, start = [], 0
    for shape, stay in zip(shapes, kept, strict=True):
        count = num_tokens(shape, patch)
        length = count if stay is None else len(stay)
        part = tokens[0, start : start + length]
        start += length
        if stay is not None:
            part = part.new_zeros(count, part.shape[1]).index_copy(0, stay.to(part.device), part)
        clips.append(unpatchify(part[None], grid_of(shape, patch), patch)[0])
    return clips


def kept_cells(shape: Shape, patch: Box, stay: Tensor | None) -> Tensor:
    """bool [T, H, W]: the latent cells whose token stays, for a loss that counts only these."""
    count = num_tokens(shape, patch)
    seen = torch.zeros(count, patch[0] * patch[1] * patch[2], dtype=torch.bool)
    seen[slice(None) if stay is None else stay] = True
    return unpatchify(seen[None], grid_of(shape, patch), patch)[0, 0]


def packed_velocity(
    network: VideoTransformer,
    clips: Sequence[Tensor],
    sigma: Tensor,
    text: Tensor,
    mask: Tensor,
    pooled: Tensor,
    known: Sequence[Tensor] | None = None,
    kept: Sequence[Tensor | None] | None = None,
    kernel: Kernel = "auto",
) -> list[Tensor]:
    """Velocities [C, T, H, W] of clips of any shapes, computed in one sequence; equal to each clip's alone.

    Args:
        clips: noisy latents [C, T, H, W] each. sigma: [clip] noise levels.
        text, mask, pooled: one row a clip, as `VideoTransformer.forward` takes them.
        known: bool [T, H, W] each, True where the latents are given clean; None = nowhere.
        kept: indices of the tokens that are not dropped (`draw_kept`), None = all; velocities of the others are 0.
        kernel: see `dit.segments`.
    """
    patch = (1, network.patch_size, network.patch_size)
    stay = list(kept) if kept is not None else [None] * len(clips)
    packed = pack(clips, patch, stay)
    device = packed.tokens.device
    x = network.patch_in(packed.tokens)
    if known is not None:
        x = x + network.known_in(pack([part[None] for part in known], patch, stay).tokens.to(x.dtype))
    condition = network.condition(sigma, pooled)
    segment = numbers(packed.lengths, device)
    words = tuple(mask.sum(1).tolist())
    within = block_diagonal(packed.lengths, packed.lengths, kernel, device)
    reads = block_diagonal(packed.lengths, words, kernel, device)
    text = network.text_norm(text[mask])[None]
    table = rotary_at(packed.position, network.head_dim)
    for block in network.blocks:
        x = block(x, condition, text, table, reads, within, segment)
    return unpack(network.velocity_of(x, condition[segment][None]), [clip.shape for clip in clips], patch, stay)
