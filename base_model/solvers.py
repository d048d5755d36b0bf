"""Solvers: the way from noise to clean latents, each a generator of the latents after every step.

All walk the straight path x = (1 - s) clean + s noise with a field v = noise - clean. A variance-preserving model is
brought onto it by a change of variables: its latents divided by (alpha + sigma) lie on the straight path at level
s = sigma / (alpha + sigma), and its trajectories are the same ones. Euler here is therefore DDIM there.

Left out on purpose: log-probabilities and replay of single steps, which policy gradients need; they are in `flow`.
Letters: x latents, s levels falling to 0 (python floats, so coefficients are float64), v field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from core.errors import UserError

Field = Callable[[Tensor, int], Tensor]
"""(latents, index of their level) -> noise - clean, same shape."""
Name = Literal["euler", "heun", "dpm++2m", "ddim", "ddpm"]
NAMES: tuple[Name, ...] = get_args(Name)


def check(name: str, eta: float) -> None:
    """Raises: UserError for an unknown solver or an eta outside 0 to 1."""
    if name not in NAMES:
        raise UserError(f"solver '{name}' is unknown; known: {', '.join(NAMES)}")
    if not 0.0 <= eta <= 1.0:
        raise UserError(f"eta {eta} is out of range: 0 (no fresh noise) to 1 (the posterior's)")


def solve(
    name: Name, field: Field, x: Tensor, s: Sequence[float], *, eta: float = 1.0, rng: Sequence[torch.Generator] = ()
) -> Iterator[Tensor]:
    """Yield the latents after each of the len(s) - 1 steps.

    Args:
        x: latents at level s[0], [batch, ...].
        eta: "ddim" only, share of the posterior's noise, 0 = none (Euler), 1 = "ddpm".
        rng: one CPU generator per row, for the fresh noise of "ddim" and "ddpm".
    Raises: UserError for an unknown name or an eta outside 0 to 1.
    """
    check(name, eta)
    if name == "euler":
        return euler(field, x, s)
    if name == "heun":
        return heun(field, x, s)
    if name == "dpm++2m":
        return dpm_solver_2m(field, x, s)
    return ancestral(field, x, s, 1.0 if name == "ddpm" else eta, rng)


def euler(field: Field, x: Tensor, s: Sequence[float]) -> Iterator[Tensor]:
    """First order, one evaluation a step."""
    for i in range(len(s) - 1):
        x = x + (s[i + 1] - s[i]) * field(x, i)
        yield x


def heun(field: Field, x: Tensor, s: Sequence[float]) -> Iterator[Tensor]:
    """Second order, two evaluations a step; the last step, at whose end no model is asked, is Euler's.

    Source: EDM (Karras et al. 2022), algorithm 1.
    """
    for i in range(len(s) - 1):
        slope = field(x, i)
        ahead = x + (s[i + 1] - s[i]) * slope
        if i + 2 < len(s):
            ahead = x + (s[i + 1] - s[i]) * 0.5 * (slope + field(ahead, i + 1))
        x = ahead
        yield x


def dpm_solver_2m(field: Field, x: Tensor, s: Sequence[float]) -> Iterator[Tensor]:
    """Second order, one evaluation a step: the clean prediction is extrapolated from the step before.

    The first and the last step are of first order: at s = 1 and s = 0 the log signal-to-noise ratio has no end.
    Source: DPM-Solver++ (Lu et al. 2022), algorithm 2.
    """
    clean_before, h_before = x, math.inf
    for i in range(len(s) - 1):
        clean = x - s[i] * field(x, i)
        h = _log_snr(s[i + 1]) - _log_snr(s[i])
        ahead = 0.0 if math.isinf(h_before) or math.isinf(h) else 0.5 * h / h_before
        target = clean + ahead * (clean - clean_before)
        shrink = s[i + 1] / s[i]
        x = shrink * x + (1.0 - s[i + 1] - shrink * (1.0 - s[i])) * target
        clean_before, h_before = clean, h
        yield x


def ancestral(
    field: Field, x: Tensor, s: Sequence[float], eta: float, rng: Sequence[torch.Generator]
) -> Iterator[Tensor]:
    """A draw from q(x' | x, predicted clean) at eta = 1 (DDPM); eta < 1 keeps that share of its deviation (DDIM).

    Source: DDPM (Ho et al. 2020) eq. 6-7 and DDIM (Song et al. 2021) eq. 16, for any signal and noise level.
    """
    for i in range(len(s) - 1):
        v = field(x, i)
        clean, noise = x - s[i] * v, x + (1.0 - s[i]) * v
        std = eta * posterior_std(s[i], s[i + 1])
        x = (1.0 - s[i + 1]) * clean + math.sqrt(max(0.0, s[i + 1] ** 2 - std**2)) * noise
        if std > 0.0:
            x = x + std * fresh_noise(rng, x)
        yield x


def posterior_std(s: float, s1: float) -> float:
    """Standard deviation of q(x at s1 | x at s, clean) on the straight path, s1 < s.

    Source: Kingma et al. 2021 (VDM), eq. 25, with signal 1 - s and noise s.
    """
    kept = ((1.0 - s) * s1 / (s * (1.0 - s1))) ** 2  # ratio of the signal-to-noise ratios
    return s1 * math.sqrt(max(0.0, 1.0 - kept))


def fresh_noise(rng: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """N(0, 1) of the shape of `like`, one row per generator. Raises: ValueError unless there is one per row."""
    if len(rng) != len(like):
        raise ValueError(f"noise needs one random generator per row: {len(like)} rows, {len(rng)} generators")
    return torch.stack([torch.randn(like.shape[1:], generator=one) for one in rng]).to(like)


def _log_snr(s: float) -> float:
    """log((1 - s) / s), with its limits at both ends."""
    if s <= 0.0 or s >= 1.0:
        return math.inf if s <= 0.0 else -math.inf
    return math.log1p(-s) - math.log(s)
