"""Weighted regression: train on own samples as if they were data, the good ones more.

The plainest of all, and the baseline that anything cleverer has to beat: no ratio, no reference, no pushing away from
what is bad. Two ways to weigh the clips of a group:

    exponential   by exp(advantage / temperature), normalised over the group (reward-weighted regression)
    best          the `best` clips of every group alike and the others not at all (best-of-N distillation)

Left out: mixing in real videos, which would hold the policy where it came from.
Source: Peters & Schaal 2007; Lee et al. 2023 and Black et al. 2023 (RWR on diffusion models); best-of-N as in Stiennon
et al. 2020.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from align import objectives
from align.advantages import group_advantages
from align.experience import Experience, Part, check_groups, experience, roll_out
from align.policy import Policy
from align.reference import check_held, held_velocity
from align.renoise import check_levels, renoised, target
from core.cli import option
from core.errors import UserError

if TYPE_CHECKING:
    from reward.protocol import Reward


@dataclass(frozen=True)
class WeightedRegression:
    """Settings of weighted regression."""

    weighting: Literal["exponential", "best"] = option("exponential", "how clips of a group are weighed")
    group_size: int = option(8, "clips per prompt and step")
    temperature: float = option(0.5, "standard deviations of reward that make a clip weigh e times as much")
    best: int = option(1, "clips kept of every group (weighting: best)")
    levels: int = option(4, "noise levels per clip at which the policy is trained, spread over the schedule")
    kl_weight: float = option(0.0, "weight of the squared velocity difference to the reference (adapters off)")

    def check(self, policy: Policy, reward: "Reward") -> None:
        check_held(self.kl_weight)
        check_levels(policy, self.levels, "weighted_regression")
        check_groups(policy, self.group_size, picks=self.weighting == "best")
        if not self.temperature > 0:
            raise UserError(f"temperature {self.temperature} must be above 0; .2 to 1 are usual")
        if not 1 <= self.best < self.group_size:
            raise UserError(
                f"best {self.best} of a group of {self.group_size} clips must be in 1..{self.group_size - 1}"
            )

    def modules(self, policy: Policy) -> dict[str, nn.Module]:
        return {}

    def learned(self, prompts: int) -> int:
        return prompts * (self.group_size if self.weighting == "exponential" else self.best)

    def collect(self, policy: Policy, reward: "Reward", prompts: Sequence[str], seed: int, step: int) -> Experience:
        rollout = roll_out(policy, reward, prompts, group_size=self.group_size, seed=seed, step=step)
        advantages = group_advantages(rollout.reward, rollout.valid, self.group_size, limit=float("inf"))
        if self.weighting == "exponential":
            weight = exponential_weights(advantages.value, advantages.weight, self.group_size, self.temperature)
            collected = experience(rollout, replace(advantages, weight=weight))
        else:
            collected = experience(rollout, advantages).subset(self.group_size, best=self.best, worst=0)
        clean = collected.trajectory.latents
        return replace(collected, trajectory=renoised(policy, clean, self.levels, seed, step, collected.rows))

    def loss(self, policy: Policy, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        velocity, pull, logged = held_velocity(policy, part, self.kl_weight)
        error = objectives.velocity_distance(velocity, target(policy, part))
        return (part.weight * error + pull).mean(), {"velocity_error": error.detach().mean()} | logged


def exponential_weights(advantage: Tensor, weight: Tensor, group_size: int, temperature: float) -> Tensor:
    """Weights [n], proportional to exp(advantage / temperature) inside a group, the groups weighing alike.

    Args: weight [n]: of the clips before, 0 where left out; it stays 0 there, and the mean stays what it was.
    """
    groups, alive = advantage.reshape(-1, group_size), weight.reshape(-1, group_size) > 0
    raised = torch.where(alive, groups / temperature, -torch.inf).softmax(1).nan_to_num(0.0)  # nan: nobody is left
    return (raised * weight.reshape(-1, group_size).sum(1, keepdim=True)).flatten()
