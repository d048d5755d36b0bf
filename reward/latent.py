"""A preference model that reads noisy latents at any noise level: a score in the middle of denoising, without decoding.

The same heads as for pixels, on the hidden states of the generator's transformer, taught by the same votes at several
noise levels at once. Only scores at one level compare with each other; for a process reward take differences to what
the level's mean is. Its gradient ends at the latents and costs one pass of part of the transformer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from base_model.protocol import Condition, take
from core.errors import UserError
from core.randomness import torch_generator
from reward.backbone import LatentBackbone
from reward.ensemble import AGGREGATIONS
from reward.examples import Examples
from reward.preference_model import PreferenceModel
from reward.train import fit
from reward.train_config import TrainConfig

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
BATCH = 32  # videos at once


def fit_latent(
    backbone: LatentBackbone,
    latents: Tensor,
    data: Examples,
    parts: Sequence[Tensor],
    config: TrainConfig,
    levels: Sequence[float] = LEVELS,
) -> PreferenceModel:
    """Train on clean latents [video, ...] in the order of `data.videos`, seen at every level with noise of its own.

    Args: parts: rows of the training, calibration and held-out pairs; calibration is shared by all levels.
    """
    condition = backbone.generator.encode_prompts(list(data.prompts))
    seen = []
    with torch.no_grad():
        for number, level in enumerate(levels):
            noise = torch.randn(latents.shape, generator=torch_generator(config.seed, "latent levels", number))
            noisy = (1 - level) * latents + level * noise.to(latents)
            for rows in torch.arange(len(latents)).split(BATCH):
                sigma = torch.full((len(rows),), level, device=latents.device)
                seen.append(backbone.at(noisy[rows], sigma, take(condition, rows)))
    count, pairs = len(latents), len(data.pair)
    repeated = replace(
        data,
        videos=data.videos * len(levels),
        prompts=data.prompts * len(levels),
        pair=torch.cat([data.pair + count * number for number in range(len(levels))]),
        votes=data.votes.repeat(len(levels), 1, 1),
    )
    shifted = [torch.cat([part + pairs * number for number in range(len(levels))]) for part in parts]
    return fit(torch.cat(seen), repeated, shifted, backbone, config)


def score(model: PreferenceModel, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """Total score [batch] of noisy latents [batch, ...] at levels sigma [batch]; differentiable in the latents.

    Raises: UserError for a model that sees pixels.
    """
    if not isinstance(model.backbone, LatentBackbone):
        raise UserError(f"the reward's backbone is {model.backbone.kind}; only a latent one reads latents")
    each = model.normalised(model.backbone.at(latents, sigma, condition))
    overall = each[..., model.aspects.index("overall")] if "overall" in model.aspects else each.mean(-1)
    return AGGREGATIONS[model.aggregation](overall)
