"""Latents to tokens and back: a token is a box of time x rows x columns latent cells.

Patch (1, p, p) is the per-frame tokeniser (each sampled frame cut alone), (t, p, p) the tubelet one (ViViT, Arnab et
al. 2021, section 3.2). Letters: B batch, C channels, T H W latent time, rows, columns.
"""

from __future__ import annotations

from torch import Tensor

Box = tuple[int, int, int]


def grid_of(shape: tuple[int, ...], patch: Box) -> Box:
    """Tokens along time, rows and columns of latents [..., T, H, W].

    Raises: ValueError where a side is no multiple of the patch.
    """
    if any(side % part for side, part in zip(shape[-3:], patch, strict=True)):
        sides, parts = ("x".join(map(str, sizes)) for sizes in (shape[-3:], patch))
        raise ValueError(f"latents of {sides} cells do not divide into patches of {parts}")
    time, rows, columns = (side // part for side, part in zip(shape[-3:], patch, strict=True))
    return time, rows, columns


def patchify(latents: Tensor, patch: Box) -> Tensor:
    """[B, C, T, H, W] -> [B, token, C * cells of a patch], tokens row-major over (time, rows, columns)."""
    b, c = latents.shape[:2]
    (t, h, w), (pt, ph, pw) = grid_of(latents.shape, patch), patch
    x = latents.reshape(b, c, t, pt, h, ph, w, pw)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, t * h * w, c * pt * ph * pw)


def unpatchify(tokens: Tensor, grid: Box, patch: Box) -> Tensor:
    """The inverse of `patchify` for a token grid of (time, rows, columns)."""
    b, (t, h, w), (pt, ph, pw) = len(tokens), grid, patch
    x = tokens.reshape(b, t, h, w, -1, pt, ph, pw).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return x.reshape(b, -1, t * pt, h * ph, w * pw)
