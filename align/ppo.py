"""PPO: the clipped policy gradient of DDPO with a learned critic in the place of groups.

A critic V(x_t, t, prompt) says what reward half-denoised latents promise. An advantage is then how much better the clip
became after a step than it had promised to be before it: every noisy step gets its own, prompts need no second clip to
be compared with, and `gae_lambda` trades the critic's errors (0) for the noise of the reward (1).

Left out: discounting (all clips take the same number of steps) and an entropy bonus (the noise is fixed).
Source: Schulman et al. 2017 (PPO), 2016 (GAE), on the decision process of DDPO (Black et al. 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from align import critic, objectives
from align.advantages import EPSILON, Advantages
from align.experience import Experience, Part, check_groups, experience
from align.policy import Policy
from align.replay import KLForm, check_exploration, explore, replay
from core.cli import option
from core.errors import UserError

if TYPE_CHECKING:
    from reward.protocol import Reward


@dataclass(frozen=True)
class PPO:
    """Settings of PPO; ratios and KL are means over latent elements, values in standard deviations of the reward."""

    group_size: int = option(1, "clips per prompt and step")
    noise: Literal["flow", "dance", "cps", "ddim"] = option(
        "flow", "kind of noisy step; ddim is for models of family vp"
    )
    eta: float | None = option(
        None, "amount of fresh noise, in the unit of its kind; none = the usual: flow .7, dance .3, cps .8, ddim 1"
    )
    window: int = option(2, "denoising steps with noise and gradient; 0 = all but the last")
    window_stop: int = option(0, "the window stays before this denoising step; 0 = the first half of the steps")
    same_noise: bool = option(False, "start all clips of a group from the same noise")
    gae_lambda: float = option(0.95, "1 = reward minus the critic's value; 0 = only the change of value in one step")
    advantage_limit: float = option(5.0, "advantages are clipped to this many standard deviations")
    clip_range: float = option(1e-4, "half-width of the free band around ratio 1")
    value_clip: float = option(0.5, "half-width of the free band around the critic's old value")
    critic_learning_rate: float = option(1e-3, "of AdamW for the critic")
    critic_start: str = option("", "folder of a reward of the same model's latents, which the critic starts from")
    kl_weight: float = option(
        0.0, "weight of the KL to the reference (adapters off); costs one more forward if above 0"
    )
    kl_form: KLForm = option("velocity", "KL of the step's Gaussians, or squared velocity difference")

    def check(self, policy: Policy, reward: "Reward") -> None:
        if not (self.clip_range > 0 and self.value_clip > 0 and self.critic_learning_rate > 0):
            raise UserError(
                f"clip_range {self.clip_range}, value_clip {self.value_clip} and critic_learning_rate "
                f"{self.critic_learning_rate} must be above 0"
            )
        if not 0 <= self.gae_lambda <= 1:
            raise UserError(f"gae_lambda {self.gae_lambda} must be in [0, 1]; .95 is usual")
        if self.critic_start:
            critic.check_start(policy, self.critic_start)
        check_groups(policy, self.group_size, smallest=1)
        check_exploration(self, policy)

    def modules(self, policy: Policy) -> dict[str, nn.Module]:
        return {"critic": critic.build(policy, foretold=bool(self.critic_start))}

    def learned(self, prompts: int) -> int:
        return prompts * self.group_size

    def collect(self, policy: Policy, reward: "Reward", prompts: Sequence[str], seed: int, step: int) -> Experience:
        rollout = explore(self, policy, reward, prompts, seed, step)
        scale = policy.memory.setdefault("reward_scale", {})
        scores = critic.standardised(rollout.total, rollout.valid, scale)
        taught = rollout.valid & (scores[rollout.valid].std(correction=0) > EPSILON)

        path, rows = rollout.trajectory, slice(rollout.rows.start, rollout.rows.stop)
        features = critic.trunk_features(policy, path.before, path.steps, rollout.condition)
        if self.critic_start:
            guess = critic.foretold(policy, critic.latent_reward(self.critic_start), rollout)
            features = torch.cat([features, guess.unsqueeze(-1)], -1)
        with torch.no_grad():
            value = policy.call("critic", features.flatten(0, 1)).reshape(features.shape[:2])
        advantage, returns = critic.generalized_advantages(value, scores[rows].to(value), self.gae_lambda)

        everyone = policy.gather(torch.stack([advantage, value, returns], 1))
        spread, weight, explained = _normalised(everyone, taught, self.advantage_limit)
        collected = experience(rollout, Advantages(spread.mean(1), weight, dead=float(not taught.any())))
        return replace(
            collected,
            metrics=collected.metrics | {"align/explained_variance": explained},
            extra={"feature": features, "value": value, "return": returns, "advantage": spread[rows].to(value)},
        )

    def loss(self, policy: Policy, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        now = replay(self, policy, part)
        advantage = part.extra["advantage"]
        per_sample = objectives.clipped_surrogate(now.log_ratio, advantage, self.clip_range)
        metrics = dict(now.metrics)
        metrics["clip_fraction"] = objectives.clipped_share(now.log_ratio, advantage, self.clip_range).mean()
        value = policy.call("critic", part.extra["feature"])
        # Critic and adapters share no weight, so their losses can be added as they are.
        error = objectives.clipped_value_loss(value, part.extra["value"], part.extra["return"], self.value_clip)
        metrics["value_loss"] = error.mean()
        return (part.weight * (per_sample + now.pull + error)).mean(), metrics


def _normalised(everyone: Tensor, taught: Tensor, limit: float) -> tuple[Tensor, Tensor, float]:
    """Advantages [n, S] of all processes in standard deviations, weights [n] of mean 1, and how much of the variance
    of the returns the critic explains (1 = all, 0 = no better than their mean).

    Args: everyone: advantage, value and return of all processes [n, 3, S]. taught [n]: clips to learn from.
    """
    taught = taught.to(everyone.device)
    weight = taught.float() / taught.float().mean().clamp(min=1e-12)
    if not taught.any():
        return torch.zeros_like(everyone[:, 0]), weight.cpu(), 0.0
    advantage, value, returns = everyone[taught].unbind(1)
    spread = (everyone[:, 0] - advantage.mean()) / (advantage.std(correction=0) + EPSILON)
    explained = 1.0 - float((returns - value).var(correction=0) / returns.var(correction=0).clamp(min=1e-12))
    return spread.clamp(-limit, limit).cpu(), weight.cpu(), explained
