"""Long and large videos through a codec at constant memory: pieces over time, tiles over space.

Pieces are exact, because the codecs are causal and remember two cells a block (`Past`). Tiles are exact when their
margin is at least the codec's `reach`; a smaller margin is quicker and leaves seams, which `seam_error` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from base_model.codec.protocol import Codec
from base_model.codec.vae import Past


def encode_pieces(codec: Codec, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Latents of a video that comes in pieces [B, any time, 3, height, width], as soon as whole cells are there.

    Raises: ValueError at the end where the number of frames is not t*k + 1.
    """
    past, waiting = Past(), None
    for piece in pieces:
        waiting = piece if waiting is None else torch.cat([waiting, piece], dim=1)
        held = waiting.shape[1]
        whole = held // codec.t * codec.t if past.begun else (held - 1) // codec.t * codec.t + 1
        if whole > 0:
            yield codec.encode(waiting[:, :whole], past)
            waiting = waiting[:, whole:]
    if waiting is not None and waiting.shape[1]:
        raise ValueError(f"the video ends {waiting.shape[1]} frames into a cell of {codec.t}; frames must be t*k + 1")


def decode_pieces(codec: Codec, latents: Tensor | Iterable[Tensor], length: int = 4) -> Iterator[Tensor]:
    """Frames of latents [B, C, T, H, W] (or of an iterable of such), `length` latent frames at a time."""
    past = Past()
    for part in (latents,) if isinstance(latents, Tensor) else latents:
        for piece in part.split(length, dim=2):
            yield codec.decode(piece, past)


def encode_tiles(codec: Codec, frames: Tensor, tile: int, margin: int | None = None) -> Tensor:
    """`codec.encode` in tiles of `tile` x `tile` latent cells, each seen with `margin` cells around (None: `reach`)."""
    out = codec.latent_shape(frames.shape[1], *frames.shape[3:])
    latents = frames.new_empty(len(frames), *out)
    return _tiled(codec.encode, frames, latents, codec.s, 1, out[2:], tile, codec.reach if margin is None else margin)


def decode_tiles(codec: Codec, latents: Tensor, tile: int, margin: int | None = None) -> Tensor:
    """`codec.decode` in tiles of `tile` x `tile` latent cells, each seen with `margin` cells around (None: `reach`)."""
    b, _, t, h, w = latents.shape
    time = t if codec.t == 1 else 1 + (t - 1) * codec.t
    frames = latents.new_empty(b, time, 3, h * codec.s, w * codec.s)
    return _tiled(codec.decode, latents, frames, 1, codec.s, (h, w), tile, codec.reach if margin is None else margin)


def seam_error(codec: Codec, latents: Tensor, tile: int, margin: int) -> tuple[float, float]:
    """(mean, largest) absolute difference of pixels in [0, 1] between tiled and whole decoding."""
    difference = (decode_tiles(codec, latents, tile, margin) - codec.decode(latents)).abs()
    return float(difference.mean()), float(difference.max())


def _tiled(
    convert: Callable[[Tensor], Tensor],
    source: Tensor,
    target: Tensor,
    per_in: int,
    per_out: int,
    cells: tuple[int, int],
    tile: int,
    margin: int,
) -> Tensor:
    """Fill `target` tile by tile; `per_in`, `per_out`: elements of source and target per cell and side."""
    for top in range(0, cells[0], tile):
        for left in range(0, cells[1], tile):
            (y0, y1), (x0, x1) = (
                (max(0, start - margin), min(end, start + tile + margin))
                for start, end in zip((top, left), cells, strict=True)
            )
            seen = convert(source[..., y0 * per_in : y1 * per_in, x0 * per_in : x1 * per_in])
            high, wide = min(tile, cells[0] - top), min(tile, cells[1] - left)
            inner = seen[
                ...,
                (top - y0) * per_out : (top - y0 + high) * per_out,
                (left - x0) * per_out : (left - x0 + wide) * per_out,
            ]
            rows, columns = slice(top * per_out, (top + high) * per_out), slice(left * per_out, (left + wide) * per_out)
            target[..., rows, columns] = inner
    return target
