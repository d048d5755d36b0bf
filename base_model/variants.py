"""Other denoisers behind the shipped transformer's call: tokenisers, conditioning, attention layouts, a state-space
mixer, long skips, and diffusers' space-time U-Net as the baseline. VARIANTS names them.

Everything here is trained by `soralign pretrain --variant NAME` and compared by benchmarks/transformer_variants.py;
docs/base_model.md has the table. This file lies outside `dit/` for the reason that `transformer.py` does.
Letters: B batch, C channels, T H W latent time, rows, columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet3DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor, nn

from base_model.dit.blocks import Attention, modulate, zeroed
from base_model.dit.boxes import BoxAttention, Layout, layer_boxes, num_mixers
from base_model.dit.patches import Box, grid_of, patchify, unpatchify
from base_model.dit.position import rotary_table
from base_model.dit.scan import ScanMixer
from base_model.options import saved_class
from base_model.transformer import VideoTransformer, sigma_embedding
from core.errors import UserError

Conditioning = Literal["adaln", "cross", "in_context"]


class VariantBlock(nn.Module):
    """One layer: mixers over tokens, optional cross-attention to words, MLP.

    With adaLN every branch is scaled, shifted and gated by `pooled` [B, width] and starts at zero; without (in-context
    conditioning) it is a plain pre-norm layer.
    """

    def __init__(
        self, width: int, num_heads: int, text_width: int, mixers: list[nn.Module], conditioning: Conditioning
    ) -> None:
        super().__init__()
        plain = conditioning == "in_context"
        self.mixers = nn.ModuleList(mixers)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width, elementwise_affine=plain, eps=1e-6) for _ in range(len(mixers) + 1)
        )
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.modulation = None if plain else zeroed(nn.Linear(width, 3 * (len(mixers) + 1) * width))
        self.cross = Attention(width, num_heads, text_width) if conditioning == "cross" else None
        self.norm_cross = nn.LayerNorm(width, eps=1e-6) if conditioning == "cross" else None
        if self.cross is not None:
            zeroed(self.cross.to_out)

    def forward(
        self,
        x: Tensor,
        pooled: Tensor,
        text: Tensor,
        mask: Tensor,
        mix: Callable[[int, Tensor], Tensor],
    ) -> Tensor:
        """`mix(i, h)` applies mixer i to normed tokens; it knows the grid."""
        count = len(self.norms)
        branches: list[Callable[[Tensor], Tensor]] = [*(partial(mix, index) for index in range(count - 1)), self.mlp]
        three = None
        if self.modulation is not None:
            three = self.modulation(F.silu(pooled))[:, None].unflatten(-1, (count, 3, -1))
        for index, branch in enumerate(branches):
            if index == count - 1 and self.cross is not None and self.norm_cross is not None:
                x = x + self.cross(self.norm_cross(x), text, mask=mask)
            h = self.norms[index](x)
            if three is None:
                x = x + branch(h)
            else:
                shift, scale, gate = three[..., index, :, :].unbind(-2)
                x = x + gate * branch(modulate(h, shift, scale))
        return x


class VariantTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """The shipped transformer's call with other insides; see `VideoTransformer` for what is not said here.

    Args:
        tubelet: latent frames per token. A clip whose latent frames are no multiple of it is continued by its last
            frame, and what is predicted there is cut off.
        conditioning: "adaln": noise level and prompt vector scale and shift every layer. "cross": words are attended
            to besides. "in_context": noise level, prompt vector and words are tokens before the others (joint
            attention only).
        attention: see `dit.boxes.layer_boxes`. window: most tokens along a window's side.
        mixer: "attention", or "scan" for the state-space recurrence over all tokens, row-major.
        long_skips: the second half's layers also see the output of their mirror image in the first half (U-ViT, Bao et
            al. 2023); they start as if they did not.
    Raises: ValueError for in-context tokens without joint attention.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 12,
        width: int = 192,
        num_layers: int = 7,
        num_heads: int = 4,
        patch_size: int = 2,
        tubelet: int = 1,
        text_width: int = 128,
        pooled_width: int = 128,
        conditioning: Conditioning = "cross",
        attention: Layout = "joint",
        window: int = 2,
        mixer: Literal["attention", "scan"] = "attention",
        long_skips: bool = False,
    ) -> None:
        super().__init__()
        if conditioning == "in_context" and (attention != "joint" or mixer != "attention"):
            raise ValueError(f"in-context tokens need joint attention, not {attention} {mixer}")
        self.patch_size, self.patch, self.num_heads = patch_size, (tubelet, patch_size, patch_size), num_heads
        cells = tubelet * patch_size**2
        self.patch_in = nn.Linear(in_channels * cells, width)
        self.known_in = zeroed(nn.Linear(cells, width, bias=False))
        self.time_in, self.time_out = nn.Linear(width, width), nn.Linear(width, width)
        self.pooled_in = nn.Linear(pooled_width, width)
        self.text_norm = nn.LayerNorm(text_width)
        self.place_in = nn.Linear(2 * (width // num_heads), width) if mixer == "scan" else None
        self.words_in = nn.Linear(text_width, width) if conditioning == "in_context" else None

        def mixers() -> list[nn.Module]:
            if mixer == "scan":
                return [ScanMixer(width)]
            return [BoxAttention(width, num_heads) for _ in range(num_mixers(attention))]

        self.blocks = nn.ModuleList(
            VariantBlock(width, num_heads, text_width, mixers(), conditioning) for _ in range(num_layers)
        )
        skips = [zeroed(nn.Linear(2 * width, width)) for _ in range(num_layers // 2 if long_skips else 0)]
        self.skips = nn.ModuleList(skips)
        for skip in skips:
            nn.init.eye_(skip.weight[:, :width])
        plain = conditioning == "in_context"
        self.norm_out = nn.LayerNorm(width, elementwise_affine=plain, eps=1e-6)
        self.modulation_out = None if plain else zeroed(nn.Linear(width, 2 * width))
        self.patch_out = zeroed(nn.Linear(width, in_channels * cells))

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        text: Tensor,
        mask: Tensor,
        pooled: Tensor,
        known: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, C, T, H, W]; arguments as of `VideoTransformer.forward`."""
        time = latents.shape[2]
        latents = _continued(latents, self.patch[0])
        grid = grid_of(latents.shape, self.patch)
        x = self.patch_in(patchify(latents, self.patch))
        if known is not None:
            x = x + self.known_in(patchify(_continued(known[:, None], self.patch[0]), self.patch).to(x.dtype))
        level = sigma_embedding(sigma, self.time_in.in_features).to(x.dtype)
        level, prompt = self.time_out(F.silu(self.time_in(level))), self.pooled_in(pooled)
        text, seen = self.text_norm(text), mask[:, None, None]
        if self.words_in is not None:
            x, seen = self._with_context(x, torch.stack([level, prompt], dim=1), self.words_in(text), mask)
        if self.place_in is not None:
            places = torch.cat(rotary_table(grid, self.place_in.in_features // 2), dim=1)
            x = x + self.place_in(places.to(x))
        x = self._layers(x, level + prompt, text, seen, grid)[:, -grid[0] * grid[1] * grid[2] :]
        x = self.norm_out(x)
        if self.modulation_out is not None:
            x = modulate(x, *self.modulation_out(F.silu(level + prompt))[:, None].chunk(2, dim=-1))
        return unpatchify(self.patch_out(x), grid, self.patch)[:, :, :time]

    def _with_context(self, x: Tensor, vectors: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens with noise level, prompt vector and words before them, and which of all these may be seen."""
        first, last = (mask.new_ones(len(x), part.shape[1]) for part in (vectors, x))
        return torch.cat([vectors, words, x], dim=1), torch.cat([first, mask, last], dim=1)[:, None, None]

    def _layers(self, x: Tensor, condition: Tensor, text: Tensor, seen: Tensor, grid: Box) -> Tensor:
        kept: list[Tensor] = []
        num, half = len(self.blocks), len(self.skips)
        table = self._joined_table(x, grid) if self.words_in is not None else None
        for layer, block in enumerate(cast(Iterable[VariantBlock], self.blocks)):
            if layer >= num - half:
                x = self.skips[layer - (num - half)](torch.cat([x, kept[num - 1 - layer]], dim=-1))
            boxes = layer_boxes(self.config.attention, layer, num, grid, self.config.window)

            def mix(index: int, h: Tensor, mixers: nn.ModuleList = block.mixers, boxes: tuple = boxes) -> Tensor:
                mixer = mixers[index]
                if isinstance(mixer, BoxAttention):
                    return mixer(h, grid, boxes[index]) if table is None else mixer.attention(h, h, table, seen)
                return mixer(h)

            x = block(x, condition, text, seen, mix)
            if layer < half:
                kept.append(x)
        return x

    def _joined_table(self, x: Tensor, grid: Box) -> tuple[Tensor, Tensor]:
        """Rotary angles with none for the context tokens in front."""
        cos, sin = rotary_table(grid, x.shape[-1] // self.num_heads)
        before = x.shape[1] - len(cos)
        cos, sin = F.pad(cos, (0, 0, before, 0), value=1.0), F.pad(sin, (0, 0, before, 0))
        return cos.to(x.device), sin.to(x.device)


def _continued(x: Tensor, tubelet: int) -> Tensor:
    """[B, C, T, H, W] with the last frame repeated until T is a multiple of `tubelet`."""
    missing = -x.shape[2] % tubelet
    return torch.cat([x, x[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2) if missing else x


class SpaceTimeUNet(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """diffusers' 3D U-Net (convolutions and attention over space, then over time) behind the transformer's call.

    Padded words are zeroed, since the U-Net takes no mask for them; the prompt vector is one more word. Sides must be
    multiples of 2 ** (number of widths - 1) latent cells. diffusers' dropout is off: it would draw from global
    randomness, and a resumed run would not be the unbroken one.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 12,
        widths: tuple[int, ...] = (64, 128),
        text_width: int = 128,
        pooled_width: int = 128,
    ) -> None:
        super().__init__()
        self.patch_size = 2 ** (len(widths) - 1)
        deep = len(widths) - 1
        self.unet = UNet3DConditionModel(
            in_channels=in_channels + 1,
            out_channels=in_channels,
            down_block_types=("CrossAttnDownBlock3D",) * deep + ("DownBlock3D",),
            up_block_types=("UpBlock3D",) + ("CrossAttnUpBlock3D",) * deep,
            block_out_channels=widths,
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=text_width,
            attention_head_dim=16,
        )
        for module in self.unet.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.pooled_in = nn.Linear(pooled_width, text_width)
        self.text_norm = nn.LayerNorm(text_width)

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        text: Tensor,
        mask: Tensor,
        pooled: Tensor,
        known: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, C, T, H, W]; arguments as of `VideoTransformer.forward`."""
        marks = latents.new_zeros(len(latents), 1, *latents.shape[2:]) if known is None else known[:, None].to(latents)
        words = torch.cat([self.pooled_in(pooled)[:, None], self.text_norm(text) * mask[..., None]], dim=1)
        return self.unet(torch.cat([latents, marks], dim=1), 1000.0 * sigma, words).sample


Denoiser = VideoTransformer | VariantTransformer | SpaceTimeUNet


def _variant(**options: Any) -> Callable[..., Denoiser]:
    return lambda **sizes: VariantTransformer(**options, **sizes)


VARIANTS: dict[str, Callable[..., Denoiser]] = {
    "joint": _variant(),
    "tubelet": _variant(tubelet=2),
    "adaln_only": _variant(conditioning="adaln"),
    "in_context": _variant(conditioning="in_context"),
    "factorised_encoder": _variant(attention="factorised_encoder"),
    "factorised_self": _variant(attention="factorised_self"),
    "factorised_dot": _variant(attention="factorised_dot"),
    "window": _variant(attention="window"),
    "long_skips": _variant(long_skips=True),
    "scan": _variant(mixer="scan"),
    "unet": SpaceTimeUNet,
}
"""Name -> denoiser of `in_channels`, `text_width`, `pooled_width` (and, but for the U-Net, `width` and so on)."""


def load_transformer(folder: str | Path) -> Denoiser:
    """The denoiser saved in `folder`, whichever it is, in fp32.

    Raises: UserError where there is none.
    """
    known = {kind.__name__: kind for kind in (VideoTransformer, VariantTransformer, SpaceTimeUNet)}
    name = saved_class(folder, "transformer")
    if name not in known:
        raise UserError(f"'{folder}' holds a {name}; a denoiser is one of {', '.join(known)}")
    return known[name].from_pretrained(folder, low_cpu_mem_usage=False).float()
