"""The mathematics of denoising: schedules, one-step transitions and their log-probabilities.

Everything a policy gradient over denoising steps needs is here and pure, and never `scheduler.step` of a library: a
scheduler keeps a step counter and returns no density. Every transition is linear in the latents and the velocity,

    x' = a x + b v + std n,    n ~ N(0, 1),

so a kind of sampler is three numbers (a, b, std) per step, computed in float64 and applied to fp32 latents.

Left out on purpose: higher-order solvers (they need a history, which a replay of single steps does not have); they are
in `solvers`.

Letters: x latents, v velocity, s sigma now, s1 sigma after the step, dt = s1 - s < 0.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["ode", "flow", "dance", "cps", "ddim"]
KINDS: tuple[Kind, ...] = ("ode", "flow", "dance", "cps", "ddim")
NEAR_PURE_NOISE = 1.0 - 1e-3
"""From this sigma on Flow-GRPO's sigma / (1 - sigma) is replaced; UniPC starts at .9999, so `== 1` is not enough."""


@dataclass(frozen=True)
class Schedule:
    """Noise levels of a sampling run: `sigma` float64 [num_steps + 1], falling from 1 (noise) to 0 (clean).

    For family "vp" sigma is sqrt(1 - alpha_bar), so latents are sqrt(1 - sigma^2) clean + sigma noise.
    """

    sigma: Tensor

    @property
    def num_steps(self) -> int:
        return len(self.sigma) - 1

    @property
    def sigma_max(self) -> float:
        """Stand-in for sigma in 1 / (1 - sigma) where sigma is near 1: the second level, as Flow-GRPO does."""
        return float(self.sigma[1])

    def at(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """(sigma, next sigma), float64 [batch], of the denoising steps `step` (long [batch])."""
        sigma = self.sigma.to(step.device)
        return sigma[step], sigma[step + 1]


def linear_schedule(num_steps: int, shift: float = 1.0) -> Schedule:
    """Evenly spaced levels from 1 to 0; `shift` > 1 spends more steps at high noise.

    Raises: ValueError if num_steps < 1 or shift <= 0.
    Source: time shift of SD3 (Esser et al. 2024, eq. 23).
    """
    if num_steps < 1 or shift <= 0:
        raise ValueError(f"a schedule needs num_steps >= 1 and shift > 0, got {num_steps} and {shift}")
    even = torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64)
    return Schedule(shift * even / (1.0 + (shift - 1.0) * even))


def from_level(schedule: Schedule, sigma: float) -> Schedule:
    """The part of a schedule below noise level `sigma`, begun exactly there: for latents that are noisy only so far.

    Raises: ValueError unless 0 < sigma <= 1.
    """
    if not 0.0 < sigma <= 1.0:
        raise ValueError(f"a schedule begins at a noise level in (0, 1], not at {sigma}")
    if sigma >= float(schedule.sigma[0]):  # some variance-preserving schedules begin a little below 1
        return schedule
    return Schedule(torch.cat([schedule.sigma.new_tensor([sigma]), schedule.sigma[schedule.sigma < sigma]]))


def noised(clean: Tensor, noise: Tensor, sigma: float, family: str) -> Tensor:
    """Latents at noise level `sigma` of a model of `family`: a straight path ("flow") or a circle ("vp")."""
    return interpolate(clean, noise, sigma) if family == "flow" else math.sqrt(1.0 - sigma**2) * clean + sigma * noise


def logit_normal(
    count: int, rng: torch.Generator, *, mean: float = 0.0, std: float = 1.0, shift: float = 1.0
) -> Tensor:
    """Noise levels [count] to train at: most in the middle, `shift` > 1 moves them towards noise.

    Source: SD3 (Esser et al. 2024), eq. 19 and 23.
    """
    even = torch.sigmoid(mean + std * torch.randn(count, generator=rng))
    return shift * even / (1.0 + (shift - 1.0) * even)


def min_snr_weight(sigma: Tensor, gamma: float) -> Tensor:
    """Weight [batch] of the velocity's squared error at noise levels `sigma`: nearly clean levels count no more.

    min(SNR, gamma) on the error of the clean latents that the velocity points to, which is sigma^2 times its own; SNR
    is ((1 - sigma) / sigma)^2.
    Source: min-SNR (Hang et al. 2023), section 3.4; `vp.min_snr_weight` is the same on DDPM's times.
    """
    return torch.minimum((1.0 - sigma).square(), gamma * sigma.square())


def interpolate(clean: Tensor, noise: Tensor, sigma: Tensor | float) -> Tensor:
    """Latents at noise level `sigma` (number or [batch]) on the straight path: (1 - sigma) clean + sigma noise."""
    sigma = _rows(torch.as_tensor(sigma, dtype=clean.dtype, device=clean.device), clean)
    return (1.0 - sigma) * clean + sigma * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """Direction of the straight path, d interpolate / d sigma: noise - clean."""
    return noise - clean


def denoised(latents: Tensor, velocity: Tensor, sigma: Tensor | float) -> Tensor:
    """Clean latents that `velocity` points to from noise level `sigma` (number or [batch]): x - sigma v."""
    sigma = _rows(torch.as_tensor(sigma, dtype=latents.dtype, device=latents.device), latents)
    return latents - sigma * velocity


def coefficients(
    kind: Kind, sigma: Tensor, sigma_next: Tensor, eta: float, sigma_max: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(a, b, std) of one denoising step, float64, shape of `sigma`.

    `eta` is the amount of fresh noise, in each kind's own unit: "flow" about .7, "dance" about .3 (a constant
    diffusion), "cps" in [0, 1] (.8), "ddim" in [0, 1]; "ode" ignores it. "ddim" is the variance-preserving family,
    the others flow.

    The noise of "flow", "dance" and "ddim" shrinks with the step, so their marginals tend to the ODE's. That of "cps"
    does not: it keeps the noise level exactly at any step size, but with many noisy steps at high eta the spread of
    the data is lost (on a Gaussian, 150 steps, eta .8: variance -36 %).

    Raises: ValueError for an unknown kind or an eta outside its range.
    Source: Flow-GRPO (Liu et al. 2025) eq. 9 and DanceGRPO (Xue et al. 2025), one mean with two diffusions; Flow-CPS
        (Wang et al. 2025); DDIM (Song et al. 2021) eq. 16.
    """
    s, s1 = sigma.double(), sigma_next.double()
    dt = s1 - s
    if kind == "ode":
        return torch.ones_like(s), dt, torch.zeros_like(s)
    if eta < 0 or (kind in ("cps", "ddim") and eta > 1):
        raise ValueError(
            f"eta {eta} is out of range for kind '{kind}': flow and dance take eta >= 0, cps and ddim 0 to 1"
        )
    if kind in ("flow", "dance"):
        guarded = torch.where(s >= NEAR_PURE_NOISE, torch.full_like(s, sigma_max), s)
        diffusion = eta**2 * (s / (1.0 - guarded) if kind == "flow" else torch.ones_like(s))
        # mean = x + v dt + diffusion / (2 s) (x + (1 - s) v) dt: the bracket is the predicted noise, so the drift
        # that keeps the marginals takes back in expectation what `std` adds.
        drift = diffusion / (2.0 * s) * dt
        return 1.0 + drift, dt + drift * (1.0 - s), (-diffusion * dt).sqrt()
    if kind == "cps":
        std = s1 * math.sin(eta * math.pi / 2)
        kept = (s1**2 - std**2).clamp(min=0).sqrt()
        # mean = (1 - s1) clean + kept noise, with clean = x - s v and noise = x + (1 - s) v.
        return (1.0 - s1) + kept, kept * (1.0 - s) - (1.0 - s1) * s, std
    if kind == "ddim":
        alpha, alpha1 = (1.0 - s**2).clamp(min=0).sqrt(), (1.0 - s1**2).clamp(min=0).sqrt()
        std = eta * (s1 / s) * (1.0 - (alpha / alpha1.clamp(min=1e-12)) ** 2).clamp(min=0).sqrt()
        kept = (s1**2 - std**2).clamp(min=0).sqrt()
        # mean = alpha1 clean + kept noise, with clean = alpha x - s v and noise = s x + alpha v.
        return alpha1 * alpha + kept * s, kept * alpha - alpha1 * s, std
    raise ValueError(f"transition kind '{kind}' is unknown; known: {', '.join(KINDS)}")


def transition(
    kind: Kind,
    latents: Tensor,
    velocity: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    eta: float,
    *,
    sigma_max: float = NEAR_PURE_NOISE,
) -> tuple[Tensor, Tensor]:
    """Mean (shape of `latents`) and standard deviation ([batch, 1, ...]) of the next latents.

    Args:
        latents, velocity: fp32 [batch, ...].
        sigma, sigma_next: noise levels before and after the step, [batch]; 1 = noise.
        eta: see `coefficients`.
        sigma_max: `Schedule.sigma_max`.
    """
    on_latents, on_velocity, std = coefficients(kind, sigma, sigma_next, eta, sigma_max)
    mean = _rows(on_latents.to(latents), latents) * latents + _rows(on_velocity.to(latents), latents) * velocity
    return mean, _rows(std.to(latents), latents)


def log_prob(sample: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density of `sample` under N(mean, std^2), fp32 [batch], mean (not sum) over the latent elements.

    The mean makes ratios comparable over model sizes, and it divides the true log-ratio by the number of elements: clip
    ranges near 1e-4 follow from that. `sample` must be the stored latents, after any rounding, or the ratio moves.

    Raises: ValueError where std is 0: a deterministic step has no density.
    """
    if bool((std <= 0).any()):
        raise ValueError("a deterministic step (std 0: eta 0, the ode, or the last step) has no log-probability")
    std = std.float()
    deviation = (sample.float() - mean.float()) / std
    per_element = -0.5 * deviation.square() - std.log() - 0.5 * math.log(2 * math.pi)
    return per_element.flatten(1).mean(1)


def _rows(value: Tensor, like: Tensor) -> Tensor:
    """[batch] as [batch, 1, ...], ready to multiply `like`; a 0-d value stays as it is."""
    return value.reshape(-1, *[1] * (like.dim() - 1)) if value.dim() else value
