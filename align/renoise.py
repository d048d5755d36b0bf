"""Clean clips noised again: the training ground of every algorithm that learns from results and not from steps.

Such algorithms need no noisy sampling, no log-probability and no stored path: a clip is put back on the straight path
to noise at a few levels, and the policy's velocity there is compared with the one that leads to the clip.

Left out: models of family "vp", whose path is not straight.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from align.experience import Part
from align.policy import Policy
from base_model import flow
from base_model.sampler import Trajectory
from core.errors import UserError
from core.randomness import numpy_generator, torch_generator


def check_levels(policy: Policy, levels: int, name: str) -> None:
    """Raises: UserError if the model is not of family flow, or cannot be noised at `levels` different levels."""
    if not 1 <= levels <= policy.num_steps:
        raise UserError(f"levels {levels} must be in 1..{policy.num_steps}, the number of denoising steps")
    if policy.generator.family != "flow":
        raise UserError(f"{name} needs a model of family 'flow', this one is '{policy.generator.family}'; use ddpo")


def levels_at(num_steps: int, levels: int, seed: int, step: int) -> Tensor:
    """The noise levels of a training step, as denoising steps (long [levels]): one from each stretch of them."""
    rng = numpy_generator(seed, "noise levels", step)
    edges = [num_steps * index // levels for index in range(levels + 1)]
    return torch.tensor([int(rng.integers(edges[index], edges[index + 1])) for index in range(levels)])


def renoised(policy: Policy, clean: Tensor, levels: int, seed: int, step: int, numbers: Sequence[int]) -> Trajectory:
    """`clean` latents [batch, ...] at the noise levels of this training step; only `before` means anything in the path.

    Args: numbers: one per clip, over all processes; clips with the same number get the same noise.
    """
    steps = levels_at(policy.num_steps, levels, seed, step).to(clean.device)
    draws = [torch_generator(seed, "renoise", step, number) for number in numbers]
    noise = torch.stack([torch.randn(len(steps), *clean.shape[1:], generator=one) for one in draws]).to(clean)
    sigma = policy.schedule.at(steps)[0]
    noisy = torch.stack([flow.interpolate(clean, noise[:, i], sigma[i]) for i in range(len(steps))], 1)
    return Trajectory(clean, steps, before=noisy, after=noisy, mean=noisy, log_prob=noisy.new_zeros(noisy.shape[:2]))


def target(policy: Policy, part: Part) -> Tensor:
    """The velocity [batch, ...] that leads from a part's noisy latents straight to its clean ones."""
    sigma = policy.schedule.at(part.step)[0].to(part.before)
    return (part.before - part.clean) / sigma.reshape(-1, *[1] * (part.clean.dim() - 1))


@torch.no_grad()
def old_velocity(policy: Policy, part: Part) -> Tensor | None:
    """What the weights in `policy.memory["old_policy"]` say of a part; None while they are the present ones, which
    saves a forward."""
    old = policy.memory["old_policy"]
    if all(torch.equal(a, b) for a, b in zip(old, policy.parameters, strict=True)):
        return None
    with policy.with_weights(old):
        return policy.velocity(part.before, part.step, part.condition)
