"""Noise levels of a diffusers scheduler as a `Schedule`, and back from a level to the number a network is told.

Schedulers are only read, from fresh copies: their `step` keeps an index inside, so replaying steps out of order breaks,
and what it adds as noise has no density one may use (CogVideoXDDIM ignores eta without a word). A network's timestep is
a function of the noise level alone, so any list of levels works, not only the one that the scheduler made.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from base_model.flow import Schedule


def schedule(scheduler: Any, kind: Literal["flow", "vp"], arguments: dict[str, Any]) -> Schedule:
    """The levels that the scheduler would walk through, indexed by step, from noise to clean.

    Args:
        arguments: of `set_timesteps`.
    """
    fresh = type(scheduler).from_config(scheduler.config)
    fresh.set_timesteps(**arguments)
    if kind == "flow":
        sigma = fresh.sigmas.double().cpu()
        return Schedule(1.0 - sigma if scheduler.config.get("invert_sigmas") else sigma)
    alpha_bar = torch.cat([fresh.alphas_cumprod[fresh.timesteps.cpu()], _final(fresh).reshape(1)])
    return Schedule(_vp_sigma(alpha_bar))


def timestep(scheduler: Any, kind: Literal["flow", "vp"], sigma: Tensor) -> Tensor:
    """What the network is told of noise level `sigma` (float64, any shape): fp32 for flow, long for vp."""
    if kind == "vp":
        levels = _vp_sigma(scheduler.alphas_cumprod).to(sigma.device)  # rises with the timestep
        above = torch.searchsorted(levels, sigma.contiguous()).clamp(1, len(levels) - 1)
        return torch.where(sigma - levels[above - 1] < levels[above] - sigma, above - 1, above)
    config = scheduler.config
    told = (1.0 - sigma if config.get("invert_sigmas") else sigma) * config.num_train_timesteps
    # The multistep solvers tell whole numbers, cut off; levels went through fp32, so one may lie just below its number.
    return (told + 1e-4).floor().float() if "solver_order" in config else told.float()


def _vp_sigma(alpha_bar: Tensor) -> Tensor:
    return (1.0 - alpha_bar.double()).clamp(min=0).sqrt()


def _final(scheduler: Any) -> Tensor:
    return torch.as_tensor(getattr(scheduler, "final_alpha_cumprod", 1.0))
