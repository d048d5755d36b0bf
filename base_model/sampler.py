"""The denoising loops, as generators that show every step, and the conveniences built on them.

`denoise` keeps what policy gradients need of single steps; `solve` draws with any solver and keeps nothing.

Noise is an argument: each clip has a random generator of its own, so a clip is the same whatever batch it is drawn
in, and base and aligned models can be compared seed by seed. Fresh noise falls only in a `window` of steps, elsewhere
the step is deterministic; only window steps have a log-probability and only they are kept, so memory does not grow
with `num_steps`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from base_model import flow, solvers
from base_model.protocol import Condition, Generator, VideoSize, take
from core.errors import UserError
from core.randomness import torch_generator


@dataclass(frozen=True)
class Sampling:
    """How clips are drawn.

    num_steps: denoising steps. guidance: scale of classifier-free guidance, 1 = none, half the cost; applied where the
    noise level lies in `guidance_interval` (Kynkäänniemi et al. 2024: the middle is where it helps).
    negative_prompt: what guidance leads away from; empty = from no prompt. solver, eta: see `solvers`.
    batch: clips per forward.
    """

    num_steps: int = 20
    guidance: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    negative_prompt: str = ""
    solver: solvers.Name = "euler"
    eta: float = 1.0
    batch: int = 16

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if not 0.0 <= self.guidance < math.inf:
            raise UserError(f"guidance is {self.guidance}, it must be a number from 0 on (1 = none)")
        low, high = self.guidance_interval
        if not 0.0 <= low < high <= 1.0:
            raise UserError(f"guidance interval {low} to {high} does not rise inside 0 (clean) to 1 (noise)")
        if self.negative_prompt and self.guidance == 1.0:
            raise UserError("a negative prompt does nothing at guidance 1; give a guidance above 1")
        solvers.check(self.solver, self.eta)


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
    strength: float = 1.0,
    guidance: float = 1.0,
    unconditional: Condition | None = None,
    kind: flow.Kind = "ode",
    eta: float = 0.0,
    window: range | None = None,
    rng: Sequence[torch.Generator] = (),
) -> Iterator[DenoisingState]:
    """Walk from `noise` to clean latents, yielding every step.

    Args:
        condition, noise: [batch, ...]; noise is fp32 N(0, 1), or below strength 1 what `begun` makes of it.
        strength: noise level to begin at; steps and window are counted from there.
        kind, eta, window: how fresh noise is added, and in which steps; "ode" adds none.
        rng: one CPU generator per row, for the fresh noise.
    Raises: UserError if the noise setting has no log-probability.
    """
    schedule = flow.from_level(generator.schedule(num_steps), strength)
    noisy = range(0)
    if kind != "ode":
        noisy = default_window(schedule.num_steps) if window is None else window
        check_noise(generator.family, kind, eta, noisy, schedule.num_steps)
    quiet: flow.Kind = "ddim" if generator.family == "vp" else "ode"
    latents = noise
    for index in range(schedule.num_steps):
        step = torch.full((len(latents),), index, device=latents.device)
        velocity = generator.predict(latents, step, schedule, condition, unconditional, guidance)
        before, log_prob = latents, None
        levels = schedule.at(step)
        if index in noisy:
            mean, std = flow.transition(kind, before, velocity, *levels, eta, sigma_max=schedule.sigma_max)
            latents = mean + std * solvers.fresh_noise(rng, mean)
            log_prob = flow.log_prob(latents, mean, std)
        else:
            mean, _ = flow.transition(quiet, before, velocity, *levels, 0.0, sigma_max=schedule.sigma_max)
            latents = mean
        yield DenoisingState(index, before, latents, mean, log_prob)


@torch.no_grad()
def sample(states: Iterator[DenoisingState]) -> Trajectory:
    """Run a `denoise` to its end and keep the window's transitions."""
    kept: list[DenoisingState] = []
    for state in states:
        if state.log_prob is not None:
            kept.append(state)
    latents = state.after
    if not kept:
        return without_path(latents)
    return Trajectory(
        latents=latents,
        steps=torch.tensor([state.denoising_step for state in kept], device=latents.device),
        before=torch.stack([state.before for state in kept], 1),
        after=torch.stack([state.after for state in kept], 1),
        mean=torch.stack([state.mean for state in kept], 1),
        log_prob=torch.stack([state.log_prob for state in kept if state.log_prob is not None], 1),
    )


def without_path(latents: Tensor) -> Trajectory:
    """Clean latents of which no step is kept."""
    empty = latents.new_zeros(len(latents), 0, *latents.shape[1:])
    steps = torch.zeros(0, dtype=torch.long, device=latents.device)
    return Trajectory(latents, steps, empty, empty, empty, latents.new_zeros(len(latents), 0))


def solve(
    generator: Generator,
    condition: Condition,
    *,
    noise: Tensor,
    sampling: Sampling,
    unconditional: Condition | None = None,
    schedule: flow.Schedule | None = None,
    rng: Sequence[torch.Generator] = (),
) -> Iterator[Tensor]:
    """Walk from `noise` to clean latents, yielding the latents after every step.

    Args:
        noise: latents at the schedule's first level, [batch, ...], fp32.
        unconditional: what guidance leads away from; needed where `sampling.guidance` is not 1.
        schedule: the generator's own with `sampling.num_steps` by default.
        rng: one CPU generator per row, for the solvers that add noise.
    """
    schedule = generator.schedule(sampling.num_steps) if schedule is None else schedule
    sigma = schedule.sigma.tolist()
    # See the first lines of `solvers`: model latents are `scale` x straight latents.
    signal = [math.sqrt(max(0.0, 1.0 - s**2)) if generator.family == "vp" else 1.0 - s for s in sigma]
    scale = [a + s if generator.family == "vp" else 1.0 for a, s in zip(signal, sigma, strict=True)]
    low, high = sampling.guidance_interval

    def field(x: Tensor, index: int) -> Tensor:
        guided = unconditional is not None and low <= sigma[index] <= high
        step = torch.full((len(x),), index, device=x.device)
        latents = x * scale[index] if generator.family == "vp" else x
        v = generator.predict(
            latents, step, schedule, condition, unconditional if guided else None, sampling.guidance if guided else 1.0
        )
        if generator.family == "flow":
            return v
        a, s = signal[index], sigma[index]
        return (s * latents + a * v) - (a * latents - s * v)

    levels = [s / k for s, k in zip(sigma, scale, strict=True)]
    path = solvers.solve(sampling.solver, field, noise / scale[0], levels, eta=sampling.eta, rng=rng)
    for index, x in enumerate(path, start=1):
        yield x if generator.family == "flow" else x * scale[index]


def begun(generator: Generator, condition: Condition, noise: Tensor, strength: float) -> Tensor:
    """Latents to begin from: `noise`, or below strength 1 the condition's "clean" latents at that noise level.

    Source: SDEdit (Meng et al. 2022).
    """
    return noise if strength == 1.0 else flow.noised(condition["clean"], noise, strength, generator.family)


@torch.no_grad()
def draw(path: Iterator[Tensor]) -> Tensor:
    """Clean latents: run a `solve` to its end."""
    *_, latents = path
    return latents


def opposite(generator: Generator, sampling: Sampling, batch: int) -> Condition | None:
    """`batch` rows of what guidance leads away from: the negative prompt, or no prompt; None without guidance."""
    if sampling.guidance == 1.0:
        return None
    if not sampling.negative_prompt:
        return generator.unconditional(batch)
    return generator.encode_prompts([sampling.negative_prompt] * batch)


def solver_noise(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator per seed for the fresh noise of a solver, apart from that of the initial noise."""
    return [torch_generator(seed, "solver noise") for seed in seeds]


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
    sampling: Sampling | None = None,
) -> Tensor:
    """Frames [len(prompts), time, 3, height, width] in [0, 1], on the CPU.

    The same prompt and seed give the same noise for every model, so base and aligned clips pair up.

    Args:
        num_steps, guidance, batch: what is usually chosen of a `Sampling`; `sampling`, where given, says all of it.
    """
    sampling = sampling or Sampling(num_steps=num_steps, guidance=guidance, batch=batch)
    condition = generator.encode_prompts(list(prompts))
    device = next(iter(condition.values())).device  # of the weights it need not be: they may come layer by layer
    frames = []
    for start in range(0, len(prompts), sampling.batch):
        rows = slice(start, start + sampling.batch)
        noise = initial_noise(generator, seeds[rows], size).to(device)
        latents = draw(
            solve(
                generator,
                take(condition, rows),
                noise=noise,
                sampling=sampling,
                unconditional=opposite(generator, sampling, len(noise)),
                rng=solver_noise(seeds[rows]),
            )
        )
        frames.append(generator.decode(latents).float().cpu())
    return torch.cat(frames)
