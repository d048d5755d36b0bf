"""What one round of sampling leaves behind: sampled groups with rewards, and the pieces the loss is computed on.

`roll_out` is shared by every algorithm that learns from its own samples: groups of clips per prompt, decoded and judged
under no_grad. An algorithm adds advantages and gets an `Experience`, whose rows are cut into `Part`s.

A part holds one denoising step of the very clips that were sampled in one forward. Several steps in one forward cost
as much, and the shape of a batch can decide the order of additions in a matrix product. Measured on the native model
(CPU): replay in the sampled shape gives a ratio of exactly 1 in fp32 and in bf16; other shapes mostly do as well, but
replaying clip by clip moved it by 1e-7 (fp32) and 3e-6 (bf16).
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

from align.advantages import Advantages, best_and_worst
from align.policy import Policy, join
from align.scoring import Scorer, Verdict, verdict
from base_model import flow, sampler
from base_model.protocol import Condition, take
from core.errors import UserError
from core.randomness import seed_for, torch_generator

if TYPE_CHECKING:
    from reward.protocol import Reward


@dataclass(frozen=True)
class Rollout:
    """Sampled and judged clips: `trajectory` and `condition` of this process's `rows`, the rest of everybody's.

    reward [n]: what clips of a group are compared by, higher is better; total [n]: the reward's own total, higher is
    better; they differ where several rewards are mixed by group. valid [n]: whether the reward is finite.
    """

    trajectory: sampler.Trajectory
    condition: Condition
    prompts: list[str]
    rows: range
    reward: Tensor
    total: Tensor
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
    """Samples of this process, ready for the loss, and what to log about them.

    rows: numbers of these clips among everybody's. num_sampled: clips that this process has drawn for it, which may be
    more than are learned from.
    extra: what one algorithm needs beyond the common, each [n, S, ...] as the trajectory is.
    """

    trajectory: sampler.Trajectory
    condition: Condition
    advantage: Tensor
    weight: Tensor
    rows: Sequence[int]
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
            rows=[self.rows[number] for number in index.tolist()],
            extra=take(self.extra, index),
        )

    def subset(self, group_size: int, best: int, worst: int) -> "Experience":
        """The `best` clips of every group and the `worst`, by advantage; whole groups only (`check_groups`)."""
        return self.take(best_and_worst(self.advantage, group_size, best, worst))

    def extremes(self, group_size: int, keep: int) -> "Experience":
        """The `keep` clips of every group that say most: the best half of them and the worst; 0 = all clips."""
        return self.subset(group_size, keep // 2, keep // 2) if keep else self

    def parts(self, batch: int, update: int, updates: int) -> Iterator[Part]:
        """The parts of optimizer step `update` of `updates`: whole forwards of `batch` clips, one denoising step each.

        There must be as many forwards as updates (`setup.check_updates`).
        """
        count = len(self.advantage)
        starts = range(0, count, batch)
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
        rows=rollout.rows,
        metrics=rollout.metrics | {"align/dead_groups": advantages.dead},
        num_sampled=len(rollout.rows),
    )


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
    rows = rows_of(len(prompts), group_size, policy.rank, policy.world)
    mine = [everyone[row] for row in rows]

    noise_index = [row // group_size if same_noise else row for row in rows]
    noise = sampler.initial_noise(
        policy.generator, [seed_for(seed, "training clip", step, index) for index in noise_index]
    )
    rng = [torch_generator(seed, "exploration", step, row) for row in rows]
    begin = time.perf_counter()
    condition = policy.condition(mine)
    parts: list[sampler.Trajectory] = []
    with Scorer(policy, reward) as scorer:
        for part in policy.sample_batches(condition, noise, kind=kind, eta=eta, window=window, rng=rng):
            first = sum(len(one.latents) for one in parts)
            scorer.add(part.latents, mine[first : first + len(part.latents)])
            parts.append(part)
        sampling = time.perf_counter() - begin
        scores = scorer.scores()
    elapsed = time.perf_counter() - begin
    if not policy.overlap:
        sampling -= sum(one.decode_seconds + one.reward_seconds for one in scores)
    judged = verdict(policy, reward, scores, everyone, rows, step, group_size)
    _remember_spread(policy, prompts, judged, group_size)
    metrics = judged.metrics | {"time/sample_seconds": sampling, "time/exposed_seconds": elapsed - sampling}
    return Rollout(join(parts), condition, everyone, rows, judged.reward, judged.total, judged.valid, metrics)


def _remember_spread(policy: Policy, prompts: Sequence[str], judged: Verdict, group_size: int) -> None:
    """Keep how far apart the rewards of every prompt's group were; the curriculum asks for it."""
    spread: dict[str, float] = policy.memory.setdefault("prompt_spread", {})
    for index, prompt in enumerate(prompts):
        rows = slice(index * group_size, (index + 1) * group_size)
        if (good := judged.total[rows][judged.valid[rows]]).numel() > 1:
            spread[prompt] = float(good.std(correction=0))


def check_groups(policy: Policy, group_size: int, smallest: int = 2, keep: int = 0, picks: bool = False) -> None:
    """Refuse groups that cannot be compared or shared.

    Args:
        keep: clips of a group that are learned from, half best and half worst; 0 = all.
        picks: whether the best or worst of a group are picked in another way, which `keep` does too.
    Raises: UserError for a group too small, a `keep` that is no such half, clips that do not divide over the processes,
        or groups cut by them where some clips are picked: a group must then lie in one process.
    """
    if group_size < smallest:
        raise UserError(f"group_size {group_size} must be {smallest} or more; 8 is usual for groups")
    if keep and (keep % 2 or not 2 <= keep <= group_size):
        raise UserError(f"keep {keep} must be even and at most group_size {group_size}, or 0 for all")
    prompts, world = policy.prompts_per_step, policy.world
    rows_of(prompts, group_size, 0, world)
    if (keep or picks) and prompts % world:
        raise UserError(
            f"prompts_per_step {prompts} over {world} processes cuts a group of {group_size}, but the best of a group "
            f"can be picked only where all of it is; use a multiple of {world}"
        )


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
