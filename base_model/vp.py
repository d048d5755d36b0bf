"""Diffusion over discrete times, as DDPM writes it: what is known in closed form, and what a network predicts.

A process keeps alpha_bar[t], t = 0 (clean, exactly 1) to T, the share of the clean signal's variance left at time t:

    x_t = sqrt(alpha_bar_t) clean + sqrt(1 - alpha_bar_t) noise.

The native model is trained on the straight path of `flow`; this is for models of family "vp", for weights of losses,
and for the bound on the likelihood, which holds for both. Times are long [batch]; coefficients are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from base_model import flow

Prediction = Literal["noise", "velocity", "clean"]


@dataclass(frozen=True)
class Process:
    """alpha_bar: float64 [T + 1], falling from 1."""

    alpha_bar: Tensor

    @property
    def num_times(self) -> int:
        return len(self.alpha_bar) - 1

    def schedule(self, num_steps: int) -> flow.Schedule:
        """Noise levels sqrt(1 - alpha_bar) at evenly spaced times, from T to 0, for the samplers.

        Raises: ValueError unless 1 <= num_steps <= T.
        """
        if not 1 <= num_steps <= self.num_times:
            raise ValueError(f"{num_steps} denoising steps do not fit {self.num_times} times")
        times = torch.linspace(self.num_times, 0, num_steps + 1).round().long()
        return flow.Schedule((1.0 - self.alpha_bar[times]).sqrt())


def linear(num_times: int = 1000, first: float = 1e-4, last: float = 0.02) -> Process:
    """Betas evenly spaced from `first` to `last`. Source: DDPM (Ho et al. 2020), section 4."""
    beta = torch.linspace(first, last, num_times, dtype=torch.float64)
    return Process(torch.cat([beta.new_ones(1), (1.0 - beta).cumprod(0)]))


def cosine(num_times: int = 1000, offset: float = 0.008) -> Process:
    """alpha_bar falls as a squared cosine; betas are capped at .999. Source: Nichol and Dhariwal 2021, eq. 17."""
    time = torch.arange(num_times + 1, dtype=torch.float64) / num_times
    wanted = torch.cos((time + offset) / (1.0 + offset) * math.pi / 2).square()
    beta = (1.0 - wanted[1:] / wanted[:-1]).clamp(max=0.999)
    return Process(torch.cat([beta.new_ones(1), (1.0 - beta).cumprod(0)]))


def noised(process: Process, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """A draw from q(x_t | clean) in one step, whatever t. Source: DDPM eq. 4."""
    signal, level = _signal_and_noise(process, time, clean)
    return signal * clean + level * noise


def posterior(process: Process, clean: Tensor, noisy: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (shape of `clean`) and variance ([batch, 1, ...]) of q(x_{t-1} | x_t, clean), t >= 1.

    Source: DDPM eq. 6-7.
    """
    now, before = process.alpha_bar[time], process.alpha_bar[time - 1]
    beta = 1.0 - now / before
    on_clean = before.sqrt() * beta / (1.0 - now)
    on_noisy = (now / before).sqrt() * (1.0 - before) / (1.0 - now)
    variance = (1.0 - before) / (1.0 - now) * beta
    return _like(on_clean, clean) * clean + _like(on_noisy, clean) * noisy, _like(variance, clean)


def convert(
    value: Tensor, noisy: Tensor, alpha_bar: Tensor, source: Prediction, target: Prediction, *, least: float = 1e-12
) -> Tensor:
    """What a network predicts, said in another way: noise, clean, or velocity = sqrt(a) noise - sqrt(1 - a) clean.

    Args:
        alpha_bar: [batch], a in the line above. `least` guards the divisions at a = 0 and a = 1, where the noisy
            latents hold nothing of the clean ones, or of the noise.
    Source: progressive distillation (Salimans and Ho 2022), appendix D.
    """
    a, s = _like(alpha_bar.sqrt(), noisy), _like((1.0 - alpha_bar).sqrt(), noisy)
    if source == "noise":
        clean, noise = (noisy - s * value) / a.clamp(min=least), value
    elif source == "clean":
        clean, noise = value, (noisy - a * value) / s.clamp(min=least)
    else:
        clean, noise = a * noisy - s * value, s * noisy + a * value
    return {"noise": noise, "clean": clean, "velocity": a * noise - s * clean}[target]


def min_snr_weight(alpha_bar: Tensor, prediction: Prediction, gamma: float = 5.0) -> Tensor:
    """Weight [batch] of the squared error of `prediction`: easy, nearly clean times count no more than `gamma`.

    Source: min-SNR (Hang et al. 2023), section 3.4: min(SNR, gamma) on the clean prediction's error.
    """
    snr = alpha_bar / (1.0 - alpha_bar)
    per_clean = {"clean": torch.ones_like(snr), "noise": 1.0 / snr, "velocity": 1.0 / (snr + 1.0)}[prediction]
    return snr.clamp(max=gamma) * per_clean


@torch.no_grad()
def bits_per_dimension(
    clean: Tensor,
    predict_clean: Callable[[Tensor, int], Tensor],
    signal: Sequence[float],
    noise: Sequence[float],
    rng: torch.Generator,
) -> Tensor:
    """Upper bound on -log2 p(clean) per element, [batch]: the variational bound of the ancestral sampler.

    Three parts: the first latents against N(0, 1); every step's posterior against the model's, which comes to half the
    gain in signal-to-noise ratio times the squared error of the clean prediction; and the last, nearly clean latents
    against the data, read as N(latents / signal, (noise / signal)^2). Data are continuous, so it may be negative.

    Args:
        predict_clean: (noisy, index of the level) -> clean latents.
        signal, noise: levels from noisy to nearly clean; the last noise above 0 is the resolution asked of the model.
    Source: VDM (Kingma et al. 2021), eq. 11-15, with one noise draw per level.
    """

    def at(index: int) -> Tensor:
        return signal[index] * clean + noise[index] * torch.randn(clean.shape, generator=rng)

    def each(value: Tensor) -> Tensor:
        return value.flatten(1).double().mean(1)

    first = 0.5 * (each((signal[0] * clean).square()) + noise[0] ** 2 - 1.0 - 2.0 * math.log(noise[0]))
    nats = first
    for index in range(len(signal) - 1):
        gain = (signal[index + 1] / noise[index + 1]) ** 2 - (signal[index] / noise[index]) ** 2
        nats = nats + 0.5 * gain * each((clean - predict_clean(at(index), index)).square())
    deviation = noise[-1] / signal[-1]
    residual = each((at(len(signal) - 1) / signal[-1] - clean).square()) / deviation**2
    nats = nats + 0.5 * residual + math.log(deviation) + 0.5 * math.log(2 * math.pi)
    return nats / math.log(2)


def _signal_and_noise(process: Process, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    alpha_bar = process.alpha_bar[time]
    return _like(alpha_bar.sqrt(), like), _like((1.0 - alpha_bar).sqrt(), like)


def _like(value: Tensor, like: Tensor) -> Tensor:
    """[batch] as [batch, 1, ...] in the type of `like`."""
    return value.to(like).reshape(-1, *[1] * (like.dim() - 1))
