"""The video transformer: noisy latents, noise level and prompt in, velocity out.

Spacetime patches of 1 x p x p latent cells become tokens; all tokens attend to each other. Any grid whose sides are
multiples of p is accepted. This file lies outside `dit/` because diffusers takes a class from a folder of that name for
one of its own. Letters: B batch, C channels, T H W latent time, rows, columns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor, nn

from base_model.dit.blocks import Block, modulate, zeroed
from base_model.dit.patches import grid_of, patchify, unpatchify
from base_model.dit.position import rotary_table
from core.errors import UserError


def sigma_embedding(sigma: Tensor, width: int) -> Tensor:
    """Sines and cosines of the noise level [B] in [0, 1] -> [B, width].

    Frequencies as in DDPM (Ho et al. 2020) for 1000 x sigma.
    """
    rate = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=sigma.device) / (width // 2))
    angle = 1000.0 * sigma.float()[:, None] * rate[None]
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class VideoTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """adaLN-Zero diffusion transformer with cross-attention to text tokens.

    Args:
        in_channels: latent channels. patch_size: latent cells per token side.
        pooled_width: size of the prompt's single vector.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 12,
        width: int = 192,
        num_layers: int = 7,
        num_heads: int = 4,
        patch_size: int = 2,
        text_width: int = 128,
        pooled_width: int = 128,
    ) -> None:
        super().__init__()
        self.patch_size, self.head_dim = patch_size, width // num_heads
        self.patch_in = nn.Linear(in_channels * patch_size**2, width)
        self.known_in = zeroed(nn.Linear(patch_size**2, width, bias=False))
        self.time_in, self.time_out = nn.Linear(width, width), nn.Linear(width, width)
        self.pooled_in = nn.Linear(pooled_width, width)
        self.text_norm = nn.LayerNorm(text_width)
        self.blocks = nn.ModuleList(Block(width, num_heads, text_width) for _ in range(num_layers))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation_out = zeroed(nn.Linear(width, 2 * width))
        self.patch_out = zeroed(nn.Linear(width, in_channels * patch_size**2))

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        text: Tensor,
        mask: Tensor,
        pooled: Tensor,
        known: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, C, T, H, W].

        Args:
            latents: [B, C, T, H, W]. sigma: [B] noise level, 1 = noise.
            text: [B, word, text_width] token vectors. mask: [B, word], True where a token is real.
            pooled: [B, pooled_width].
            known: [B, T, H, W], True where the latents are given clean, as in image to video; None = nowhere.
        """
        patch = (1, self.patch_size, self.patch_size)
        grid = grid_of(latents.shape, patch)
        x = self.patch_in(patchify(latents, patch))
        if known is not None:
            x = x + self.known_in(patchify(known[:, None], patch).to(x.dtype))
        condition = self.condition(sigma, pooled)
        text = self.text_norm(text)
        cos, sin = rotary_table(grid, self.head_dim)
        table = (cos.to(latents.device), sin.to(latents.device))
        words = mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, condition, text, table, words)
        return unpatchify(self.velocity_of(x, condition[:, None]), grid, patch)

    def condition(self, sigma: Tensor, pooled: Tensor) -> Tensor:
        """What adaLN listens to, [B, width]: noise level [B] and prompt vector [B, pooled_width]."""
        level = sigma_embedding(sigma, self.time_in.in_features).to(pooled.dtype)
        return self.time_out(F.silu(self.time_in(level))) + self.pooled_in(pooled)

    def velocity_of(self, x: Tensor, condition: Tensor) -> Tensor:
        """The last layer: tokens [B, token, width] to velocities of their cells; condition [B, 1 or token, width]."""
        shift, scale = self.modulation_out(F.silu(condition)).chunk(2, dim=-1)
        return self.patch_out(modulate(self.norm_out(x), shift, scale))


def check_fit(denoiser: ConfigMixin, channels: int, text_width: int, pooled_width: int) -> None:
    """Refuse a denoiser that was made for another codec or another CLIP than those whose sizes are given.

    Raises: UserError.
    """
    given = {"in_channels": channels, "text_width": text_width, "pooled_width": pooled_width}
    for name, size in given.items():
        if denoiser.config[name] != size:
            raise UserError(
                f"the transformer was made for {name} {denoiser.config[name]}, but its codec and CLIP give {size}; "
                "use the parts that were trained together"
            )
