"""Where the coloured things of a frame are, as a few numbers that follow them through time. Differentiable, no weights.

The chroma plane (colour without its grey part) is cut into soft sectors of hue. In each sector the chroma of the pixels
is a mass with a centroid and a spread; a thing that jumps, fades, swells, splits or changes colour shows as a kink in
these numbers, a thing that moves well as a smooth curve. An image tower's embedding knows what is in a frame but
hardly where to a fraction of a pixel, so motion is read here. Blind to grey things and to two things of one hue.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EMPTY = 0.1  # pixels of imaginary mass at the centre: an empty sector stands there instead of anywhere
SIDE = 32  # pixels that a frame is brought to
NUM_HUES = 12
SHARPNESS = 16  # power of the soft cut: 30 degrees away a sector still counts .58, 90 degrees away .004
FEATURES = ("radius", "x", "y", "width", "height", "lightness")
FAINT = 0.05  # chroma below this is noise of a codec, not colour


def moments(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Features and masses of every hue sector.

    Args: frames [batch, time, 3, height, width] in [0, 1].
    Returns: features [batch, time, hue, feature] in the order of FEATURES, lengths as a share of the frame's side,
        and mass [batch, time, hue] in pixels of full colour. Where a sector is empty all its features are 0.
    """
    batch, time = frames.shape[:2]
    # Sums over the picture change little at half the resolution, and cost a quarter.
    frames = F.adaptive_avg_pool2d(frames.flatten(0, 1), SIDE).unflatten(0, (batch, time))
    height, width = frames.shape[-2:]
    red, green, blue = frames.unbind(2)
    # Orthonormal axes of the plane in which grey is the origin.
    u = (2 * red - green - blue) / math.sqrt(6)
    v = (green - blue) / math.sqrt(2)
    chroma = torch.sqrt(u * u + v * v + 1e-8)
    solid = torch.relu(chroma - FAINT)
    angles = torch.arange(NUM_HUES, device=frames.device) * (2 * math.pi / NUM_HUES)
    towards = torch.stack([angles.cos(), angles.sin()])  # [2, hue]
    cosine = torch.stack([u / chroma, v / chroma], -1).flatten(2, 3) @ towards.to(frames.dtype)
    share = (0.5 + 0.5 * cosine).clamp(min=0) ** SHARPNESS
    weight = share / share.sum(-1, keepdim=True) * solid.flatten(2).unsqueeze(-1)  # [batch, time, pixel, hue]

    x = (torch.arange(width, device=frames.device, dtype=frames.dtype) + 0.5) / width - 0.5
    y = (torch.arange(height, device=frames.device, dtype=frames.dtype) + 0.5) / height - 0.5
    xx, yy = x.repeat(height), y.repeat_interleave(width)
    light = frames.mean(2).flatten(2)
    basis = torch.stack([torch.ones_like(xx), xx, yy, xx * xx, yy * yy])  # [5, pixel]
    sums = torch.einsum("kp,btph->btkh", basis, weight)
    lit = torch.einsum("btp,btph->bth", light, weight)
    mass, sx, sy, sxx, syy = sums.unbind(2)
    safe = mass + EMPTY
    cx, cy = sx / safe, sy / safe
    spread_x = torch.sqrt((sxx / safe - cx * cx).clamp(min=0) + 1e-6)
    spread_y = torch.sqrt((syy / safe - cy * cy).clamp(min=0) + 1e-6)
    radius = torch.sqrt(mass / (math.pi * height * width) + 1e-6)
    return torch.stack([radius, cx, cy, spread_x, spread_y, lit / safe], -1), mass


def hue_colours() -> Tensor:
    """A clear colour in the middle of every sector, [hue, 3] in [0, 1]."""
    angles = torch.arange(NUM_HUES) * (2 * math.pi / NUM_HUES)
    u, v = 0.55 * angles.cos(), 0.55 * angles.sin()
    red = 2 * u / math.sqrt(6)
    green, blue = -u / math.sqrt(6) + v / math.sqrt(2), -u / math.sqrt(6) - v / math.sqrt(2)
    return (0.55 + torch.stack([red, green, blue], 1)).clamp(0, 1)
