"""Causal 3D KL-VAE: 4 x 8 x 8 pixels to one latent cell, the first frame alone; no cell sees a later frame.

All blocks work at latent resolution; the ends are patch layers (frame 0 has its own 1 x 8 x 8 pair, so an image is a
video of one frame). The decoder ends in a palette: each cell mixes a few colours per pixel by a softmax, which draws
sharp anti-aliased edges from few numbers.

Latents outside this file are normalised per channel with the statistics kept in the config, frame 0 apart. Pixel values
are in [-1, 1] inside and in [0, 1] at `encode` and `decode`. Letters: B batch, T latent time, H W latent rows and
columns, D width, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from base_model.codec.losses import kl_to_normal
from base_model.dit.blocks import zeroed
from core.video import from_signed, to_signed

GROUND = -0.84  # the sandbox's ground in [-1, 1]: one palette entry is fixed to it


@dataclass
class Past:
    """What a pass over a long video remembers between pieces: two cells of each mixing block, however long the video.

    Give one and the same `Past` to every piece, in order; one for encoding, another for decoding.
    """

    cells: dict[nn.Module, Tensor] = field(default_factory=dict)
    begun: bool = False


class ChannelNorm(nn.Module):
    """RMS norm over channels at each place, so that no statistic crosses time or space."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.movedim(1, -1), (x.shape[1],), self.scale.to(x.dtype)).movedim(-1, 1)


class MixBlock(nn.Module):
    """Residual 3 x 3 x 3 convolution, causal in time: in front stand the two cells before, or the first one twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.conv = nn.Conv3d(width, width, 3, padding=(0, 1, 1))
        self.out = zeroed(nn.Conv3d(width, width, 1))

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        h = self.norm(x)
        before = [h[:, :, :1], h[:, :, :1]]
        if past is not None:
            before = [past.cells[self]] if self in past.cells else before
            h = torch.cat([*before, h], dim=2)
            past.cells[self] = h[:, :, -2:].clone()
        else:
            h = torch.cat([*before, h], dim=2)
        return x + self.out(F.silu(self.conv(h)))


class PointBlock(nn.Module):
    """Residual per-cell MLP, 4 x wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.up = nn.Conv3d(width, 4 * width, 1)
        self.down = zeroed(nn.Conv3d(4 * width, width, 1))

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        return x + self.down(F.silu(self.up(self.norm(x))))


class Blocks(nn.Sequential):
    """Blocks one after another, each with the same memory of the pieces before."""

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        for block in self:
            x = block(x, past)
        return x


def _blocks(kinds: str, width: int) -> Blocks:
    """ "mpmp" -> alternating mixing and point blocks."""
    return Blocks(*[MixBlock(width) if kind == "m" else PointBlock(width) for kind in kinds])


class CausalVideoVAE(ModelMixin, ConfigMixin):
    """Encoder and decoder; see the module's first lines.

    Args:
        temporal_factor, spatial_factor: pixels per latent cell along time and along each side.
        latent_mean, latent_std: [2][C] statistics of raw latents, row 0 for frame 0, row 1 for the rest; set after
            training.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 12,
        width: int = 192,
        temporal_factor: int = 4,
        spatial_factor: int = 8,
        num_colours: int = 4,
        encoder_blocks: str = "mpp",
        decoder_blocks: str = "mpmp",
        latent_mean: Sequence[Sequence[float]] | None = None,
        latent_std: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.t, self.s, self.channels, self.num_colours = temporal_factor, spatial_factor, latent_channels, num_colours
        pixels = spatial_factor**2
        self.first_in, self.rest_in = nn.Linear(3 * pixels, width), nn.Linear(3 * pixels * temporal_factor, width)
        self.encoder = _blocks(encoder_blocks, width)
        self.moments = nn.Conv3d(width, 2 * latent_channels, 1)
        self.latent_in = nn.Conv3d(latent_channels, width, 1)
        self.decoder = _blocks(decoder_blocks, width)
        self.decoder_norm = ChannelNorm(width)
        self.first_out = nn.Linear(width, 3 * num_colours + pixels * (num_colours + 1))
        self.rest_out = nn.Linear(width, 3 * num_colours + pixels * temporal_factor * (num_colours + 1))
        zeros, ones = [[0.0] * latent_channels] * 2, [[1.0] * latent_channels] * 2
        self.register_buffer("mean", torch.tensor(latent_mean or zeros), persistent=False)
        self.register_buffer("std", torch.tensor(latent_std or ones), persistent=False)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(channels, time, height, width) of a video's latents. Raises: ValueError where the video is off the grid."""
        if (num_frames - 1) % self.t or height % self.s or width % self.s or min(num_frames, height, width) < 1:
            raise ValueError(
                f"{num_frames} frames of {height}x{width} do not fit the codec: "
                f"frames must be {self.t}k+1, sides multiples of {self.s}"
            )
        return self.channels, 1 + (num_frames - 1) // self.t, height // self.s, width // self.s

    def _patch(self, frames: Tensor, t: int) -> Tensor:
        """[B, t*n, 3, h*s, w*s] -> [B, n, h, w, 3*t*s*s]"""
        b, time, _, height, width = frames.shape
        x = frames.reshape(b, time // t, t, 3, height // self.s, self.s, width // self.s, self.s)
        return x.permute(0, 1, 4, 6, 3, 2, 5, 7).reshape(b, time // t, height // self.s, width // self.s, -1)

    def encode_moments(self, signed: Tensor, past: Past | None = None) -> tuple[Tensor, Tensor]:
        """Raw posterior mean and log-variance [B, C, T, H, W] of pixels in [-1, 1] [B, time, 3, height, width].

        With `past` the pixels may be any piece of a video: the first has 4k+1 frames, the later ones 4k.
        """
        first, rest = (signed[:, :0], signed) if past is not None and past.begun else (signed[:, :1], signed[:, 1:])
        parts = [self.first_in(self._patch(first, 1))] if first.shape[1] else []
        if rest.shape[1]:
            parts.append(self.rest_in(self._patch(rest, self.t)))
        x = self.encoder(torch.cat(parts, dim=1).movedim(-1, 1), past)
        mean, log_variance = self.moments(x).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-8.0, 1.0)

    def decode_raw(self, raw: Tensor, past: Past | None = None) -> Tensor:
        """Pixels in [-1, 1] [B, time, 3, height, width] of raw latents, of the whole video or of its next piece."""
        x = self.decoder_norm(self.decoder(self.latent_in(raw), past)).movedim(1, -1)
        if past is not None and past.begun:
            return self._paint(self.rest_out(x), self.t)
        first = self._paint(self.first_out(x[:, :1]), 1)
        return first if raw.shape[2] == 1 else torch.cat([first, self._paint(self.rest_out(x[:, 1:]), self.t)], dim=1)

    def _paint(self, head: Tensor, t: int) -> Tensor:
        """Palette and weights of each cell [B, n, h, w, :] to pixels [B, n*t, 3, h*s, w*s]."""
        b, n, h, w, _ = head.shape
        k, s = self.num_colours, self.s
        colours = torch.tanh(head[..., : 3 * k].float()).reshape(b, n, h, w, 3, k)
        colours = torch.cat([colours, colours.new_full((b, n, h, w, 3, 1), GROUND)], dim=-1)
        share = head[..., 3 * k :].float().reshape(b, n, h, w, k + 1, t * s * s).softmax(dim=4)
        pixels = (colours @ share).reshape(b, n, h, w, 3, t, s, s)
        return pixels.permute(0, 1, 5, 4, 2, 6, 3, 7).reshape(b, n * t, 3, h * s, w * s)

    def _statistics(self, time: int, past: Past | None = None) -> tuple[Tensor, Tensor]:
        row = torch.ones(time, dtype=torch.long, device=self.mean.device)
        if past is None or not past.begun:
            row[0] = 0
        return tuple(part[row].T[None, :, :, None, None] for part in (self.mean, self.std))

    @property
    def reach(self) -> int:
        """Cells beyond which, to each side in space, nothing of a latent or a pixel depends."""
        return max(sum(isinstance(block, MixBlock) for block in part) for part in (self.encoder, self.decoder))

    def encode(self, frames: Tensor, past: Past | None = None) -> Tensor:
        """Normalised latents [B, C, T, H, W] (the posterior mean) of frames [B, time, 3, height, width] in [0, 1]."""
        begun = past is not None and past.begun
        self.latent_shape(frames.shape[1] + begun, *frames.shape[3:])
        raw, _ = self.encode_moments(to_signed(frames), past)
        mean, std = self._statistics(raw.shape[2], past)
        if past is not None:
            past.begun = True
        return (raw - mean) / std

    def raw(self, latents: Tensor, past: Past | None = None) -> Tensor:
        """Latents as `decode_raw` takes them, the normalisation undone."""
        mean, std = self._statistics(latents.shape[2], past)
        return latents * std + mean

    def decode(self, latents: Tensor, past: Past | None = None) -> Tensor:
        """Frames [B, time, 3, height, width] in [0, 1] of normalised latents; differentiable."""
        frames = from_signed(self.decode_raw(self.raw(latents, past), past)).clamp(0.0, 1.0)
        if past is not None:
            past.begun = True
        return frames

    def sample(self, signed: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """For training: reconstruction in [-1, 1] from one draw of the posterior, and its KL per latent element."""
        mean, log_variance = self.encode_moments(signed)
        noise = torch.randn(mean.shape, generator=rng).to(mean.device)
        return self.decode_raw(mean + (0.5 * log_variance).exp() * noise), kl_to_normal(mean, log_variance)
