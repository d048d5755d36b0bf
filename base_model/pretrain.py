"""Trains the three parts of the native model, each from nothing but a seed: codec, CLIP, the transformer on both.

One loop for all: draw a batch that depends on (seed, step) alone, one loss, one optimizer step, a moving average. Over
the last share of the steps the rate falls to zero. The same command run again goes on from its newest checkpoint and
gives the same weights as an unbroken run. Data are drawn from the sandbox world; own clips are `clips.py`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_model import flow
from base_model.clips import ClipsPart
from base_model.codec import losses
from base_model.codec.load import load_codec
from base_model.codec.protocol import Codec
from base_model.codec.quantized import QuantizedVideoCodec
from base_model.codec.vae import CausalVideoVAE
from base_model.dit.patches import grid_of
from base_model.native import fast_dtype
from base_model.tasks import random_mask
from base_model.text import SandboxClip
from base_model.transformer import VideoTransformer
from base_model.variants import VARIANTS, load_transformer
from base_model.world.caption import caption
from base_model.world.dataset import Clip, make_clip
from base_model.world.spec import (
    COLOURS,
    FAMILIES,
    HEIGHT,
    NUM_FRAMES,
    SHAPES,
    SIZES,
    WIDTH,
    Direction,
    SceneSpec,
    directions,
)
from core.errors import UserError
from core.files import atomic_write, replacing
from core.progress import track
from core.randomness import numpy_generator, seed_for, torch_generator
from core.registry import unknown
from core.run import Run, step_of
from core.video import sha256, to_signed


def _option(default: object, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PretrainConfig:
    """One recipe; `part` says which network is trained."""

    part: Literal["codec", "clip", "transformer"] = _option("codec", "codec, clip or transformer")
    steps: int = _option(4600, "optimizer steps")
    batch: int = _option(8, "clips per step")
    learning_rate: float = _option(2e-3, "peak rate")
    warmup: int = _option(50, "steps of linear warm-up")
    decay: float = _option(0.5, "last share of the steps over which the rate falls to zero")
    ema: float = _option(0.0, "decay of the moving average of the weights; 0 = none")
    num_clips: int = _option(3000, "different clips in the training pool")
    noise: float = _option(0.25, "share of clips spoilt with web noise")
    start: str = _option("", "folder of trained weights to go on from; empty = from nothing")
    latent_noise: float = _option(
        0.0,
        "codec: above 0 the decoder alone goes on from `start`, on latents with up to this much noise, in standard "
        "deviations, as a transformer draws them",
    )
    hard_negatives: int = _option(
        0,
        "clip: above 0 the image tower alone goes on from `start`, against this many captions per clip that differ "
        "in one word",
    )
    kl_weight: float = _option(5e-5, "codec: weight of the KL per latent element against the mean squared error")
    shift: float = _option(3.0, "transformer: bends the noise levels towards pure noise")
    caption_dropout: float = _option(0.1, "transformer: share of clips shown without their caption")
    given: float = _option(0.25, "transformer: share of clips shown with some of their cells given, for image to video")
    families: list[str] = field(
        default_factory=lambda: list(FAMILIES),
        metadata={"help": "transformer: families of motion drawn from; a name given twice is drawn twice as often"},
    )
    sizes: list[str] = field(
        default_factory=lambda: [f"{NUM_FRAMES}x{HEIGHT}x{WIDTH}"],
        metadata={"help": "transformer: frames x height x width of the clips; the first is the usual one"},
    )
    latents: str = _option(
        "", "transformer: folder for the encoded clips, filled where they are missing; empty = in the run"
    )
    compile: bool = _option(False, "transformer: compile the blocks, half again as fast after the first minutes")
    codec: str = _option("", "transformer: folder of the trained codec")
    clip: str = _option("", "transformer: folder of the trained CLIP")
    save_every: int = _option(500, "steps between checkpoints")
    seed: int = _option(0, "everything random derives from it")
    videos: str = _option("", "transformer: folder of own clips with captions to train on, instead of the sandbox")
    token_budget: int = _option(2048, "videos: tokens packed into a step; 0 = steps of `batch` clips of one shape")
    max_frames: int = _option(65, "videos: a longer one is cut into pieces of this many frames")
    drop_tokens: float = _option(
        0.0, "videos: share of tokens left out at first; falls to 0 at four fifths of the steps"
    )
    max_bad: float = _option(0.1, "videos: share that may be unreadable; they are named and skipped")
    workers: int = _option(2, "videos: threads that read ahead")
    lora_rank: int = _option(
        0, "videos: above 0 only low-rank updates of this rank are trained, on the model in `start`"
    )
    per_frame: bool = _option(False, "transformer: encode each frame alone, by the codec's path for images")
    bottleneck: Literal["kl", "vq", "fsq"] = _option("kl", "codec: continuous, a learned codebook, or rounding")
    pixel_loss: Literal["mse", "l1"] = _option("mse", "codec: squared or absolute difference of pixels")
    perceptual: str = _option("", "codec: TorchScript file or CLIP folder whose features count too (slow, for a GPU)")
    variant: str = _option(
        "", "transformer: another architecture, by name; see docs/base_model.md. Empty = the shipped one"
    )
    adversarial: float = _option(0.0, "codec: weight of a 3D patch discriminator (slow, for a GPU); 0 = none")


LOG_EVERY = 50  # steps that one line of the log averages


class Part(Protocol):
    """A network, and the loss of one step."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def provenance(self) -> dict[str, Any]:
        """What the weights are made from; goes into every checkpoint."""
        ...

    def begin(self, folder: Path) -> None:
        """Called with the run folder before the first step. Raises: UserError where the run cannot go on."""
        ...

    def loss(self, step: int) -> Tensor: ...

    def save(self, folder: Path) -> None: ...


class FromTheWorld:
    """A part whose data are drawn from the sandbox: seed and recipe say all."""

    config: PretrainConfig

    @property
    def provenance(self) -> dict[str, Any]:
        """What the weights are made from; goes into every checkpoint."""
        names = ("seed", "num_clips", "noise", "families", "sizes")
        return {"data": "sandbox world", **{name: getattr(self.config, name) for name in names}}

    def begin(self, folder: Path) -> None:
        """Nothing can have changed since the run began."""


def pool(config: PretrainConfig, count: int, stride: int = 1) -> Iterator[tuple[np.ndarray, Clip]]:
    """(frames as bytes [time, 3, 64, 64], clip) of the training pool, with a progress bar."""
    for index in track(range(count), "drawing clips"):
        clip = make_clip(seed_for(config.seed, f"pretrain/{config.part}"), index, noise=config.noise)
        yield np.rint(clip.frames[::stride] * 255.0).astype(np.uint8), clip


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


class ClipPart(FromTheWorld):
    """Symmetric contrastive loss between a clip's mean frame embedding and its caption (CLIP, Radford et al. 2021)."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        frames, captions, specs = [], [], []
        for pixels, clip in pool(config, config.num_clips, stride=2):
            frames.append(pixels)
            captions.append([caption(clip.spec, style) for style in ("short", "descriptive")])
            specs.append(clip.spec)
        self.frames, self.captions, self.specs = np.stack(frames), captions, specs
        if config.start:
            self.network = SandboxClip.from_pretrained(config.start, low_cpu_mem_usage=False).float()
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_for(config.seed, "clip weights"))
                self.network = SandboxClip()
            self.network.clip.logit_scale.data.fill_(math.log(1 / 0.07))
        if config.hard_negatives:
            self.network.requires_grad_(False)
            self.network.clip.visual.requires_grad_(True)

    def loss(self, step: int) -> Tensor:
        rng = numpy_generator(self.config.seed, "clip step", step)
        rows = rng.integers(len(self.frames), size=self.config.batch)
        start = int(rng.integers(3))
        frames = torch.from_numpy(self.frames[rows][:, [start, start + 3, start + 6]]).float() / 255.0
        words = [self.captions[row][int(rng.random() < 0.6)] for row in rows]
        near = [
            caption(other_word(self.specs[row], rng), "descriptive")
            for row in rows
            for _ in range(self.config.hard_negatives)
        ]
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
            videos, texts = self.network.encode_videos(frames), self.network.encode_text(words)
            wrong = self.network.encode_text(near) if near else None
        scale = self.network.clip.logit_scale.exp().clamp(max=60.0)
        similarity = videos.float() @ texts.float().T * scale
        _, identity = np.unique(words, return_inverse=True)
        twins = torch.from_numpy(identity[:, None] == identity[None, :]).fill_diagonal_(False)
        similarity = similarity.masked_fill(twins, -1e4)  # the same caption elsewhere in the batch is no wrong answer
        target = torch.arange(len(rows))
        columns = similarity.T
        if wrong is not None:
            wrong = wrong.float().unflatten(0, (len(rows), -1))
            scores = torch.einsum("bd,bnd->bn", videos.float(), wrong) * scale
            similarity = torch.cat([similarity, scores], dim=1)
        return (F.cross_entropy(similarity, target) + F.cross_entropy(columns, target)) / 2

    def save(self, folder: Path) -> None:
        self.network.half().save_pretrained(folder)


def other_word(spec: SceneSpec, rng: np.random.Generator) -> SceneSpec:
    """The scene with one thing said of it changed: a colour, shape or size of one object, the family, the direction."""
    which = int(rng.integers(len(spec.objects)))
    item = spec.objects[which]
    kind = ("colour", "shape", "size", "family", "direction")[int(rng.integers(5))]

    def another(options: Sequence[str], now: str | None) -> str:
        left = [option for option in options if option != now]
        return left[int(rng.integers(len(left)))]

    if kind == "family":
        family = another(FAMILIES, spec.family)
        return replace(spec, family=family, direction=spec.direction if directions(family) else None)
    if kind == "direction" and spec.direction:
        return replace(spec, direction=cast(Direction, another(directions(spec.family), spec.direction)))
    field_of = {"shape": SHAPES, "size": tuple(SIZES)}.get(kind, tuple(COLOURS))
    name = kind if kind in ("shape", "size") else "colour"
    changed = replace(item, **{name: another(field_of, getattr(item, name))})
    return replace(spec, objects=(*spec.objects[:which], changed, *spec.objects[which + 1 :]))


class TransformerPart(FromTheWorld):
    """Rectified flow on the codec's latents: squared error of the velocity where nothing is given.

    Noise levels are logit-normal and shifted (SD3, Esser et al. 2024). Most steps show whole clips of the first size;
    the others a clip cut short (the codec is causal: the first latents of a clip are those of a shorter one) or one
    of another size, so that one set of weights knows all of them.
    """

    SHORTER, OTHER_SIZE = 0.12, 0.12  # shares of steps

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        vae = load_codec(config.codec, config.per_frame)
        clip = SandboxClip.from_pretrained(config.clip, low_cpu_mem_usage=False).float().eval()
        known: dict[str, int] = {"": 0}
        self.latents, self.rows = [], []
        for size in config.sizes:
            latents, prompts = latent_pool(config, vae, size)
            self.latents.append(latents)
            self.rows.append(torch.tensor([known.setdefault(prompt, len(known)) for prompt in prompts]))
        with torch.no_grad():
            words = [clip.text_tokens(list(known)[start : start + 256]) for start in range(0, len(known), 256)]
        self.text, self.mask, self.pooled = (torch.cat([part[i] for part in words]) for i in range(3))
        if config.start:
            self.network = load_transformer(config.start)
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(config.seed, "transformer weights"))
            sizes = {"in_channels": vae.channels, "text_width": clip.text_width, "pooled_width": clip.dim}
            self.network = VARIANTS[config.variant](**sizes) if config.variant else VideoTransformer(**sizes)

    def loss(self, step: int) -> Tensor:
        config = self.config
        rng = torch_generator(config.seed, "transformer step", step)
        kind, which = torch.rand(2, generator=rng).tolist()
        other = len(self.latents) > 1 and kind > 1.0 - self.OTHER_SIZE
        pool = 1 + int(which * (len(self.latents) - 1)) if other else 0
        index = torch.randint(len(self.latents[pool]), (config.batch,), generator=rng)
        clean = self.latents[pool][index].float()
        if kind < self.SHORTER:
            clean = clean[:, :, : 1 + int(which * (clean.shape[2] - 1))]
        sigma = flow.logit_normal(config.batch, rng, shift=config.shift)
        noise = torch.randn(clean.shape, generator=rng)
        silent = torch.rand(config.batch, generator=rng) < config.caption_dropout
        rows = self.rows[pool][index].masked_fill(silent, 0)
        known = torch.zeros(clean.shape[0], *clean.shape[2:], dtype=torch.bool)
        if clean.shape[2] > 1:
            for row in (torch.rand(config.batch, generator=rng) < config.given).nonzero().flatten().tolist():
                known[row] = random_mask(grid_of(clean.shape, (1, 1, 1)), self.network.patch_size, rng)
        free = ~known[:, None]
        dtype = next(self.network.parameters()).dtype
        noisy = torch.where(free, flow.interpolate(clean, noise, sigma), clean).to(dtype)
        text, pooled = self.text[rows].to(dtype), self.pooled[rows].to(dtype)
        predicted = self.network(noisy, sigma, text, self.mask[rows], pooled, known)
        error = (predicted.float() - flow.velocity(clean, noise)).square() * free
        return error.sum() / (free.sum() * clean.shape[1])

    def save(self, folder: Path) -> None:
        self.network.half().save_pretrained(folder)


SHARD = 512  # clips per file of latents


def parse_size(size: str) -> tuple[int, int, int]:
    """(frames, height, width) of a text like "17x64x64". Raises: UserError."""
    parts = size.split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise UserError(f"size '{size}' is not FRAMESxHEIGHTxWIDTH, as in {NUM_FRAMES}x{HEIGHT}x{WIDTH}")
    frames, height, width = map(int, parts)
    if frames < NUM_FRAMES or height < HEIGHT or width < WIDTH:
        raise UserError(f"size '{size}' is smaller than the sandbox's own {NUM_FRAMES}x{HEIGHT}x{WIDTH}")
    return frames, height, width


def latent_pool(config: PretrainConfig, vae: Codec, size: str) -> tuple[Tensor, list[str]]:
    """Latents fp16 [clip, C, T, H, W] and prompts of the training clips of one size ("17x64x64").

    Written file by file to `config.latents`, so a run that was killed, or a second one, does not encode them again.
    The first size has `num_clips` clips, each other one an eighth of that. Raises: UserError for a folder whose clips
    come from another recipe.
    """
    num_frames, height, width = parse_size(size)
    count = config.num_clips if size == config.sizes[0] else max(1, config.num_clips // 8)
    source = json.dumps(
        [
            sha256(Path(config.codec) / "diffusion_pytorch_model.safetensors"),
            config.seed,
            config.noise,
            *config.families,
        ]
    )
    folder = Path(config.latents) / size
    seed = seed_for(config.seed, f"pretrain/{config.part}")
    latents, prompts = [], []
    for start in track(range(0, count, SHARD), f"encoding {size} clips"):
        path = folder / f"{start // SHARD:04d}.npz"
        if not path.is_file():
            stop = min(start + SHARD, count)
            encoded, words = [], []
            for first in range(start, stop, 16):
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
                    for index in range(first, min(first + 16, stop))
                ]
                words += [clip.prompt for clip in clips]
                with torch.no_grad():
                    encoded.append(vae.encode(torch.from_numpy(np.stack([clip.frames for clip in clips]))).half())
            with replacing(path) as temporary:
                np.savez(temporary, latents=torch.cat(encoded).numpy(), prompts=np.array(words), source=source)
        with np.load(path) as stored:
            if str(stored["source"]) != source or len(stored["latents"]) != min(SHARD, count - start):
                raise UserError(
                    f"the latents in '{path}' are of another recipe (codec, seed, noise, families or num_clips); "
                    "give an empty folder for latents"
                )
            latents.append(torch.from_numpy(stored["latents"]))
            prompts += stored["prompts"].tolist()
    return torch.cat(latents), prompts


def check(config: PretrainConfig) -> None:
    """Refuse a recipe that cannot run, before any time is spent. Raises: UserError."""
    for name in ("steps", "batch", "warmup", "num_clips", "save_every"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}, it must be 1 or more")
    for name in ("noise", "decay", "ema", "caption_dropout", "given", "drop_tokens", "max_bad"):
        if not 0 <= getattr(config, name) <= 1:
            raise UserError(f"{name} is {getattr(config, name)}, it must be in 0 to 1")
    for part, name in (("codec", "latent_noise"), ("clip", "hard_negatives")):
        if getattr(config, name) < 0 or (getattr(config, name) and not (config.part == part and config.start)):
            raise UserError(
                f"{name} is {getattr(config, name)}; above 0 it goes on from trained weights of the {part}: give "
                f"part {part} and start, or 0"
            )
    for size in config.sizes:
        parse_size(size)
    for name in config.families:
        if name not in FAMILIES:
            raise unknown(name, FAMILIES, "family")
    if config.start and not (Path(config.start) / "config.json").is_file():
        raise UserError(f"start is '{config.start}', which holds no config.json; give the folder of a trained part")
    for name in ("codec", "clip") if config.part == "transformer" else ():
        if not (Path(getattr(config, name)) / "config.json").is_file():
            raise UserError(
                f"the transformer needs a trained {name}: {name} is '{getattr(config, name)}', which holds no "
                f"config.json; train it first (`soralign pretrain --part {name}`) and give its folder"
            )
    for name in ("max_frames", "workers"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}, it must be 1 or more")
    if config.lora_rank and not (config.videos and config.start):
        raise UserError("lora_rank needs videos (the clips to learn) and start (the model to adapt)")
    if config.drop_tokens and not config.token_budget:
        raise UserError("drop_tokens needs packing; token_budget is 0")
    if config.variant and config.variant not in VARIANTS:
        raise unknown(config.variant, VARIANTS, "variant")


PARTS: dict[str, Callable[[PretrainConfig], Part]] = {
    "codec": CodecPart,
    "clip": ClipPart,
    "transformer": lambda config: ClipsPart(config) if config.videos else TransformerPart(config),
}


def rate(config: PretrainConfig, step: int) -> float:
    """Learning rate of a step: linear warm-up, constant, linear fall to nothing after the last step."""
    left = (config.steps - step) / (config.decay * config.steps) if config.decay else 1.0
    return config.learning_rate * min(1.0, (step + 1) / config.warmup, left)


def _optimizers(config: PretrainConfig, weights: dict[str, Tensor]) -> list[torch.optim.Optimizer]:
    """AdamW; for the transformer's block matrices Muon, which reached the same loss in 8 % fewer CPU seconds here."""
    inner = [
        name
        for name, value in weights.items()
        if config.part == "transformer"
        and name.startswith("blocks")
        and name.endswith("weight")
        and value.ndim == 2
        and "modulation" not in name
        and ".lora_" not in name
    ]
    rest = [value for name, value in weights.items() if name not in inner]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    ]
    if inner:
        matrices = [weights[name] for name in inner]
        chosen.append(
            torch.optim.Muon(matrices, lr=config.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        )
    return chosen


def pretrain(config: PretrainConfig, out: Path | str) -> Run:
    """Train one part; the result lies in `out/<part>`. Continues a run that is there.

    The transformer computes in bf16 where that is fast, from fp32 master weights.
    Raises: UserError for a recipe that cannot run, and for a folder that holds another run.
    """
    check(config)
    run = Run.open(Path(out), asdict(config))
    if not config.latents:
        config = replace(config, latents=str(run.folder / "latents"))
    part = PARTS[config.part](config)
    part.begin(run.folder)
    if config.compile and isinstance(part, TransformerPart):
        torch._dynamo.config.recompile_limit = 32  # one compilation for each size of clip
        for block in part.network.blocks:
            block.compile(dynamic=False)
    low_precision = config.part == "transformer" and fast_dtype() == torch.bfloat16
    network = (part.network.bfloat16() if low_precision else part.network).train()
    live = {name: value for name, value in network.named_parameters() if value.requires_grad}
    master = {name: value.detach().float().clone().requires_grad_() for name, value in live.items()}
    average = {name: value.detach().clone() for name, value in master.items()}
    optimizers = _optimizers(config, master)
    done = 0
    if (folder := run.latest()) is not None:
        done = step_of(folder)
        state = torch.load(folder / "state.pt", weights_only=True)
        for name in master:
            master[name].data.copy_(state["master"][name])
            average[name].copy_(state["average"][name])
            live[name].data.copy_(master[name])
        buffers = dict(network.named_buffers())
        for name, value in state["buffers"].items():  # a learned codebook is one
            buffers[name].copy_(value)
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        run.rewind(done)

    def write(folder: Path) -> None:
        weights = {name: value.detach() for name, value in master.items()}
        saved = [optimizer.state_dict() for optimizer in optimizers]
        state = {"master": weights, "average": average, "optimizers": saved, "buffers": dict(network.named_buffers())}
        torch.save(state, folder / "state.pt")
        atomic_write(folder / "provenance.json", json.dumps(part.provenance, indent=2) + "\n")

    begin, losses = time.perf_counter(), list[float]()
    for step in track(range(done, config.steps), f"pretrain {config.part}", total=config.steps - done):
        loss = part.loss(step)
        loss.backward()
        for name, value in live.items():
            master[name].grad, value.grad = value.grad.float() if value.grad is not None else None, None
        torch.nn.utils.clip_grad_norm_(master.values(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(config, step)
            optimizer.step()
        with torch.no_grad():
            keep = min(config.ema, (1 + step) / (10 + step))
            for name, weight in master.items():
                live[name].copy_(weight)
                average[name].lerp_(weight, 1.0 - keep)
        losses.append(float(loss.detach()))
        if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
            mean, seconds = sum(losses) / len(losses), time.perf_counter() - begin
            run.log(step + 1, {"pretrain/loss": mean, "time/seconds": seconds}, (step + 1) * config.batch)
            begin, losses = time.perf_counter(), []
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            run.save(step + 1, write, keep=2)
    network.float().eval()
    with torch.no_grad():
        for name, value in live.items():
            value.copy_(average[name])
    part.save(run.folder / config.part)
    return run
