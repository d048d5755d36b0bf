"""What the policy says today of the noisy steps it took while sampling: shared by all likelihood-ratio algorithms."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from align import objectives
from align.experience import Part
from align.policy import Policy
from base_model import flow
from core.errors import UserError
from core.randomness import numpy_generator

KLForm = Literal["latent", "velocity"]


@dataclass(frozen=True)
class Replay:
    """One denoising step of a part under the present policy.

    mean, std: of the step's Gaussian. log_ratio [batch]: log p_new - log p_old. kl [batch]: to the reference, or None.
    """

    mean: Tensor
    std: Tensor
    log_ratio: Tensor
    kl: Tensor | None


def replay(policy: Policy, part: Part, noise: flow.Kind, eta: float, kl_form: KLForm | None) -> Replay:
    """The step of `part` again, with gradients; `kl_form` None saves the reference's forward."""
    schedule = policy.schedule
    levels = schedule.at(part.step)

    def gaussian(velocity: Tensor) -> tuple[Tensor, Tensor]:
        return flow.transition(noise, part.before, velocity, *levels, eta, sigma_max=schedule.sigma_max)

    reference = None
    if kl_form is not None:
        with torch.no_grad(), policy.reference():
            reference = policy.velocity(part.before, part.step, part.condition)
    velocity = policy.velocity(part.before, part.step, part.condition)
    mean, std = gaussian(velocity)
    log_ratio = flow.log_prob(part.after, mean, std) - part.log_prob
    kl = None
    if reference is not None and kl_form == "latent":
        kl = objectives.latent_kl(mean, gaussian(reference)[0], std)
    elif reference is not None:
        kl = objectives.velocity_distance(velocity, reference)
    return Replay(mean, std, log_ratio, kl)


def window_limit(num_steps: int, window: int, stop: int) -> int:
    """The step before which the window must end: `stop`, or 0 for the first half (for all but the last, window 0).

    Raises: UserError if the window does not fit.
    """
    if not stop:
        stop = num_steps - 1 if window == 0 else max(num_steps // 2, window)
    if window < 0 or window > stop:
        raise UserError(f"a window of {window} steps does not fit before step {stop} of {num_steps}")
    return stop


def window_at(num_steps: int, window: int, stop: int, seed: int, step: int) -> range:
    """The noisy denoising steps of a training step: the same for all clips and processes, or their rewards would not
    compare (verl-omni saw runs die of a window drawn per request)."""
    stop = window_limit(num_steps, window, stop)
    width = window or stop
    start = int(numpy_generator(seed, "window", step).integers(0, stop - width + 1))
    return range(start, start + width)


def ratio_metrics(log_ratio: Tensor) -> dict[str, Tensor]:
    """What every likelihood-ratio algorithm logs; `ratio_error` is a maximum and must be 0 before the first update."""
    moved = log_ratio.detach()
    return {"ratio_error": moved.expm1().abs().max(), "approx_kl": objectives.approximate_kl(moved).mean()}
