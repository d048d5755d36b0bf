"""Trains the codec: on crops, from principal components, by any of its bottlenecks and losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from base_model.codec import losses
from base_model.codec.frames import FrameCodec
from base_model.codec.load import load_codec
from base_model.codec.quantized import QuantizedVideoCodec
from base_model.codec.vae import CausalVideoVAE
from base_model.native import fast_dtype
from base_model.pretrain.config import PretrainConfig
from base_model.pretrain.crops import Crops, OwnCrops, WorldCrops
from core.errors import UserError
from core.randomness import numpy_generator, seed_for, torch_generator
from core.video import to_signed


def begun(config: PretrainConfig) -> CausalVideoVAE | QuantizedVideoCodec:
    """The codec of `config.start`, to go on from; a continuous one may get codes between its encoder and decoder.

    Raises: UserError where the bottleneck that is asked for cannot be made of it.
    """
    codec = load_codec(config.start)
    kind = "frame by frame" if isinstance(codec, FrameCodec) else codec.config.get("quantizer", "kl")
    if isinstance(codec, FrameCodec) or kind not in ("kl", config.bottleneck):
        raise UserError(
            f"start '{config.start}' holds a codec of kind '{kind}', bottleneck is '{config.bottleneck}'; "
            "give the folder of a codec of that kind, or of a continuous one (kl), trained here"
        )
    if kind != config.bottleneck:
        apart = ("_", "latent_mean", "latent_std")  # statistics are taken anew when training ends
        options = {name: value for name, value in codec.config.items() if not name.startswith(apart)}
        quantised = QuantizedVideoCodec(config.bottleneck, trunk_options=options)
        quantised.trunk.load_state_dict(codec.state_dict())
        codec = quantised
    return codec.train().requires_grad_(True)


def new(config: PretrainConfig) -> CausalVideoVAE | QuantizedVideoCodec:
    """An untrained codec of the recipe's sizes."""
    names = ("latent_channels", "width", "temporal_factor", "spatial_factor")
    sizes = {name: getattr(config, name) for name in names}
    if config.bottleneck == "kl":
        return CausalVideoVAE(**sizes)
    return QuantizedVideoCodec(config.bottleneck, trunk_options=sizes)


class CodecPart:
    """Pixels and what the bottleneck adds, on small crops; see `base_model.pretrain.part.Part`."""

    def __init__(self, config: PretrainConfig, accelerator: Accelerator) -> None:
        self.config, self.device = config, accelerator.device
        self.codec: CausalVideoVAE | QuantizedVideoCodec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(config.seed, "codec weights"))
            self.codec = begun(config) if config.start else new(config)
            self.network: nn.Module = self.codec
            self.judge = losses.PatchDiscriminator() if config.adversarial else None
            if self.judge is not None:
                self.network = nn.ModuleDict({"codec": self.codec, "judge": self.judge})
        self.backbone = losses.load_backbone(config.perceptual, self.device) if config.perceptual else None
        self.crops: Crops = (OwnCrops if config.videos else WorldCrops)(config, accelerator)
        if not config.start:
            self._start_from_principal_components()
        if config.latent_noise:
            for layer in (self.codec.first_in, self.codec.rest_in, self.codec.encoder, self.codec.moments):
                layer.requires_grad_(False)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the weights are made from; goes into every checkpoint."""
        return self.crops.provenance

    def begin(self, folder: Path) -> None:
        """Raises: UserError where the run cannot go on."""
        self.crops.begin(folder)

    @torch.no_grad()
    def _start_from_principal_components(self) -> None:
        """The patch layers' first channels read the patches' principal components: about 1 dB more at this length."""
        net = self.codec if isinstance(self.codec, CausalVideoVAE) else self.codec.trunk
        channels = net.channels
        sample = self.crops.some(600, numpy_generator(self.config.seed, "codec start"))
        for layer, part, t in ((net.first_in, sample[:, :1], 1), (net.rest_in, sample[:, 1:], net.t)):
            rows = net._patch(part, t).reshape(-1, layer.in_features)
            centre = rows.mean(0)
            chosen = torch.linspace(0, len(rows) - 1, 6000).long()
            _, scale, axes = torch.linalg.svd(rows[chosen] - centre, full_matrices=False)
            axes = axes[:channels] / (scale[:channels, None] / math.sqrt(len(chosen)))
            layer.weight[:channels], layer.bias[:channels] = axes, -axes @ centre
        net.moments.weight.zero_()
        net.moments.weight[range(channels), range(channels)] = 1.0
        net.moments.bias.zero_()
        net.moments.bias[channels:] = -3.0

    def clips_in(self, draw: int) -> int:
        return self.config.batch

    def loss(self, step: int, draw: int) -> Tensor:
        x = self.crops.batch(draw).to(self.device)
        if self.config.latent_noise:
            return self._decoder_loss(x, draw)
        done = step / self.config.steps
        weight = self.config.kl_weight * (1.0 - 0.8 * max(0.0, done - 0.6) / 0.4)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
            y, extra = self.codec.sample(x, torch_generator(self.config.seed, "codec noise", draw))
        y = y.float()
        loss = losses.pixel(self.config.pixel_loss, y, x) + (weight if self.config.bottleneck == "kl" else 1.0) * extra
        if self.backbone is not None:
            loss = loss + losses.perceptual(self.backbone, y, x)
        if self.judge is not None:
            for_codec, for_judge = losses.adversarial(self.judge, y, x)
            loss = loss + self.config.adversarial * for_codec + for_judge
        return loss

    def _decoder_loss(self, x: Tensor, draw: int) -> Tensor:
        """Squared error from latents with noise of a level drawn evenly for each clip; the latents stay what they are,
        so a transformer trained on them stays valid."""
        rng = torch_generator(self.config.seed, "codec noise", draw)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
            with torch.no_grad():
                raw, _ = self.codec.encode_moments(x)
            _, std = self.codec._statistics(raw.shape[2])
            level = self.config.latent_noise * torch.rand(len(raw), 1, 1, 1, 1, generator=rng)
            noise = level * torch.randn(raw.shape, generator=rng)
            y = self.codec.decode_raw(raw + std * noise.to(self.device))
        return F.mse_loss(y.float(), x)

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """The codec with the statistics of its latents in the config; they stay while the encoder does."""
        self.crops.close()
        if self.config.latent_noise:
            self.codec.half().save_pretrained(folder)
            return
        latents = torch.cat([self.codec.encode_moments(to_signed(frames))[0] for frames in self.crops.clips()])
        parts = (latents[:, :, :1], latents[:, :, 1:])
        self.codec.register_to_config(
            latent_mean=[p.mean((0, 2, 3, 4)).tolist() for p in parts],
            latent_std=[p.std((0, 2, 3, 4)).tolist() for p in parts],
        )
        self.codec.half().save_pretrained(folder)
