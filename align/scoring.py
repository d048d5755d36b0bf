"""Decode and judge: from this process's clean latents to everybody's rewards, and what the clips look like.

Decoding and judging a batch may run in a thread beside the sampling of the next one (`policy.overlap`): that pays where
the two do not share a processor, on a GPU or with a reward behind HTTP. One thread takes the batches in their order, so
every reward sees the same calls either way and no bit of the result changes.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from align import health
from align.advantages import mixed_by_group
from align.policy import Policy
from core.errors import UserError

if TYPE_CHECKING:
    from reward.protocol import Reward, Scores


@dataclass(frozen=True)
class Scored:
    """One judged batch, on the CPU: total [n], components, `health.look` [n, look], d total / d latents if asked."""

    total: Tensor
    components: dict[str, Tensor]
    look: Tensor
    slope: Tensor | None
    decode_seconds: float
    reward_seconds: float


@dataclass(frozen=True)
class Verdict:
    """Everybody's scores in global order, and what to log about them.

    reward [n]: higher is better; what clips of a group are compared by, several rewards mixed as `policy.mix` says.
    total [n]: the reward's own total, higher is better. valid [n]: whether it is finite.
    slope: d total / d latents of this process's rows if it was asked for, 0 where the reward is not finite.
    """

    reward: Tensor
    total: Tensor
    valid: Tensor
    slope: Tensor | None
    metrics: dict[str, float]


class Scorer:
    """Takes batches as they are sampled, gives back their scores: `with Scorer(...) as scorer: scorer.add(...)`."""

    def __init__(self, policy: Policy, reward: "Reward") -> None:
        self._policy, self._reward = policy, reward
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward") if policy.overlap else None
        on_gpu = policy.overlap and policy.accelerator.device.type == "cuda"
        self._stream = torch.cuda.Stream(policy.accelerator.device) if on_gpu else None
        self._results: list[Scored | Future[Scored]] = []

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def add(self, latents: Tensor, prompts: Sequence[str]) -> None:
        """Judge a batch, now or beside what comes next."""
        if self._pool is None:
            self._results.append(_score(self._policy, self._reward, latents, prompts))
        else:
            sampled = torch.cuda.current_stream().record_event() if self._stream is not None else None
            self._results.append(self._pool.submit(self._beside, sampled, latents, prompts))

    def scores(self) -> list[Scored]:
        """The scores of all batches in order. Raises: whatever the reward raised."""
        return [one.result() if isinstance(one, Future) else one for one in self._results]

    def _beside(self, sampled: "torch.cuda.Event | None", latents: Tensor, prompts: Sequence[str]) -> Scored:
        stream: AbstractContextManager[object] = nullcontext()
        if self._stream is not None and sampled is not None:
            self._stream.wait_event(sampled)
            stream = torch.cuda.stream(self._stream)
        with stream:
            return _score(self._policy, self._reward, latents, prompts)


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
    scores = [
        _score(policy, reward, latents[start : start + policy.batch], mine[start : start + policy.batch], with_slope)
        for start in range(0, len(latents), policy.batch)
    ]
    return verdict(policy, reward, scores, prompts, rows, step)


def verdict(
    policy: Policy,
    reward: "Reward",
    scores: Sequence[Scored],
    prompts: Sequence[str],
    rows: range,
    step: int,
    group_size: int = 1,
) -> Verdict:
    """What this process's `scores` and those of the others say of everybody's `prompts`.

    Raises: UserError if no reward at all is finite.
    """
    names = list(scores[0].components)
    columns = [[one.total, *(one.components[name] for name in names)] for one in scores]
    table = torch.cat([torch.cat([torch.stack(c, 1), one.look], 1) for c, one in zip(columns, scores, strict=True)])
    table = policy.gather(table.to(policy.accelerator.device)).cpu()
    values, look = table[:, : 1 + len(names)].double(), table[:, 1 + len(names) :]
    total = values[:, 0]
    parts = {name: values[:, column] for column, name in enumerate(names, start=1)}
    weights = policy.mix_weights(reward) if group_size > 1 else {}
    valid = torch.stack([total, *(parts[name] for name in weights)]).isfinite().all(0)
    _name_broken(policy, reward, total, valid, prompts, step)

    sign = 1.0 if reward.higher_is_better else -1.0
    mixed = sign * total
    if weights:
        terms = torch.stack([parts[name] for name in weights], 1)
        mixed = mixed_by_group(terms, torch.tensor(list(weights.values())), valid, group_size)
    metrics = {
        "reward/total": float(total[valid].mean()),
        "reward/std": float(total[valid].std(correction=0)),
        "reward/masked": float((~valid).sum()),
        **health.quantiles("reward/", total),
        "time/decode_seconds": sum(one.decode_seconds for one in scores),
        "time/reward_seconds": sum(one.reward_seconds for one in scores),
        **health.looks(look, group_size),
    }
    for name, column in parts.items():
        if (good := column[column.isfinite()]).numel():
            metrics[f"reward/{name}"] = float(good.mean())
            if "/" not in name:  # the parts of a part have their mean only, or a mixture would log a hundred curves
                metrics[f"reward/{name}_std"] = float(good.std(correction=0))
                metrics |= health.quantiles(f"reward/{name}_", good)
    metrics |= policy.by_tag(prompts, total, valid)
    slopes = [one.slope for one in scores if one.slope is not None]
    slope = None
    if slopes:
        slope = torch.cat(slopes)
        kept = valid[rows.start : rows.stop].reshape(-1, *[1] * (slope.dim() - 1)).to(slope.device)
        slope = torch.where(kept, sign * slope, 0.0)
    return Verdict(mixed, sign * total, valid, slope, metrics)


def ask(reward: "Reward", frames: Tensor, prompts: Sequence[str]) -> "Scores":
    """What `reward` says of a batch. Raises: UserError that names the reward, if it fails."""
    try:
        return reward(frames, list(prompts))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"reward '{reward.name}' failed on {len(frames)} clips of shape {tuple(frames.shape)}, first prompt "
            f"'{prompts[0]}': {type(error).__name__}: {error} (--debug shows where)"
        ) from error


def _name_broken(
    policy: Policy, reward: "Reward", total: Tensor, valid: Tensor, prompts: Sequence[str], step: int
) -> None:
    """A word about every sample without a reward. Raises: UserError if all are."""
    if not valid.any():
        raise UserError(
            f"reward '{reward.name}' gave no finite value for any of the {len(prompts)} samples of step {step + 1} "
            f"(first prompt: '{prompts[0]}'); check the reward on a few clips with `soralign reward score`"
        )
    for row in (~valid).nonzero().flatten().tolist() if policy.accelerator.is_main_process else ():
        logging.getLogger(__name__).warning(
            "reward %s gave %s for sample %d of step %d (prompt '%s'); the sample is left out",
            reward.name, float(total[row]), row, step + 1, prompts[row],
        )  # fmt: skip


def _score(
    policy: Policy, reward: "Reward", latents: Tensor, prompts: Sequence[str], with_slope: bool = False
) -> Scored:
    """Decode and judge one batch. Raises: UserError if the reward fails."""
    begin = time.perf_counter()
    with torch.set_grad_enabled(with_slope):
        clean = latents.detach().requires_grad_(with_slope)
        frames = policy.generator.decode(clean)
        decoded = time.perf_counter()
        score = ask(reward, frames, prompts)
    slope = None
    if with_slope:
        if not score.total.requires_grad:
            raise UserError(f"reward '{reward.name}' says it is differentiable but its score carries no gradient")
        (slope,) = torch.autograd.grad(score.total.sum(), clean)
    total = score.total.detach().float().cpu()
    judged = time.perf_counter()
    components = {name: value.detach().float().cpu() for name, value in score.parts.items() if name != "total"}
    return Scored(total, components, health.look(frames.detach()).cpu(), slope, decoded - begin, judged - decoded)
