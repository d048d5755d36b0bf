"""What one round of sampling leaves behind: sampled groups with rewards, and the pieces the loss is computed on.

`roll_out` is shared by every algorithm that learns from its own samples: groups of clips per prompt, decoded and judged
under no_grad. An algorithm adds advantages and gets an `Experience`, whose rows are cut into `Part`s.

A part holds one denoising step of the very clips that were sampled in one forward. Several steps in one forward cost
as much, and the shape of a batch can decide the order of additions in a matrix product. Measured on the native model
(CPU): replay in the sampled shape gives a ratio of exactly 1 in fp32 and in bf16; other shapes mostly do as well, but
replaying clip by clip moved it by 1e-7 (fp32) and 3e-6 (bf16).
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from align.advantages import Advantages
from align.policy import Policy
from base_model import flow, sampler
from base_model.protocol import Condition, take
from core.errors import UserError
from core.randomness import seed_for, torch_generator

if TYPE_CHECKING:
    from reward.protocol import Reward


@dataclass(frozen=True)
class Rollout:
    """Sampled and judged clips: `trajectory` and `condition` of this process's `rows`, the rest of everybody's.

    reward [n]: higher is better, whatever the reward itself says; valid [n]: whether it is finite.
    """

    trajectory: sampler.Trajectory
    condition: Condition
    prompts: list[str]
    rows: range
    reward: Tensor
    valid: Tensor
    metrics: dict[str, float]


@dataclass(frozen=True)
class Part:
    """Rows to compute one loss on; `share` is their part of the optimizer step."""

    clean: Tensor
    before: Tensor
    after: Tensor
    mean: Tensor
    log_prob: Tensor
    step: Tensor
    condition: Condition
    advantage: Tensor
    weight: Tensor
    extra: dict[str, Tensor]
    share: float


@dataclass(frozen=True)
class Experience:
    """This process's samples, ready for the loss, and what to log about them.

    num_sampled: clips that this process has drawn for it, which may be more than are learned from.
    extra: what one algorithm needs beyond the common, each [n, S, ...] as the trajectory is.
    """

    trajectory: sampler.Trajectory
    condition: Condition
    advantage: Tensor
    weight: Tensor
    metrics: dict[str, float]
    num_sampled: int
    extra: dict[str, Tensor] = field(default_factory=dict)

    def take(self, index: Tensor) -> "Experience":
        """The clips at `index` (long tensor), in its order."""
        path = self.trajectory
        return replace(
            self,
            trajectory=sampler.Trajectory(
                latents=path.latents[index],
                steps=path.steps,
                before=path.before[index],
                after=path.after[index],
                mean=path.mean[index],
                log_prob=path.log_prob[index],
            ),
            condition=take(self.condition, index),
            advantage=self.advantage[index],
            weight=self.weight[index],
            extra=take(self.extra, index),
        )

    def parts(self, batch: int, update: int, updates: int) -> Iterator[Part]:
        """The parts of optimizer step `update` of `updates`: whole forwards of `batch` clips, one denoising step each.

        Raises: UserError if there are fewer forwards than updates.
        """
        count = len(self.advantage)
        starts = range(0, count, batch)
        if updates > len(starts):
            raise UserError(
                f"{updates} updates need as many batches of samples, but {count} samples make {len(starts)}"
            )
        mine = starts[update * len(starts) // updates : (update + 1) * len(starts) // updates]
        rows_in_update = sum(min(batch, count - start) for start in mine)
        path = self.trajectory
        for start in mine:
            rows = slice(start, start + batch)
            size = min(batch, count - start)
            for index, step in enumerate(path.steps):
                yield Part(
                    clean=path.latents[rows],
                    before=path.before[rows, index],
                    after=path.after[rows, index],
                    mean=path.mean[rows, index],
                    log_prob=path.log_prob[rows, index],
                    step=step.expand(size),
                    condition=take(self.condition, rows),
                    advantage=self.advantage[rows],
                    weight=self.weight[rows],
                    extra={name: value[rows, index] for name, value in self.extra.items()},
                    share=size / (rows_in_update * len(path.steps)),
                )


def experience(rollout: Rollout, advantages: Advantages) -> Experience:
    """This process's rows of `rollout` with their advantages."""
    device = rollout.trajectory.latents.device
    rows = slice(rollout.rows.start, rollout.rows.stop)
    return Experience(
        trajectory=rollout.trajectory,
        condition=rollout.condition,
        advantage=advantages.value[rows].to(device),
        weight=advantages.weight[rows].to(device),
        metrics=rollout.metrics | {"align/dead_groups": advantages.dead},
        num_sampled=len(rollout.rows),
    )


@dataclass(frozen=True)
class Verdict:
    """Everybody's scores in global order, and what to log about them.

    reward, valid [n]: as in `Rollout`. slope: d reward / d latents of this process's rows if it was asked for, 0 where
    the reward is not finite.
    """

    reward: Tensor
    valid: Tensor
    slope: Tensor | None
    metrics: dict[str, float]


def judge(
    policy: Policy,
    reward: "Reward",
    latents: Tensor,
    prompts: Sequence[str],
    rows: range,
    step: int,
    with_slope: bool = False,
) -> Verdict:
    """Decode and judge this process's clean `latents`, which are the `rows` of everybody's `prompts`.

    Raises: UserError if the reward fails, or if no reward at all is finite.
    """
    mine = [prompts[row] for row in rows]
    total, components, slope, judging = _scores(policy, reward, latents, mine, with_slope)
    names = list(components)
    table = torch.stack([total, *(components[name] for name in names)], 1).to(policy.accelerator.device)
    table = policy.accelerator.gather(table).double().cpu()
    scores, valid = table[:, 0], table[:, 0].isfinite()
    for row in (~valid).nonzero().flatten().tolist() if policy.accelerator.is_main_process else ():
        logging.getLogger(__name__).warning(
            "reward %s gave %s for sample %d of step %d (prompt '%s'); the sample is left out",
            reward.name, float(scores[row]), row, step + 1, prompts[row],
        )  # fmt: skip
    if not valid.any():
        raise UserError(
            f"reward '{reward.name}' gave no finite value for any of the {len(prompts)} samples of step {step + 1} "
            f"(first prompt: '{prompts[0]}'); check the reward on a few clips with `soralign reward score`"
        )
    metrics = {
        "reward/total": float(scores[valid].mean()),
        "reward/std": float(scores[valid].std(correction=0)),
        "reward/masked": float((~valid).sum()),
        "time/reward_seconds": judging,
    }
    for column, name in enumerate(names, start=1):
        values = table[:, column]
        if (good := values[values.isfinite()]).numel():
            metrics[f"reward/{name}"] = float(good.mean())
    sign = 1.0 if reward.higher_is_better else -1.0
    if slope is not None:
        kept = valid[rows.start : rows.stop].reshape(-1, *[1] * (slope.dim() - 1)).to(slope.device)
        slope = torch.where(kept, sign * slope, 0.0)
    return Verdict(sign * scores, valid, slope, metrics)


def roll_out(
    policy: Policy,
    reward: "Reward",
    prompts: Sequence[str],
    *,
    group_size: int,
    seed: int,
    step: int,
    kind: flow.Kind = "ode",
    eta: float = 0.0,
    window: range | None = None,
    same_noise: bool = False,
) -> Rollout:
    """Sample `group_size` clips per prompt with the policy and judge them.

    The clips are numbered over all processes and every number has its own random generator, so the samples do not
    depend on how many processes share the work; a group may span processes.

    Raises: UserError if the samples do not divide over the processes, or if no reward at all is finite.
    """
    everyone = [prompt for prompt in prompts for _ in range(group_size)]
    rank, world = policy.accelerator.process_index, policy.accelerator.num_processes
    rows = rows_of(len(prompts), group_size, rank, world)
    mine = [everyone[row] for row in rows]

    begin = time.perf_counter()
    noise_index = [row // group_size if same_noise else row for row in rows]
    noise = sampler.initial_noise(
        policy.generator, [seed_for(seed, "training clip", step, index) for index in noise_index]
    )
    rng = [torch_generator(seed, "exploration", step, row) for row in rows]
    condition = policy.condition(mine)
    trajectory = policy.sample(condition, noise, kind=kind, eta=eta, window=window, rng=rng)
    verdict = judge(policy, reward, trajectory.latents, everyone, rows, step)
    elapsed = time.perf_counter() - begin
    metrics = verdict.metrics | {"time/sample_seconds": elapsed - verdict.metrics["time/reward_seconds"]}
    return Rollout(trajectory, condition, everyone, rows, verdict.reward, verdict.valid, metrics)


def rows_of(num_prompts: int, group_size: int, rank: int, world: int) -> range:
    """The samples that process `rank` of `world` draws. Raises: UserError if they do not divide evenly."""
    count = num_prompts * group_size
    if count % world:
        raise UserError(
            f"{num_prompts} prompts x group_size {group_size} = {count} samples do not divide over {world} processes; "
            "choose a prompts_per_step that does"
        )
    share = count // world
    return range(rank * share, (rank + 1) * share)


def _scores(
    policy: Policy, reward: "Reward", latents: Tensor, prompts: Sequence[str], with_slope: bool
) -> tuple[Tensor, dict[str, Tensor], Tensor | None, float]:
    """(total [n], components, d total / d latents, seconds the reward took), `policy.batch` clips at a time."""
    totals: list[Tensor] = []
    components: dict[str, list[Tensor]] = {}
    slopes: list[Tensor] = []
    seconds = 0.0
    for start in range(0, len(latents), policy.batch):
        rows = slice(start, start + policy.batch)
        with torch.set_grad_enabled(with_slope):
            clean = latents[rows].detach().requires_grad_(with_slope)
            frames = policy.generator.decode(clean)
            begin = time.perf_counter()
            try:
                score = reward(frames, list(prompts[rows]))
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"reward '{reward.name}' failed on {len(frames)} clips of shape {tuple(frames.shape)}, first "
                    f"prompt '{prompts[rows][0]}': {type(error).__name__}: {error} (--debug shows where)"
                ) from error
            seconds += time.perf_counter() - begin
        if with_slope:
            if not score.total.requires_grad:
                raise UserError(f"reward '{reward.name}' says it is differentiable but its score carries no gradient")
            slopes += torch.autograd.grad(score.total.sum(), clean)
        totals.append(score.total.detach().float().cpu())
        for name, value in score.parts.items():
            if name != "total":
                components.setdefault(name, []).append(value.detach().float().cpu())
    joined = {name: torch.cat(values) for name, values in components.items()}
    return torch.cat(totals), joined, torch.cat(slopes) if slopes else None, seconds
