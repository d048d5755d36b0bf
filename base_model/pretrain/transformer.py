"""Trains the transformer on the sandbox world's clips, encoded once and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn

from base_model import flow, pipeline
from base_model.codec.load import load_codec
from base_model.codec.protocol import Codec
from base_model.dit.patches import grid_of
from base_model.native import fast_dtype
from base_model.pretrain.config import PretrainConfig, parse_size
from base_model.pretrain.part import FromTheWorld
from base_model.pretrain.reading import on_grid
from base_model.tasks import random_mask
from base_model.text import SandboxClip, load_clip
from base_model.transformer import VideoTransformer, check_fit
from base_model.variants import VARIANTS, Denoiser, SpaceTimeUNet, load_transformer
from base_model.world.dataset import make_clip
from core.errors import UserError
from core.files import replacing
from core.progress import track
from core.randomness import seed_for, torch_generator
from core.video import sha256


def begin_network(config: PretrainConfig, codec: Codec, clip: SandboxClip) -> Denoiser:
    """The network to train: that of `config.start`, or a new one that fits the codec and the CLIP.

    Raises: UserError where that of `config.start` does not fit.
    """
    if config.start:
        network = load_transformer(config.start)
        check_fit(network, codec.channels, clip.text_width, clip.dim)
        return network
    sizes: dict[str, Any] = {"in_channels": codec.channels, "text_width": clip.text_width, "pooled_width": clip.dim}
    if config.variant == "unet":
        sizes |= {"widths": (config.width // 3, config.width // 3 * 2)}
    else:
        sizes |= {"width": config.width, "num_layers": config.num_layers, "num_heads": config.num_heads}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(config.seed, "transformer weights"))
        return VARIANTS[config.variant](**sizes) if config.variant else VideoTransformer(**sizes)


def check_sizes(sizes: Sequence[str], codec: Codec, patch_size: int) -> None:
    """Raises: UserError for a size of clips that is no whole number of the codec's cells and of patches."""
    for size in sizes:
        wanted = parse_size(size)
        if (nearest := on_grid(*wanted, codec.t, codec.s * patch_size)) != wanted:
            raise UserError(
                f"size '{size}' is off the grid: frames must be {codec.t}k+1, sides multiples of "
                f"{codec.s * patch_size}; next: {'x'.join(map(str, nearest))}"
            )


def training_dtype(network: nn.Module, device: torch.device) -> torch.dtype:
    """The precision in which a denoiser computes in training: bf16 where that is fast.

    Not so the U-Net on a CPU: of a bf16 Conv3d over three frames that sees two, oneDNN's weight gradient is memory
    that nobody wrote (torch 2.15; fp32, and any other number of frames, are right). It is no slower in fp32.
    """
    if isinstance(network, SpaceTimeUNet) and device.type == "cpu":
        return torch.float32
    return fast_dtype()


class TransformerPart(FromTheWorld):
    """Rectified flow on the codec's latents: squared error of the velocity where nothing is given.

    Noise levels are logit-normal and shifted (SD3, Esser et al. 2024). Most steps show whole clips of the first size;
    the others a clip cut short (the codec is causal: the first latents of a clip are those of a shorter one) or one
    of another size, so that one set of weights knows all of them.
    """

    SHORTER, OTHER_SIZE = 0.12, 0.12  # shares of steps

    def __init__(self, config: PretrainConfig, accelerator: Accelerator) -> None:
        super().__init__(config, accelerator)
        vae = load_codec(config.codec, config.per_frame)
        clip = load_clip(config.clip)
        self.network = begin_network(config, vae, clip)
        check_sizes(config.sizes, vae, self.network.patch_size)
        known: dict[str, int] = {"": 0}
        self.latents, self.rows = [], []
        for size in config.sizes:
            latents, prompts = latent_pool(config, vae, size)
            self.latents.append(latents)
            self.rows.append(torch.tensor([known.setdefault(prompt, len(known)) for prompt in prompts]))
        with torch.no_grad():
            words = [clip.text_tokens(list(known)[start : start + 256]) for start in range(0, len(known), 256)]
        self.text, self.mask, self.pooled = (torch.cat([part[i] for part in words]) for i in range(3))

    def loss(self, step: int, draw: int) -> Tensor:
        config = self.config
        rng = torch_generator(config.seed, "transformer step", draw)
        kind, which = torch.rand(2, generator=rng).tolist()
        other = len(self.latents) > 1 and kind > 1.0 - self.OTHER_SIZE
        pool = 1 + int(which * (len(self.latents) - 1)) if other else 0
        index = torch.randint(len(self.latents[pool]), (config.batch,), generator=rng)
        clean = self.latents[pool][index].float()
        if kind < self.SHORTER:
            clean = clean[:, :, : 1 + int(which * (clean.shape[2] - 1))]
        sigma = flow.logit_normal(config.batch, rng, shift=config.shift)
        noise = torch.randn(clean.shape, generator=rng)
        told, silent = shown(config, [clean.shape[2]] * config.batch, rng)
        rows = self.rows[pool][index].masked_fill(silent, 0)
        known = torch.zeros(clean.shape[0], *clean.shape[2:], dtype=torch.bool)
        for row in told.nonzero().flatten().tolist():
            known[row] = random_mask(grid_of(clean.shape, (1, 1, 1)), self.network.patch_size, rng)
        clean, noise, sigma, known = (value.to(self.device) for value in (clean, noise, sigma, known))
        free = ~known[:, None]
        dtype = next(self.network.parameters()).dtype
        noisy = torch.where(free, flow.interpolate(clean, noise, sigma), clean).to(dtype)
        text, pooled = (value[rows].to(self.device, dtype) for value in (self.text, self.pooled))
        predicted = self.network(noisy, sigma, text, self.mask[rows].to(self.device), pooled, known)
        error = (predicted.float() - flow.velocity(clean, noise)).square() * free
        weight = level_weight(config, sigma)[:, None, None, None, None]
        return (weight * error).sum() / (free.sum() * clean.shape[1])

    def save(self, folder: Path) -> None:
        save_model(self.network, self.config, folder)


def save_model(network: Denoiser, config: PretrainConfig, folder: Path) -> None:
    """The network in `folder`, and around it codec, CLIP and schedule, so that the run folder can be drawn from."""
    network.half().save_pretrained(folder)
    pipeline.complete(folder.parent, config.codec, config.per_frame, config.clip, config.shift)


def level_weight(config: PretrainConfig, sigma: Tensor) -> Tensor:
    """How much the error of a clip at each noise level counts, [clip]: by `min_snr`, or all alike."""
    return flow.min_snr_weight(sigma, config.min_snr) if config.min_snr else torch.ones_like(sigma)


def shown(config: PretrainConfig, lengths: Sequence[int], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which clips, of so many latent frames, are shown with some of their cells given, and which without caption: two
    bool [clip]. A picture has no cells to give."""
    silent, told = torch.rand(2, len(lengths), generator=rng)
    told = (told < config.given) & (torch.tensor(lengths) > 1)
    return told, silent < torch.where(told, config.caption_dropout_given, config.caption_dropout)


SHARD = 512  # clips per file of latents
CLIPS = 16  # drawn and encoded at once


def latent_pool(config: PretrainConfig, vae: Codec, size: str) -> tuple[Tensor, list[str]]:
    """Latents fp16 [clip, C, T, H, W] and prompts of the training clips of one size ("17x64x64").

    Written file by file to `config.latents`, so a run that was killed, or a second one, does not encode them again.
    The first size has `num_clips` clips, each other one an eighth of that. Raises: UserError for a folder whose clips
    come from another recipe.
    """
    count = config.num_clips if size == config.sizes[0] else max(1, config.num_clips // 8)
    source = json.dumps(
        [
            sha256(Path(config.codec) / SAFETENSORS_WEIGHTS_NAME),
            config.seed,
            config.noise,
            *config.families,
        ]
    )
    folder = Path(config.latents) / size
    shape = vae.latent_shape(*parse_size(size))
    latents, prompts = [], []
    for start in track(range(0, count, SHARD), f"encoding {size} clips"):
        path = folder / f"{start // SHARD:04d}.npz"
        if not path.is_file():
            encoded, words = encode_clips(config, vae, size, range(start, min(start + SHARD, count)))
            with replacing(path) as temporary:
                np.savez(temporary, latents=encoded.numpy(), prompts=np.array(words), source=source)
        with np.load(path) as stored:
            if str(stored["source"]) != source or stored["latents"].shape != (min(SHARD, count - start), *shape):
                raise UserError(
                    f"the latents in '{path}' are of another recipe (codec, per_frame, seed, noise, families or "
                    "num_clips); give an empty folder for latents"
                )
            latents.append(torch.from_numpy(stored["latents"]))
            prompts += stored["prompts"].tolist()
    return torch.cat(latents), prompts


def encode_clips(config: PretrainConfig, vae: Codec, size: str, numbers: range) -> tuple[Tensor, list[str]]:
    """Latents fp16 [clip, C, T, H, W] and prompts of the training clips of these numbers, drawn and encoded."""
    num_frames, height, width = parse_size(size)
    seed = seed_for(config.seed, f"pretrain/{config.part}")
    encoded, prompts = [], []
    for first in range(0, len(numbers), CLIPS):
        clips = [
            make_clip(
                seed,
                index,
                noise=config.noise,
                families=config.families,
                num_frames=num_frames,
                height=height,
                width=width,
            )
            for index in numbers[first : first + CLIPS]
        ]
        prompts += [clip.prompt for clip in clips]
        with torch.no_grad():
            encoded.append(vae.encode(torch.from_numpy(np.stack([clip.frames for clip in clips]))).half())
    return torch.cat(encoded), prompts
