"""The denoising loop, as a generator that shows every step, and the conveniences built on it.

Noise is an argument: each clip has a random generator of its own, so a clip is the same whatever batch it is drawn
in, and base and aligned models can be compared seed by seed. Fresh noise falls only in a `window` of steps, elsewhere
the step is deterministic; only window steps have a log-probability and only they are kept, so memory does not grow
with `num_steps`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from base_model import flow
from base_model.protocol import Condition, Generator, VideoSize, take
from core.errors import UserError
from core.randomness import torch_generator


@dataclass(frozen=True)
class DenoisingState:
    """One finished step: latents before, after and their mean; where noise was added the log-probability [batch]."""

    denoising_step: int
    before: Tensor
    after: Tensor
    mean: Tensor
    log_prob: Tensor | None


@dataclass(frozen=True)
class Trajectory:
    """What sampling leaves behind for learning; S = number of window steps.

    latents: the clean result [batch, ...]; steps: long [S]; before, after, mean: [batch, S, ...]; log_prob: [batch, S].
    """

    latents: Tensor
    steps: Tensor
    before: Tensor
    after: Tensor
    mean: Tensor
    log_prob: Tensor


def default_window(num_steps: int) -> range:
    """All steps but the last, whose noise would land in the result and whose std may be 0."""
    return range(num_steps - 1)


def check_noise(family: str, kind: flow.Kind, eta: float, window: range, num_steps: int) -> None:
    """Refuse a noise setting that has no log-probability, before any time is spent.

    Raises: UserError.
    """
    kinds = ("ddim",) if family == "vp" else ("flow", "dance", "cps")
    if kind not in kinds:
        raise UserError(
            f"noise '{kind}' has no log-probability for a model of family '{family}'; use {', '.join(kinds)}"
        )
    if not 0 < eta <= (1.0 if kind in ("cps", "ddim") else float("inf")):
        raise UserError(
            f"eta {eta} is out of range for noise '{kind}': above 0 (0 leaves no log-probability), cps/ddim to 1"
        )
    if len(window) == 0 or window.start < 0 or window.stop > num_steps - 1:
        raise UserError(
            f"window {window.start}..{window.stop - 1} does not fit {num_steps} denoising steps: "
            f"it must be inside 0..{num_steps - 2} (the last step is always deterministic)"
        )


def denoise(
    generator: Generator,
    condition: Condition,
    *,
    noise: Tensor,
    num_steps: int,
    guidance: float = 1.0,
    unconditional: Condition | None = None,
    kind: flow.Kind = "ode",
    eta: float = 0.0,
    window: range | None = None,
    rng: Sequence[torch.Generator] = (),
) -> Iterator[DenoisingState]:
    """Walk from `noise` to clean latents, yielding every step.

    Args:
        condition, noise: [batch, ...]; noise is fp32 N(0, 1).
        kind, eta, window: how fresh noise is added, and in which steps; "ode" adds none.
        rng: one CPU generator per row, for the fresh noise.
    Raises: UserError if the noise setting has no log-probability.
    """
    schedule = generator.schedule(num_steps)
    noisy = range(0)
    if kind != "ode":
        noisy = default_window(num_steps) if window is None else window
        check_noise(generator.family, kind, eta, noisy, num_steps)
    quiet: flow.Kind = "ddim" if generator.family == "vp" else "ode"
    latents = noise
    for index in range(num_steps):
        step = torch.full((len(latents),), index, device=latents.device)
        velocity = generator.predict(latents, step, schedule, condition, unconditional, guidance)
        before, log_prob = latents, None
        levels = schedule.at(step)
        if index in noisy:
            mean, std = flow.transition(kind, before, velocity, *levels, eta, sigma_max=schedule.sigma_max)
            latents = mean + std * _normal(rng, mean)
            log_prob = flow.log_prob(latents, mean, std)
        else:
            mean, _ = flow.transition(quiet, before, velocity, *levels, 0.0, sigma_max=schedule.sigma_max)
            latents = mean
        yield DenoisingState(index, before, latents, mean, log_prob)


@torch.no_grad()
def sample(
    generator: Generator,
    condition: Condition,
    *,
    noise: Tensor,
    num_steps: int,
    guidance: float = 1.0,
    unconditional: Condition | None = None,
    kind: flow.Kind = "ode",
    eta: float = 0.0,
    window: range | None = None,
    rng: Sequence[torch.Generator] = (),
) -> Trajectory:
    """Run `denoise` to the end and keep the window's transitions. Arguments and errors as there."""
    kept: list[DenoisingState] = []
    latents = noise
    for state in denoise(
        generator,
        condition,
        noise=noise,
        num_steps=num_steps,
        guidance=guidance,
        unconditional=unconditional,
        kind=kind,
        eta=eta,
        window=window,
        rng=rng,
    ):
        latents = state.after
        if state.log_prob is not None:
            kept.append(state)
    steps = torch.tensor([state.denoising_step for state in kept], dtype=torch.long, device=noise.device)
    if not kept:
        empty = noise.new_zeros(len(noise), 0, *noise.shape[1:])
        return Trajectory(latents, steps, empty, empty, empty, noise.new_zeros(len(noise), 0))
    return Trajectory(
        latents=latents,
        steps=steps,
        before=torch.stack([state.before for state in kept], 1),
        after=torch.stack([state.after for state in kept], 1),
        mean=torch.stack([state.mean for state in kept], 1),
        log_prob=torch.stack([state.log_prob for state in kept if state.log_prob is not None], 1),
    )


def initial_noise(generator: Generator, seeds: Sequence[int], size: VideoSize | None = None) -> Tensor:
    """N(0, 1) latents [len(seeds), ...] on the CPU; a row depends on its own seed alone."""
    shape = generator.latent_shape(size or generator.size)
    return torch.stack([torch.randn(shape, generator=torch_generator(seed, "initial noise")) for seed in seeds])


@torch.no_grad()
def generate_frames(
    generator: Generator,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    num_steps: int = 20,
    guidance: float = 1.0,
    batch: int = 16,
    size: VideoSize | None = None,
) -> Tensor:
    """Frames [len(prompts), time, 3, height, width] in [0, 1] by the deterministic sampler, on the CPU.

    The same prompt and seed give the same noise for every model, so base and aligned clips pair up.
    """
    device = next(generator.policy_module().parameters()).device
    condition = generator.encode_prompts(list(prompts))
    frames = []
    for start in range(0, len(prompts), batch):
        rows = slice(start, start + batch)
        noise = initial_noise(generator, seeds[rows], size).to(device)
        result = sample(
            generator,
            take(condition, rows),
            noise=noise,
            num_steps=num_steps,
            guidance=guidance,
            unconditional=generator.unconditional(len(noise)) if guidance != 1.0 else None,
        )
        frames.append(generator.decode(result.latents).float().cpu())
    return torch.cat(frames)


def _normal(rng: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Fresh N(0, 1) of the shape of `like`, one row per generator."""
    if len(rng) != len(like):
        raise ValueError(f"noise needs one random generator per row: {len(like)} rows, {len(rng)} generators")
    return torch.stack([torch.randn(like.shape[1:], generator=one) for one in rng]).to(like)
