"""DPO on denoising models: learn from pairs which of two clips is better, without a reward in between.

A pair is noised with the same noise at the same levels, and the policy is asked to predict the better clip more exactly
than the reference does, and the worse one less. Pairs come from a preference store (`store`, offline: what people said
is learned from directly), or are the best and the worst of every group of own samples (online).

A preference among votes may be divided: a pair counts as its share of votes says, ties half; evenly split pairs teach
nothing and are left out.

Left out: a weight of the noise level (the published loss has one and every implementation drops it: with it, high noise
is over-optimised, VideoAlign section 4).
Source: Wallace et al. 2023 (Diffusion-DPO, eq. 14); Liu et al. 2025 (VideoAlign, Flow-DPO); shares of votes as in
conservative DPO (Mitchell 2023).
"""

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from align import objectives
from align.advantages import group_advantages
from align.experience import Experience, Part, check_groups, experience, roll_out, rows_of
from align.policy import Policy
from align.renoise import check_levels, renoised, target
from core import video
from core.cli import option
from core.errors import UserError
from core.preferences import existing
from core.preferences_types import WHICH_PROJECT
from core.randomness import walk
from reward.protocol import Scores

if TYPE_CHECKING:
    from reward.protocol import Reward

SHARE = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


@dataclass(frozen=True)
class Choice:
    """Two videos of one prompt; share: of the votes for `chosen`, above 1/2 up to 1."""

    prompt: str
    chosen: Path
    rejected: Path
    share: float


@dataclass(frozen=True)
class Votes:
    """Stands in the reward's place where only votes are learned from: a reward that has a score for no clip."""

    name: str = "votes"
    version: str = "1"
    unit: str = ""
    range: tuple[float, float] = (-math.inf, math.inf)
    higher_is_better: bool = True
    differentiable: bool = False
    aspects: tuple[str, ...] = ()

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        return Scores(torch.full((len(frames),), math.nan), {})


@dataclass(frozen=True)
class DPO:
    """Settings of DPO. Velocity errors are means over latent elements, and `beta` is in their unit."""

    store: str = option("", "preference store to learn from; empty = best against worst of own samples")
    project: str | None = option(None, WHICH_PROJECT)
    aspect: str = option("overall", "which votes count (store)")
    pairs_per_step: int = option(32, "pairs per training step, over all processes (store)")
    group_size: int = option(8, "clips per prompt and step, of which the best and the worst are used (no store)")
    levels: int = option(2, "noise levels per pair at which it is compared, spread over the schedule")
    beta: float = option(
        1000.0, "how strongly the reference holds: a margin of 2 / beta in velocity error is a choice at odds of e"
    )

    def check(self, policy: Policy, reward: "Reward") -> None:
        check_levels(policy, self.levels, "dpo")
        if not self.beta > 0:
            raise UserError(f"beta {self.beta} must be above 0; 100 to 5000 are in use")
        if policy.batch % 2:
            raise UserError(f"batch {policy.batch} would part a pair; use an even number")
        if self.store:
            count, world = self.pairs_per_step, policy.world
            if count < 1 or count % world:
                raise UserError(f"pairs_per_step {count} does not divide over {world} processes")
            choices(self.store, self.project, self.aspect)
        else:
            check_groups(policy, self.group_size, picks=True)

    def modules(self, policy: Policy) -> dict[str, nn.Module]:
        return {}

    def learned(self, prompts: int) -> int:
        return 2 * (self.pairs_per_step if self.store else prompts)

    def collect(self, policy: Policy, reward: "Reward", prompts: Sequence[str], seed: int, step: int) -> Experience:
        if self.store:
            return self._from_store(policy, seed, step)
        rollout = roll_out(policy, reward, prompts, group_size=self.group_size, seed=seed, step=step)
        advantages = group_advantages(rollout.reward, rollout.valid, self.group_size, limit=math.inf)
        collected = experience(rollout, advantages).subset(self.group_size, best=1, worst=1)
        certain = torch.tensor([1.0, -1.0]).repeat(len(collected.rows) // 2).to(collected.advantage)
        numbers = [row // self.group_size for row in collected.rows]
        path = renoised(policy, collected.trajectory.latents, self.levels, seed, step, numbers)
        return replace(collected, trajectory=path, advantage=certain)

    def loss(self, policy: Policy, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        reference = policy.reference_velocity(part.before, part.step, part.condition)
        velocity, goal = policy.velocity(part.before, part.step, part.condition), target(policy, part)
        error = objectives.velocity_distance(velocity, goal) - objectives.velocity_distance(reference, goal)
        chosen, rejected = error[::2], error[1::2]
        share = 0.5 + 0.5 * part.advantage[::2]
        per_pair = objectives.preference_loss(chosen, rejected, share, self.beta)
        metrics = {
            "preference_accuracy": (chosen < rejected).float().mean().detach(),
            "chosen_error": chosen.mean().detach(),
            "rejected_error": rejected.mean().detach(),
        }
        return (part.weight[::2] * per_pair).mean(), metrics

    def _from_store(self, policy: Policy, seed: int, step: int) -> Experience:
        """Pairs of the store as experience: chosen and rejected in turns, the advantage saying how surely."""
        begin = time.perf_counter()
        known, count = choices(self.store, self.project, self.aspect), self.pairs_per_step
        rows = rows_of(count, 1, policy.rank, policy.world)
        numbers = walk(len(known), step * count + rows.start, len(rows), seed, "pair order")
        mine = [known[number] for number in numbers]
        clean = encoded(policy, [path for choice in mine for path in (choice.chosen, choice.rejected)])
        path = renoised(policy, clean, self.levels, seed, step, [row for row in rows for _ in range(2)])
        certainty = torch.tensor([2.0 * choice.share - 1.0 for choice in mine])
        return Experience(
            trajectory=path,
            condition=policy.condition([choice.prompt for choice in mine for _ in range(2)]),
            advantage=torch.stack([certainty, -certainty], 1).flatten().to(clean),
            weight=torch.ones(len(clean)).to(clean),
            rows=range(2 * rows.start, 2 * rows.stop),
            metrics={"time/sample_seconds": time.perf_counter() - begin},
            num_sampled=0,
        )


@lru_cache(maxsize=1)
def choices(store: str, project: str | None, aspect: str) -> tuple[Choice, ...]:
    """The pairs of a preference store's project (None: its first) whose votes on `aspect` prefer one side.

    Raises: UserError if there is no such store, project, aspect or pair.
    """
    opened = existing(store, project)
    if aspect not in opened.aspects:
        raise UserError(f"aspect '{aspect}' is not asked in '{store}'; known: {', '.join(opened.aspects)}")
    shares: dict[tuple[str, Path, Path], list[float]] = defaultdict(list)
    for vote in opened.votes(aspect):
        if vote.choice in SHARE:
            shares[vote.prompt, vote.video_a, vote.video_b].append(SHARE[vote.choice])
    found = []
    for (prompt, a, b), given in shares.items():
        share = sum(given) / len(given)
        if share != 0.5:
            found.append(Choice(prompt, a, b, share) if share > 0.5 else Choice(prompt, b, a, 1.0 - share))
    if not found:
        raise UserError(f"'{store}' has no pair on which the votes on '{aspect}' prefer one side ({len(shares)} pairs)")
    return tuple(found)


@torch.no_grad()
def encoded(policy: Policy, paths: Sequence[Path]) -> Tensor:
    """Latents [len(paths), ...] of video files, `policy.batch` at a time.

    Raises: UserError for a file that cannot be read or does not have the generator's size.
    """
    size = policy.generator.size
    expected = (size.num_frames, 3, size.height, size.width)
    latents = []
    for start in range(0, len(paths), policy.batch):
        clips = []
        for path in paths[start : start + policy.batch]:
            frames = torch.from_numpy(video.read(path).frames)
            if tuple(frames.shape) != expected:
                raise UserError(
                    f"'{path}' has frames of shape {list(frames.shape)}, this generator makes {list(expected)}; "
                    "offline DPO needs pairs of the size that is trained"
                )
            clips.append(frames)
        latents.append(policy.generator.encode(torch.stack(clips).to(policy.accelerator.device)).float())
    return torch.cat(latents)
