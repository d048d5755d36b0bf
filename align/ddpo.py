"""DDPO: policy gradient on denoising steps, with importance sampling and clipping or in its plain form.

Sampling is read as a decision process in which every noisy denoising step is an action with a Gaussian density and the
reward comes at the end. Advantages compare a clip with others of its prompt: its own group of this step, or a running
history of the prompt. Noise falls, and gradients flow, only in a short window of steps that slides with the training
step: what the other steps would teach is not worth their backward passes on a small machine.

Left out: a critic (see PPO) and any group trick beyond normalisation (see GRPO).
Source: Black et al. 2023 (DDPO-IS, DDPO-SF); KL per step as DPOK (Fan et al. 2023); window as MixGRPO (Li et al. 2025).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from align import objectives
from align.advantages import Advantages, group_advantages, prompt_advantages
from align.experience import Experience, Part, Rollout, check_groups, experience
from align.policy import Policy
from align.replay import KLForm, check_exploration, explore, replay
from core.cli import option
from core.errors import UserError

if TYPE_CHECKING:
    from reward.protocol import Reward


@dataclass(frozen=True)
class DDPO:
    """Settings of DDPO; ratios and KL are means over latent elements."""

    estimator: Literal["is", "sf"] = option(
        "is",
        "importance sampling with clipping, or the score function alone: samples are used once (updates 1, passes 1)",
    )
    group_size: int = option(8, "clips per prompt and step")
    noise: Literal["flow", "dance", "cps", "ddim"] = option(
        "flow", "kind of noisy step; ddim is for models of family vp"
    )
    eta: float | None = option(
        None, "amount of fresh noise, in the unit of its kind; none = the usual: flow .7, dance .3, cps .8, ddim 1"
    )
    window: int = option(2, "denoising steps with noise and gradient; 0 = all but the last")
    window_stop: int = option(0, "the window stays before this denoising step; 0 = the first half of the steps")
    same_noise: bool = option(
        False, "start all clips of a group from the same noise, so that they differ by the window only"
    )
    keep: int = option(0, "clips of a group that are learned from, half of them the best and half the worst; 0 = all")
    advantage: Literal["group", "prompt"] = option(
        "group", "compare a clip with its group, or with its prompt's history"
    )
    advantage_limit: float = option(5.0, "advantages are clipped to this many standard deviations")
    history_size: int = option(32, "rewards remembered per prompt (advantage: prompt)")
    history_enough: int = option(16, "with fewer remembered rewards, compare with the batch (advantage: prompt)")
    clip_range: float = option(1e-4, "half-width of the free band around ratio 1")
    kl_weight: float = option(
        0.0, "weight of the KL to the reference (adapters off); costs one more forward if above 0"
    )
    kl_form: KLForm = option("velocity", "KL of the step's Gaussians, or squared velocity difference")

    def check(self, policy: Policy, reward: "Reward") -> None:
        if not self.clip_range > 0:
            raise UserError(f"clip_range {self.clip_range} must be above 0; 1e-4 is usual for mean log-probabilities")
        if self.history_size < 1:
            raise UserError(f"history_size {self.history_size} remembers nothing; use 1 or more, 16 to 32 are usual")
        if self.estimator == "sf" and policy.rounds > 1:
            raise UserError(
                f"estimator 'sf' is wrong once the policy has moved, as after one of {policy.rounds} updates; use "
                "updates 1 and passes 1, or estimator 'is'"
            )
        check_groups(policy, self.group_size, 2 if self.advantage == "group" else 1, self.keep)
        check_exploration(self, policy)

    def modules(self, policy: Policy) -> dict[str, nn.Module]:
        return {}

    def learned(self, prompts: int) -> int:
        return prompts * (self.keep or self.group_size)

    def collect(self, policy: Policy, reward: "Reward", prompts: Sequence[str], seed: int, step: int) -> Experience:
        rollout = explore(self, policy, reward, prompts, seed, step)
        return experience(rollout, self._advantages(policy, rollout)).extremes(self.group_size, self.keep)

    def loss(self, policy: Policy, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        now = replay(self, policy, part)
        metrics = dict(now.metrics)
        if self.estimator == "sf":
            per_sample = objectives.score_function(now.log_ratio, part.advantage)
        else:
            per_sample = objectives.clipped_surrogate(now.log_ratio, part.advantage, self.clip_range)
            metrics["clip_fraction"] = objectives.clipped_share(now.log_ratio, part.advantage, self.clip_range).mean()
        return (part.weight * (per_sample + now.pull)).mean(), metrics

    def _advantages(self, policy: Policy, rollout: Rollout) -> Advantages:
        if self.advantage == "group":
            return group_advantages(rollout.reward, rollout.valid, self.group_size, self.advantage_limit)
        history = policy.memory.setdefault("reward_history", {})
        return prompt_advantages(
            rollout.total,
            rollout.valid,
            rollout.prompts,
            history,
            self.history_size,
            self.history_enough,
            self.advantage_limit,
        )
