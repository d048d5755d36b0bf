"""A preference model that reads noisy latents at any noise level: a score in the middle of denoising, without decoding.

The same heads as for pixels, on the hidden states of the generator's transformer, taught by the same votes at several
noise levels at once. Only scores at one level compare with each other; for a process reward take differences to what
the level's mean is. Its gradient ends at the latents and costs one pass of part of the transformer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from base_model import flow
from base_model.protocol import Condition, take
from core.errors import UserError
from core.preferences import Store, Vote
from core.randomness import torch_generator
from reward.backbone import LatentBackbone
from reward.ensemble import AGGREGATIONS
from reward.examples import Examples
from reward.preference_model import PreferenceModel
from reward.report import judge
from reward.train import Guards, decode, fit, guarded, learning_curve, lessons, most_changed, save
from reward.train_config import TrainConfig

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
BATCH = 32  # videos at once


def train(
    source: Store | Sequence[Vote], backbone: LatentBackbone, config: TrainConfig, folder: Path | str | None = None
) -> tuple[PreferenceModel, dict[str, Any]]:
    """As `reward.train.train`, seen at all LEVELS; the report is of the level at which `backbone` looks at videos.

    Its "levels" are the held-out accuracies of the closing aspect, by level. Raises: UserError as there.
    """
    begin = time.perf_counter()
    data, parts = lessons(source, config)

    def encode(frames: Tensor, prompts: Sequence[str]) -> Tensor:
        return backbone.encode(frames)

    seen = views(backbone, decode(data.videos, data.prompts, encode), data.prompts, config.seed)
    frozen: list[Guards] = []
    if (videos := guarded(data, parts[0], config)) is not None:
        prompts = [data.prompts[row] for row in videos.tolist()]
        still = decode([data.videos[row] for row in videos.tolist()], prompts, encode, hold=True)
        held = views(backbone, still, prompts, config.seed)
        frozen = [most_changed(videos, one[videos], copy) for one, copy in zip(seen, held, strict=True)]
    looked = time.perf_counter()

    def taught(rows: Tensor) -> PreferenceModel:
        return fit_views(seen, data, [rows, *parts[1:]], backbone, config, frozen)

    model = taught(parts[0])
    reports = {level: judge(model, one, data, parts, config) for level, one in zip(LEVELS, seen, strict=True)}
    told = {str(level): report["aspects"][data.aspects[-1]].get("accuracy") for level, report in reports.items()}
    report = reports[backbone.sigma] | {"levels": {level: found for level, found in told.items() if found}}
    if config.learning_curve:
        shown = seen[LEVELS.index(backbone.sigma)]
        report["learning_curve"] = learning_curve(taught, shown, data, parts, config)
    report["seconds"] = {"features": looked - begin, "heads": time.perf_counter() - looked}
    if folder is not None:
        save(model, report, folder)
    return model, report


@torch.no_grad()
def views(
    backbone: LatentBackbone, latents: Tensor, prompts: Sequence[str], seed: int, levels: Sequence[float] = LEVELS
) -> list[Tensor]:
    """Features [video, feature] of clean latents [video, ...] at every level, each with noise of its own."""
    condition = backbone.generator.encode_prompts(list(prompts))
    seen = []
    for number, level in enumerate(levels):
        noise = torch.randn(latents.shape, generator=torch_generator(seed, "latent levels", number))
        noisy = flow.interpolate(latents, noise.to(latents), level)
        parts = []
        for rows in torch.arange(len(latents)).split(BATCH):
            sigma = torch.full((len(rows),), level, device=latents.device)
            parts.append(backbone.at(noisy[rows], sigma, take(condition, rows)))
        seen.append(torch.cat(parts))
    return seen


def fit_views(
    seen: Sequence[Tensor],
    data: Examples,
    parts: Sequence[Tensor],
    backbone: LatentBackbone,
    config: TrainConfig,
    frozen: Sequence[Guards] = (),
) -> PreferenceModel:
    """One model for all levels: every pair is learned from at each.

    Args: seen: of `views`, in the order of `data.videos`; parts: rows of the training, calibration and held-out pairs;
        calibration is shared by all levels. frozen: guards of every level, or none.
    """
    count, pairs, levels = len(data.videos), len(data.pair), range(len(seen))
    repeated = replace(
        data,
        videos=data.videos * len(seen),
        prompts=data.prompts * len(seen),
        pair=torch.cat([data.pair + count * number for number in levels]),
        votes=data.votes.repeat(len(seen), 1, 1),
    )
    shifted = [torch.cat([part + pairs * number for number in levels]) for part in parts]
    guards = None
    if frozen:
        videos = torch.cat([one.videos + count * number for number, one in enumerate(frozen)])
        guards = Guards(videos, torch.cat([one.frozen for one in frozen]))
    return fit(torch.cat(list(seen)), repeated, shifted, backbone, config, guards)


def score(model: PreferenceModel, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """Total score [batch] of noisy latents [batch, ...] at levels sigma [batch]; differentiable in the latents.

    Raises: UserError for a model that sees pixels.
    """
    seen = eyes(model)
    if model.mean.device != latents.device:
        model.to(latents.device)
    each = model.normalised(seen.at(latents, sigma, condition))
    overall = each[..., model.aspects.index("overall")] if "overall" in model.aspects else each.mean(-1)
    return AGGREGATIONS[model.aggregation](overall)


def eyes(model: PreferenceModel) -> LatentBackbone:
    """What a model reads latents with. Raises: UserError for a model that sees pixels."""
    if not isinstance(model.backbone, LatentBackbone):
        raise UserError(
            f"the reward's backbone is {model.backbone.kind}; only a latent one reads latents "
            "(`soralign reward train --backbone latent:MODEL`)"
        )
    return model.backbone
