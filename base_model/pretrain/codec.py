"""Trains the codec: on crops, from principal components, by any of its bottlenecks and losses."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_model.codec import losses
from base_model.codec.quantized import QuantizedVideoCodec
from base_model.codec.vae import CausalVideoVAE
from base_model.native import fast_dtype
from base_model.pretrain.config import PretrainConfig
from base_model.pretrain.part import FromTheWorld, pool
from core.randomness import numpy_generator, seed_for, torch_generator
from core.video import to_signed


class CodecPart(FromTheWorld):
    """Mean squared error and KL on 32 x 32 crops around objects: most of a frame is ground and teaches nothing."""

    CROP = 32

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        frames, centres = [], []
        for pixels, clip in pool(config, config.num_clips):
            frames.append(pixels)
            centres.append(clip.state["position"][:, 0])
        self.frames, self.centres = np.stack(frames), np.stack(centres)
        self.codec: CausalVideoVAE | QuantizedVideoCodec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(config.seed, "codec weights"))
            if config.start:
                kind = CausalVideoVAE if config.bottleneck == "kl" else QuantizedVideoCodec
                self.codec = kind.from_pretrained(config.start, low_cpu_mem_usage=False).float()
            else:
                self.codec = CausalVideoVAE() if config.bottleneck == "kl" else QuantizedVideoCodec(config.bottleneck)
            self.network: nn.Module = self.codec
            self.judge = losses.PatchDiscriminator() if config.adversarial else None
            if self.judge is not None:
                self.network = nn.ModuleDict({"codec": self.codec, "judge": self.judge})
        self.backbone = losses.load_backbone(config.perceptual) if config.perceptual else None
        if not config.start:
            self._start_from_principal_components()
        if config.latent_noise:
            for layer in (self.codec.first_in, self.codec.rest_in, self.codec.encoder, self.codec.moments):
                layer.requires_grad_(False)

    def crops(self, count: int, rng: np.random.Generator) -> Tensor:
        """Pixels in [-1, 1], [count, time, 3, CROP, CROP]."""
        size, height = self.CROP, self.frames.shape[-1]
        cut = []
        for which in rng.integers(len(self.frames), size=count):
            centre = self.centres[which][rng.integers(self.frames.shape[1])] + rng.normal(0, 4, 2)
            x, y = np.clip(centre - size / 2, 0, height - size).astype(int)
            cut.append(self.frames[which][:, :, y : y + size, x : x + size])
        return to_signed(torch.from_numpy(np.stack(cut)).float() / 255.0)

    @torch.no_grad()
    def _start_from_principal_components(self) -> None:
        """The patch layers' first channels read the patches' principal components: about 1 dB more at this length."""
        net = self.codec if isinstance(self.codec, CausalVideoVAE) else self.codec.trunk
        channels = net.channels
        sample = self.crops(600, numpy_generator(self.config.seed, "codec start"))
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

    def loss(self, step: int) -> Tensor:
        x = self.crops(self.config.batch, numpy_generator(self.config.seed, "codec step", step))
        if self.config.latent_noise:
            return self._decoder_loss(x, step)
        done = step / self.config.steps
        weight = self.config.kl_weight * (1.0 - 0.8 * max(0.0, done - 0.6) / 0.4)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
            y, extra = self.codec.sample(x, torch_generator(self.config.seed, "codec noise", step))
        y = y.float()
        loss = losses.pixel(self.config.pixel_loss, y, x) + (weight if self.config.bottleneck == "kl" else 1.0) * extra
        if self.backbone is not None:
            loss = loss + losses.perceptual(self.backbone, y, x)
        if self.judge is not None:
            for_codec, for_judge = losses.adversarial(self.judge, y, x)
            loss = loss + self.config.adversarial * for_codec + for_judge
        return loss

    def _decoder_loss(self, x: Tensor, step: int) -> Tensor:
        """Squared error from latents with noise of a level drawn evenly for each clip; the latents stay what they are,
        so a transformer trained on them stays valid."""
        rng = torch_generator(self.config.seed, "codec noise", step)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
            with torch.no_grad():
                raw, _ = self.codec.encode_moments(x)
            _, std = self.codec._statistics(raw.shape[2])
            level = self.config.latent_noise * torch.rand(len(raw), 1, 1, 1, 1, generator=rng)
            y = self.codec.decode_raw(raw + level * std * torch.randn(raw.shape, generator=rng))
        return F.mse_loss(y.float(), x)

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """The codec with the statistics of its latents in the config; they stay while the encoder does."""
        if self.config.latent_noise:
            self.codec.half().save_pretrained(folder)
            return
        raw = []
        for start in range(0, min(512, len(self.frames)), 16):
            frames = torch.from_numpy(self.frames[start : start + 16]).float() / 255.0
            raw.append(self.codec.encode_moments(to_signed(frames))[0])
        latents = torch.cat(raw)
        parts = (latents[:, :, :1], latents[:, :, 1:])
        self.codec.register_to_config(
            latent_mean=[p.mean((0, 2, 3, 4)).tolist() for p in parts],
            latent_std=[p.std((0, 2, 3, 4)).tolist() for p in parts],
        )
        self.codec.half().save_pretrained(folder)
