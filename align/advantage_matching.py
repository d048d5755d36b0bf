"""Advantage-weighted matching: the policy gradient with the pretraining loss in the place of the log-probability.

The flow-matching error of a clip bounds its log-likelihood from below, so `old error - new error` takes the part of the
log-ratio in a clipped surrogate. Any solver may sample, nothing of the path is kept, and the gradient has less noise
than DDPO's, which fits the policy to every single noise that was drawn. In contrast to DiffusionNFT a bad clip is
pushed away from directly and not by a mirror image; the clipping is what keeps that from running off.

Left out: the paper's weights of noise levels other than the even one.
Source: Xue et al. 2025 (Advantage Weighted Matching).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from align import objectives
from align.advantages import group_advantages
from align.experience import Experience, Part, check_groups, experience, roll_out
from align.policy import Policy
from align.reference import check_held, held_velocity
from align.renoise import check_levels, old_velocity, renoised, target
from align.replay import ratio_metrics
from core.cli import option
from core.errors import UserError

if TYPE_CHECKING:
    from reward.protocol import Reward


@dataclass(frozen=True)
class AdvantageMatching:
    """Settings of advantage-weighted matching; the ratio is of velocity errors, means over latent elements."""

    group_size: int = option(8, "clips per prompt and step")
    keep: int = option(0, "clips of a group that are learned from, half of them the best and half the worst; 0 = all")
    spread: Literal["group", "all"] = option("group", "advantages in units of the group's std, or of all groups'")
    levels: int = option(4, "noise levels per clip at which the policy is trained, spread over the schedule")
    advantage_limit: float = option(5.0, "advantages are clipped to this many standard deviations")
    clip_range: float = option(1e-3, "half-width of the free band around ratio 1, in velocity error")
    kl_weight: float = option(0.0, "weight of the squared velocity difference to the reference (adapters off)")

    def check(self, policy: Policy, reward: "Reward") -> None:
        check_held(self.kl_weight)
        check_levels(policy, self.levels, "awm")
        check_groups(policy, self.group_size, keep=self.keep)
        if not self.clip_range > 0 or not self.advantage_limit > 0:
            raise UserError(f"clip_range {self.clip_range} and advantage_limit {self.advantage_limit} must be above 0")

    def modules(self, policy: Policy) -> dict[str, nn.Module]:
        return {}

    def learned(self, prompts: int) -> int:
        return prompts * (self.keep or self.group_size)

    def collect(self, policy: Policy, reward: "Reward", prompts: Sequence[str], seed: int, step: int) -> Experience:
        policy.memory["old_policy"] = policy.weights()
        rollout = roll_out(policy, reward, prompts, group_size=self.group_size, seed=seed, step=step)
        advantages = group_advantages(rollout.reward, rollout.valid, self.group_size, self.advantage_limit, self.spread)
        collected = experience(rollout, advantages).extremes(self.group_size, self.keep)
        clean = collected.trajectory.latents
        return replace(collected, trajectory=renoised(policy, clean, self.levels, seed, step, collected.rows))

    def loss(self, policy: Policy, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        old, goal = old_velocity(policy, part), target(policy, part)
        velocity, pull, logged = held_velocity(policy, part, self.kl_weight)
        old = velocity.detach() if old is None else old
        log_ratio = objectives.velocity_distance(old, goal) - objectives.velocity_distance(velocity, goal)
        per_sample = objectives.clipped_surrogate(log_ratio, part.advantage, self.clip_range)
        metrics = {
            "approx_kl": ratio_metrics(log_ratio)["approx_kl"],
            "clip_fraction": objectives.clipped_share(log_ratio.detach(), part.advantage, self.clip_range).mean(),
        }
        return (part.weight * (per_sample + pull)).mean(), metrics | logged
