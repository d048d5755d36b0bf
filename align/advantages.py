"""From rewards to advantages: how much better is a clip than what its prompt usually gives?

Always computed on the samples of every process together, in global order, so that one process and eight agree. A reward
that is not finite is left out, of the statistics as well as of the loss. Samples with nothing to compare to (a group
without spread) get weight 0 instead of an advantage of noise divided by almost nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-4
"""Added to the standard deviation; 1e-8 lets groups of near-equal rewards explode."""


@dataclass(frozen=True)
class Advantages:
    """value [n]; weight [n]: part in the loss, mean 1 and 0 where left out; dead: share of groups without spread."""

    value: Tensor
    weight: Tensor
    dead: float


def group_advantages(
    reward: Tensor, valid: Tensor, group_size: int, limit: float, spread: Literal["group", "all"] = "group"
) -> Advantages:
    """Reward against its own group: (r - mean) / (std + eps), clipped to +-`limit`.

    Args:
        reward [n] and valid [n] (bool), groups of `group_size` neighbours.
        spread: "group" divides by the group's own std; "all" by that around the group means over all groups, so that
            groups with little at stake weigh little.
    Source: GRPO (Shao et al. 2024); "all" as Flow-GRPO's global std.
    """
    groups, kept = reward.double().reshape(-1, group_size), valid.reshape(-1, group_size)
    count = kept.sum(1, keepdim=True)
    groups = torch.where(kept, groups, 0.0)
    mean = groups.sum(1, keepdim=True) / count.clamp(min=1)
    deviation = torch.where(kept, groups - mean, 0.0)
    std = (deviation.square().sum(1, keepdim=True) / count.clamp(min=1)).sqrt()
    alive = _has_spread(std, mean) & (count >= 2)
    scale = std if spread == "group" else (deviation.square().sum() / count.sum().clamp(min=1)).sqrt()
    value = (deviation / (scale + EPSILON)).clamp(-limit, limit)
    return _advantages(value.flatten(), (kept & alive).flatten(), float((~alive).float().mean()))


def mixed_by_group(parts: Tensor, weights: Tensor, valid: Tensor, group_size: int) -> Tensor:
    """Several rewards as one [n]: the weighted sum of how far each is from its group's mean, in its group's std.

    A sum of raw values lets the reward with the widest spread decide alone; here a weight means what it says in every
    group. A reward without spread in a group adds nothing there.

    Args:
        parts [n, c]; weights [c], negative where lower is better; valid [n] (bool); groups of neighbours.
    Source: GDPO (Liu et al. 2026), group-wise decoupled normalisation. Its last step, over the whole batch, is
        `group_advantages` with spread "all".
    """
    groups = parts.double().unflatten(0, (-1, group_size))
    kept = valid.reshape(-1, group_size, 1)
    count = kept.sum(1, keepdim=True).clamp(min=1)
    groups = torch.where(kept, groups, 0.0)
    mean = groups.sum(1, keepdim=True) / count
    deviation = torch.where(kept, groups - mean, 0.0)
    std = (deviation.square().sum(1, keepdim=True) / count).sqrt()
    scaled = torch.where(_has_spread(std, mean), deviation / (std + EPSILON), 0.0)
    return (scaled.flatten(0, 1) * weights.double()).sum(1)


def prompt_advantages(
    reward: Tensor,
    valid: Tensor,
    prompts: Sequence[str],
    history: dict[str, list[float]],
    size: int,
    enough: int,
    limit: float,
) -> Advantages:
    """Reward against the last `size` of its prompt (these included); below `enough` of them, against the batch.

    Updates `history` in place: it is the running state and belongs into the checkpoint.

    Source: DDPO (Black et al. 2023, section 4.3), per-prompt normalisation.
    """
    good = [index for index in range(len(prompts)) if valid[index]]
    for index in good:
        history[prompts[index]] = [*history.get(prompts[index], []), float(reward[index])][-size:]
    batch = reward[valid].double()
    value = torch.zeros(len(prompts), dtype=torch.float64)
    alive = torch.zeros(len(prompts), dtype=torch.bool)
    for index in good:
        seen = history[prompts[index]]
        sample = torch.tensor(seen, dtype=torch.float64) if len(seen) >= enough else batch
        std, mean = sample.std(correction=0), sample.mean()
        alive[index] = _has_spread(std, mean)
        value[index] = (reward[index] - mean) / (std + EPSILON)
    return _advantages(value.clamp(-limit, limit), alive, float((~alive).float().mean()))


def best_and_worst(value: Tensor, group_size: int, best: int, worst: int) -> Tensor:
    """Rows [groups * (best + worst)] of the `best` highest and `worst` lowest advantages of every group.

    Clips that are left out have advantage 0 and so stand in the middle, where they are taken last.
    """
    order = value.reshape(-1, group_size).argsort(dim=1, descending=True, stable=True)
    picked = torch.cat([order[:, :best], order[:, group_size - worst :]], 1)
    return (picked + group_size * torch.arange(len(order), device=value.device)[:, None]).flatten()


def _has_spread(std: Tensor, mean: Tensor) -> Tensor:
    """Whether rewards differ by more than the rounding of fp32."""
    return std > 1e-6 * (1.0 + mean.abs())


def _advantages(value: Tensor, alive: Tensor, dead: float) -> Advantages:
    weight = alive.float() / alive.float().mean().clamp(min=1e-12)
    return Advantages(torch.where(alive, value, 0.0).float(), weight, dead)
