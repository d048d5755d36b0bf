"""DDPO as peers write it: what our loop is measured against, in `align_cost` and `align_curves`.

The settings are flow_grpo's for Wan: noise and gradients in every step but the last, one forward per denoising step,
guidance 4.5 in sampling and training, KL to the reference (a forward with the adapters off), clip range 1e-3, prompts
encoded again for every batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from align import objectives
from align.advantages import group_advantages
from align.config import TrainConfig
from base_model import flow, lora, sampler
from base_model.protocol import Condition, Generator
from core.randomness import seed_for, torch_generator
from reward.protocol import Reward

GROUP = 8
KL_WEIGHT = 0.004
CLIP_RANGE = 1e-3


class PlainLoop:
    """A generator with adapters, and the optimizer: `step` is one round of sampling and one update."""

    guidance = 4.5

    def __init__(self, generator: Generator, reward: Reward, config: TrainConfig) -> None:
        self.generator, self.reward, self.config = generator, reward, config
        self.num_steps, self.seed = config.denoising_steps, config.seed
        self.network = generator.policy_module()
        self.parameters = lora.attach(
            self.network, config.lora_rank, config.lora_alpha, config.lora_targets, seed_for(config.seed, "lora")
        )
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=0.0)

    def step(self, prompts: Sequence[str], step: int) -> float:
        """`GROUP` clips of each prompt, and one optimizer step; returns the mean reward."""
        clips = [prompt for prompt in prompts for _ in range(GROUP)]
        batches = [
            self._sample(clips[start : start + self.config.batch], step, start)
            for start in range(0, len(clips), self.config.batch)
        ]
        total = torch.cat([batch[-1] for batch in batches])
        advantages = group_advantages(total, total.isfinite(), GROUP, limit=5.0).value.split(self.config.batch)
        for (condition, path, log_probs, _), advantage in zip(batches, advantages, strict=True):
            empty = self.generator.unconditional(len(advantage))
            for index, log_prob in enumerate(log_probs):
                velocity = self._velocity(path[index], index, condition, empty)
                mean, std = self._transition(path[index], velocity, index)
                with torch.no_grad(), lora.reference(self.network):
                    reference, _ = self._transition(
                        path[index], self._velocity(path[index], index, condition, empty), index
                    )
                log_ratio = flow.log_prob(path[index + 1], mean, std) - log_prob
                loss = objectives.clipped_surrogate(log_ratio, advantage, CLIP_RANGE)
                loss = loss + KL_WEIGHT * objectives.latent_kl(mean, reference, std)
                (loss.mean() / len(log_probs) / len(batches)).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(total.mean())

    @torch.no_grad()
    def _sample(
        self, clips: Sequence[str], step: int, start: int
    ) -> tuple[Condition, list[Tensor], list[Tensor], Tensor]:
        condition, empty = self.generator.encode_prompts(clips), self.generator.unconditional(len(clips))
        rng = [torch_generator(self.seed, "plain", step, start + row) for row in range(len(clips))]
        latents = sampler.initial_noise(
            self.generator, [seed_for(self.seed, "plain", step, start + row) for row in range(len(clips))]
        )
        path, log_probs = [latents], []
        for index in range(self.num_steps):
            velocity = self._velocity(latents, index, condition, empty)
            if index < self.num_steps - 1:
                mean, std = self._transition(latents, velocity, index)
                latents = mean + std * torch.stack([torch.randn(mean.shape[1:], generator=one) for one in rng])
                log_probs.append(flow.log_prob(latents, mean, std))
            else:
                schedule = self.generator.schedule(self.num_steps)
                levels = schedule.at(torch.full((len(clips),), index))
                latents, _ = flow.transition("ode", latents, velocity, *levels, 0.0, sigma_max=schedule.sigma_max)
            path.append(latents)
        return condition, path, log_probs, self.reward(self.generator.decode(latents), list(clips)).total

    def _velocity(self, latents: Tensor, index: int, condition: Condition, empty: Condition) -> Tensor:
        steps = torch.full((len(latents),), index)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.generator.predict(
                latents, steps, self.generator.schedule(self.num_steps), condition, empty, self.guidance
            )

    def _transition(self, latents: Tensor, velocity: Tensor, index: int) -> tuple[Tensor, Tensor]:
        schedule = self.generator.schedule(self.num_steps)
        levels = schedule.at(torch.full((len(latents),), index))
        return flow.transition("flow", latents, velocity, *levels, 0.7, sigma_max=schedule.sigma_max)
