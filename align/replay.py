"""Noisy steps, taken and judged again: what all likelihood-ratio algorithms share.

`explore` samples with noise in a window of denoising steps; `replay` asks what the present policy says of those steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from align import objectives
from align.experience import Part, Rollout, roll_out
from align.policy import Policy
from align.reference import check_held, held_velocity
from base_model import flow
from base_model.sampler import check_noise
from core.errors import UserError
from core.randomness import numpy_generator

if TYPE_CHECKING:
    from reward.protocol import Reward

KLForm = Literal["latent", "velocity"]
USUAL_ETA: dict[flow.Kind, float] = {"flow": 0.7, "dance": 0.3, "cps": 0.8, "ddim": 1.0}
"""What is usual of fresh noise, in each kind's own unit."""


@dataclass(frozen=True)
class Replay:
    """One denoising step of a part under the present policy.

    mean, std: of the step's Gaussian. log_ratio [batch]: log p_new - log p_old. pull [batch]: what the distance to the
    reference costs. metrics: what every likelihood-ratio algorithm logs.
    """

    mean: Tensor
    std: Tensor
    log_ratio: Tensor
    pull: Tensor
    metrics: dict[str, Tensor]


class Explorer(Protocol):
    """The settings of noisy steps, as the algorithms name and explain them."""

    @property
    def group_size(self) -> int: ...
    @property
    def noise(self) -> flow.Kind: ...
    @property
    def eta(self) -> float | None: ...
    @property
    def window(self) -> int: ...
    @property
    def window_stop(self) -> int: ...
    @property
    def same_noise(self) -> bool: ...
    @property
    def advantage_limit(self) -> float: ...
    @property
    def kl_weight(self) -> float: ...
    @property
    def kl_form(self) -> KLForm: ...


def check_exploration(settings: Explorer, policy: Policy) -> None:
    """Refuse what could not learn from noisy steps.

    Raises: UserError for advantages cut to nothing, a pull away from the reference, a window that does not fit, or
        noise without a density.
    """
    if not settings.advantage_limit > 0:
        raise UserError(f"advantage_limit {settings.advantage_limit} must be above 0; 5 is usual")
    check_held(settings.kl_weight)
    policy.check_single_steps()
    left = policy.num_steps
    if policy.strength < 1.0 and left <= max(settings.window, settings.window_stop, 1):
        raise UserError(
            f"strength {policy.strength} leaves {left} of {policy.denoising_steps} denoising steps, the last without "
            f"noise: too few for window {settings.window}; take more steps, or edit from a higher strength"
        )
    stop = window_limit(policy.num_steps, settings.window, settings.window_stop)
    check_noise(policy.generator.family, settings.noise, amount(settings), range(stop), policy.num_steps)


def amount(settings: Explorer) -> float:
    """How much fresh noise a noisy step has, in the unit of its kind."""
    return USUAL_ETA[settings.noise] if settings.eta is None else settings.eta


def explore(
    settings: Explorer, policy: Policy, reward: "Reward", prompts: Sequence[str], seed: int, step: int
) -> Rollout:
    """Groups of clips with noise in the window of this training step, judged."""
    return roll_out(
        policy,
        reward,
        prompts,
        group_size=settings.group_size,
        kind=settings.noise,
        eta=amount(settings),
        window=window_at(policy.num_steps, settings.window, settings.window_stop, seed, step),
        same_noise=settings.same_noise,
        seed=seed,
        step=step,
    )


def replay(settings: Explorer, policy: Policy, part: Part) -> Replay:
    """The step of `part` again, with gradients."""
    schedule = policy.schedule
    levels = schedule.at(part.step)

    def gaussian(velocity: Tensor) -> tuple[Tensor, Tensor]:
        eta = amount(settings)
        return flow.transition(settings.noise, part.before, velocity, *levels, eta, sigma_max=schedule.sigma_max)

    def latent_kl(velocity: Tensor, reference: Tensor) -> Tensor:
        mean, std = gaussian(velocity)
        return objectives.latent_kl(mean, gaussian(reference)[0], std)

    distance = latent_kl if settings.kl_form == "latent" else objectives.velocity_distance
    velocity, pull, logged = held_velocity(policy, part, settings.kl_weight, distance)
    mean, std = gaussian(velocity)
    log_ratio = flow.log_prob(part.after, mean, std) - part.log_prob
    return Replay(mean, std, log_ratio, pull, ratio_metrics(log_ratio) | logged)


def window_limit(num_steps: int, window: int, stop: int) -> int:
    """The step before which the window must end: `stop`, or 0 for the first half (for all but the last, window 0).

    Raises: UserError if the window does not fit.
    """
    last = num_steps - 1
    end = stop or (last if window == 0 else max(num_steps // 2, window))
    if not 0 <= window <= end <= last or end < 1:
        raise UserError(
            f"window {window} with window_stop {stop} does not fit {num_steps} denoising steps: the last has no noise, "
            f"so neither may be above {last}, nor window above a window_stop that is given"
        )
    return end


def window_at(num_steps: int, window: int, stop: int, seed: int, step: int) -> range:
    """The noisy denoising steps of a training step: the same for all clips and processes, or their rewards would not
    compare (verl-omni saw runs die of a window drawn per request)."""
    stop = window_limit(num_steps, window, stop)
    width = window or stop
    start = int(numpy_generator(seed, "window", step).integers(0, stop - width + 1))
    return range(start, start + width)


def ratio_metrics(log_ratio: Tensor) -> dict[str, Tensor]:
    """How far the policy has moved; `ratio_error` is a maximum and must be 0 before the first update."""
    moved = log_ratio.detach()
    return {"ratio_error": moved.expm1().abs().max(), "approx_kl": objectives.approximate_kl(moved).mean()}
