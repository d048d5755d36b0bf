"""GRPO on flow models: group-relative advantages over noisy denoising steps, with a choice of trust region.

The same likelihood ratio as DDPO, for those who scale it: ratios can be normalised over noise levels (`guard`) or be
left unclipped inside a bound on the KL of a step (`mask`); groups can share one scale of advantage. The noise of a step
is Flow-GRPO's, DanceGRPO's or CPS's by `noise` and `eta`; `window` makes it MixGRPO.

Left out: histories per prompt (see DDPO) and a critic (see PPO).
Source: Flow-GRPO (Liu et al. 2025), DanceGRPO (Xue et al. 2025), MixGRPO (Li et al. 2025), GRPO-Guard (Wang et al.
2025), Flow-DPPO (verl-omni).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from align import objectives
from align.advantages import group_advantages
from align.experience import Experience, Part, check_groups, experience
from align.policy import Policy
from align.replay import KLForm, check_exploration, explore, replay
from core.cli import option
from core.errors import UserError

if TYPE_CHECKING:
    from reward.protocol import Reward


@dataclass(frozen=True)
class GRPO:
    """Settings of GRPO; ratios and KL are means over latent elements."""

    group_size: int = option(8, "clips per prompt and step")
    noise: Literal["flow", "dance", "cps"] = option("flow", "kind of noisy step")
    eta: float | None = option(
        None, "amount of fresh noise, in the unit of its kind; none = the usual: flow .7, dance .3, cps .8"
    )
    window: int = option(2, "denoising steps with noise and gradient; 0 = all but the last")
    window_stop: int = option(0, "the window stays before this denoising step; 0 = the first half of the steps")
    same_noise: bool = option(False, "start all clips of a group from the same noise")
    keep: int = option(0, "clips of a group that are learned from, half of them the best and half the worst; 0 = all")
    spread: Literal["group", "all"] = option("group", "advantages in units of the group's std, or of all groups'")
    advantage_limit: float = option(5.0, "advantages are clipped to this many standard deviations")
    trust: Literal["clip", "guard", "mask"] = option("clip", "clipped ratio, normalised clipped ratio, or KL mask")
    clip_range: float = option(1e-4, "half-width of the free band around ratio 1 (trust: clip, guard)")
    kl_limit: float = option(1e-5, "bound on the KL of a step to the sampling policy (trust: mask)")
    kl_weight: float = option(
        0.0, "weight of the KL to the reference (adapters off); costs one more forward if above 0"
    )
    kl_form: KLForm = option("velocity", "KL of the step's Gaussians, or squared velocity difference")

    def check(self, policy: Policy, reward: "Reward") -> None:
        if not (self.clip_range > 0 and self.kl_limit > 0):
            raise UserError(f"clip_range {self.clip_range} and kl_limit {self.kl_limit} must be above 0")
        if policy.generator.family != "flow":
            raise UserError(f"grpo needs a model of family 'flow', this one is '{policy.generator.family}'; use ddpo")
        check_groups(policy, self.group_size, keep=self.keep)
        check_exploration(self, policy)

    def modules(self, policy: Policy) -> dict[str, nn.Module]:
        return {}

    def learned(self, prompts: int) -> int:
        return prompts * (self.keep or self.group_size)

    def collect(self, policy: Policy, reward: "Reward", prompts: Sequence[str], seed: int, step: int) -> Experience:
        rollout = explore(self, policy, reward, prompts, seed, step)
        advantages = group_advantages(rollout.reward, rollout.valid, self.group_size, self.advantage_limit, self.spread)
        return experience(rollout, advantages).extremes(self.group_size, self.keep)

    def loss(self, policy: Policy, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        now = replay(self, policy, part)
        metrics = dict(now.metrics)
        log_ratio = now.log_ratio
        if self.trust == "mask":
            moved = objectives.latent_kl(now.mean, part.mean, now.std)
            per_sample = objectives.trusted_surrogate(log_ratio, part.advantage, moved, self.kl_limit)
        else:
            if self.trust == "guard":
                log_ratio = objectives.guarded_log_ratio(log_ratio, now.mean, part.mean, now.std)
            per_sample = objectives.clipped_surrogate(log_ratio, part.advantage, self.clip_range)
            if self.trust == "guard":
                levels = policy.schedule.at(part.step)
                per_sample = per_sample * objectives.even_step_weight(*levels, policy.num_steps).to(per_sample)
            metrics["clip_fraction"] = objectives.clipped_share(log_ratio, part.advantage, self.clip_range).mean()
        return (part.weight * (per_sample + now.pull)).mean(), metrics
