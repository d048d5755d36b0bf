"""Trains the small CLIP: captions against clips, and its image tower against captions that are nearly right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from base_model.native import fast_dtype
from base_model.pretrain.config import PretrainConfig
from base_model.pretrain.part import FromTheWorld, pool
from base_model.text import SandboxClip, load_clip
from base_model.world.caption import caption
from base_model.world.spec import COLOURS, FAMILIES, SHAPES, SIZES, Direction, SceneSpec, directions
from core.randomness import numpy_generator, seed_for


class ClipPart(FromTheWorld):
    """Symmetric contrastive loss between a clip's mean frame embedding and its caption (CLIP, Radford et al. 2021)."""

    def __init__(self, config: PretrainConfig, accelerator: Accelerator) -> None:
        super().__init__(config, accelerator)
        frames, captions, specs = [], [], []
        for pixels, clip in pool(config, config.num_clips, stride=2):
            frames.append(pixels)
            captions.append([caption(clip.spec, style) for style in ("short", "descriptive")])
            specs.append(clip.spec)
        self.frames, self.captions, self.specs = np.stack(frames), captions, specs
        if config.start:
            self.network = load_clip(config.start).requires_grad_(True)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_for(config.seed, "clip weights"))
                self.network = SandboxClip()
            self.network.clip.logit_scale.data.fill_(math.log(1 / 0.07))
        if config.hard_negatives:
            self.network.requires_grad_(False)
            self.network.clip.visual.requires_grad_(True)

    def loss(self, step: int, draw: int) -> Tensor:
        rng = numpy_generator(self.config.seed, "clip step", draw)
        rows = rng.integers(len(self.frames), size=self.config.batch)
        start = int(rng.integers(3))
        frames = torch.from_numpy(self.frames[rows][:, [start, start + 3, start + 6]]).float() / 255.0
        words = [self.captions[row][int(rng.random() < 0.6)] for row in rows]
        near = [
            caption(other_word(self.specs[row], rng), "descriptive")
            for row in rows
            for _ in range(self.config.hard_negatives)
        ]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_dtype() == torch.bfloat16):
            videos, texts = self.network.encode_videos(frames.to(self.device)), self.network.encode_text(words)
            wrong = self.network.encode_text(near) if near else None
        scale = self.network.clip.logit_scale.exp().clamp(max=60.0)
        similarity = videos.float() @ texts.float().T * scale
        _, identity = np.unique(words, return_inverse=True)
        twins = torch.from_numpy(identity[:, None] == identity[None, :]).fill_diagonal_(False).to(self.device)
        similarity = similarity.masked_fill(twins, -1e4)  # the same caption elsewhere in the batch is no wrong answer
        target = torch.arange(len(rows), device=self.device)
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
