"""Reward gradients: where the reward can be differentiated, follow its slope through the last denoising steps.

One clip teaches as much as its reward has slopes, not as one number, so far fewer clips are needed than by any method
that only compares; in exchange the policy finds whatever the reward likes by mistake sooner. Three ways to say which
part of sampling carries the gradient:

    draft      the last `last_steps` steps (DRaFT-K; all of them is the full chain)
    draft-lv   the last step, of the clip and of `redraws` copies that were noised again (less noise in the gradient)
    refl       a jump from a late step, drawn anew in every training step, straight to the predicted clip (ReFL)

The chain rule is cut at the clean latents. `collect` samples without a graph, decodes, judges and keeps
d reward / d latents; `loss` runs the last steps again with a graph and multiplies. The gradient is the same as through
everything at once, but the graphs of decoder and transformer never lie in memory together.

Left out: gradients through the noisy steps of an SDE.
Source: Clark et al. 2023 (DRaFT, algorithm 1); Prabhudesai et al. 2023, 2024 (AlignProp, VADER); Xu et al. 2023
(ImageReward, ReFL; `ceiling` is its hinge).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from align.experience import Experience, Part, rows_of
from align.policy import Policy
from align.reference import check_held, held_velocity
from align.scoring import Verdict, judge
from base_model import flow, sampler
from base_model.protocol import Condition, take
from core.cli import option
from core.errors import UserError
from core.randomness import numpy_generator, seed_for, torch_generator

if TYPE_CHECKING:
    from reward.protocol import Reward


@dataclass(frozen=True)
class RewardGradient:
    """Settings of reward gradients; one clip per prompt. Only the first update of a step has exact slopes."""

    variant: Literal["draft", "draft-lv", "refl"] = option("draft", "which steps carry the gradient")
    last_steps: int = option(1, "denoising steps with gradient, counted from the end (draft)")
    redraws: int = option(2, "copies of a clip that are noised again (draft-lv)")
    earliest_step: int = option(0, "first denoising step to jump from; 0 = the second half of them (refl)")
    ceiling: float | None = option(None, "no slope beyond this reward, in its unit; none = climb on")
    kl_weight: float = option(0.0, "weight of the squared velocity difference to the reference (adapters off)")

    def check(self, policy: Policy, reward: "Reward") -> None:
        if not reward.differentiable:
            raise UserError(
                f"reward '{reward.name}' says it is not differentiable, so it has no gradient to follow; "
                "use grpo or nft, which only compare"
            )
        check_held(self.kl_weight)
        policy.check_single_steps()
        rows_of(policy.prompts_per_step, 1, policy.rank, policy.world)
        steps = policy.num_steps
        if not 1 <= self.last_steps <= steps:
            raise UserError(f"last_steps {self.last_steps} must be in 1..{steps}, the number of denoising steps")
        if not 0 <= self.earliest_step < steps:
            raise UserError(f"earliest_step {self.earliest_step} must be in 0..{steps - 1}, the denoising steps")
        if self.redraws < 1:
            raise UserError(f"redraws {self.redraws} must be 1 or more; 2 is usual")
        if self.variant != "draft" and policy.generator.family != "flow":
            raise UserError(f"{self.variant} needs a model of family 'flow', this one is 'vp'; use variant draft")

    def modules(self, policy: Policy) -> dict[str, nn.Module]:
        return {}

    def learned(self, prompts: int) -> int:
        return prompts

    def collect(self, policy: Policy, reward: "Reward", prompts: Sequence[str], seed: int, step: int) -> Experience:
        begin = time.perf_counter()
        rows = rows_of(len(prompts), 1, policy.rank, policy.world)
        condition = policy.condition([prompts[row] for row in rows])
        seeds = [seed_for(seed, "training clip", step, row) for row in rows]
        noise = policy.begun(condition, sampler.initial_noise(policy.generator, seeds))
        first = self._first_step(policy.num_steps, seed, step)
        drawn = [self._draw(policy, noise, condition, 0, first)]
        sigma = policy.schedule.sigma[first]
        for copy in range(self.redraws if self.variant == "draft-lv" else 0):
            draws = [torch_generator(seed, "redraw", step, row, copy) for row in rows]
            fresh = torch.stack([torch.randn(noise.shape[1:], generator=one) for one in draws]).to(noise)
            again = flow.interpolate(drawn[0][1], fresh, sigma)
            drawn.append(self._draw(policy, again, condition, first, first))
        starts, results = zip(*drawn, strict=True)
        elapsed = time.perf_counter() - begin

        verdicts = [judge(policy, reward, clean, prompts, rows, step, with_slope=True) for clean in results]
        path = sampler.Trajectory(
            latents=results[0],
            steps=torch.full((len(starts),), first, device=noise.device),
            before=torch.stack(starts, 1),
            after=torch.stack(results, 1),
            mean=torch.stack(results, 1),
            log_prob=noise.new_zeros(len(noise), len(starts)),
        )
        even = noise.new_ones(len(noise))
        return Experience(
            trajectory=path,
            condition=condition,
            advantage=torch.zeros_like(even),
            weight=even,
            rows=rows,
            metrics=verdicts[0].metrics | {"time/sample_seconds": elapsed},
            num_sampled=len(rows),
            extra={"slope": torch.stack([self._slope(verdict, reward, rows) for verdict in verdicts], 1)},
        )

    def loss(self, policy: Policy, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        velocity, pull, logged = held_velocity(policy, part, self.kl_weight)
        clean = self._finish(policy, part.before, velocity, part.condition, int(part.step[0]))
        slope = part.extra["slope"]
        # The predicted gain of reward: 0 before the update, and its derivative is the reward's.
        per_sample = -(slope * (clean - part.after)).flatten(1).sum(1)
        metrics = {"reward_slope": slope.flatten(1).norm(dim=1).mean()}
        return (per_sample + pull).mean(), metrics | logged

    def _slope(self, verdict: Verdict, reward: "Reward", rows: range) -> Tensor:
        """d reward / d clean latents of this process's clips, 0 above the ceiling."""
        assert verdict.slope is not None
        if self.ceiling is None:
            return verdict.slope
        limit = self.ceiling if reward.higher_is_better else -self.ceiling
        below = (verdict.reward[rows.start : rows.stop] < limit).to(verdict.slope.device)
        return verdict.slope * below.reshape(-1, *[1] * (verdict.slope.dim() - 1))

    def _first_step(self, num_steps: int, seed: int, step: int) -> int:
        """The denoising step at which the gradient begins."""
        if self.variant == "refl":
            earliest = self.earliest_step or num_steps // 2
            return int(numpy_generator(seed, "jump", step).integers(earliest, num_steps))
        return num_steps - (self.last_steps if self.variant == "draft" else 1)

    @torch.no_grad()
    def _draw(
        self, policy: Policy, latents: Tensor, condition: Condition, begin: int, first: int
    ) -> tuple[Tensor, Tensor]:
        """(latents before step `first`, clean result), walking there from before step `begin`, batch by batch."""
        starts, results = [], []
        for row in range(0, len(latents), policy.batch):
            rows = slice(row, row + policy.batch)
            now, given = latents[rows], take(condition, rows)
            for index in range(begin, first):
                now = _moved(policy, now, _velocity(policy, now, given, index), index)
            starts.append(now)
            results.append(self._finish(policy, now, _velocity(policy, now, given, first), given, first))
        return torch.cat(starts), torch.cat(results)

    def _finish(self, policy: Policy, latents: Tensor, velocity: Tensor, condition: Condition, first: int) -> Tensor:
        """Clean latents from those before step `first`, where the policy says `velocity`."""
        if self.variant == "refl":
            return flow.denoised(latents, velocity, policy.schedule.sigma[first])
        latents = _moved(policy, latents, velocity, first)
        for index in range(first + 1, policy.num_steps):
            latents = _moved(policy, latents, _velocity(policy, latents, condition, index), index)
        return latents


def _velocity(policy: Policy, latents: Tensor, condition: Condition, index: int) -> Tensor:
    return policy.velocity(latents, torch.full((len(latents),), index, device=latents.device), condition)


def _moved(policy: Policy, latents: Tensor, velocity: Tensor, index: int) -> Tensor:
    """`latents` after the deterministic denoising step `index`."""
    kind: flow.Kind = "ddim" if policy.generator.family == "vp" else "ode"
    step = torch.full((len(latents),), index, device=latents.device)
    return flow.transition(kind, latents, velocity, *policy.schedule.at(step), 0.0)[0]
