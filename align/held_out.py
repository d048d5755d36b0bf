"""Judges that the policy is not trained on, and the warning that it has begun to please its reward and nothing else.

A policy climbs its own reward as long as it can; whether the clips get better, only somebody else can say. The same
clips (prompts that are not trained on, noise that never changes) are sampled every few steps and shown to the held-out
judges and to the training reward. Because the clips pair up from step to step, small changes stand out: the warning
comes when a judge is below its own best by more than two standard errors while the training reward is above what it was
then.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from align.ema import averaging
from align.policy import Policy
from align.scoring import ask
from core.errors import UserError
from core.randomness import seed_for

if TYPE_CHECKING:
    from reward.protocol import Reward

KEY = "judge_best"
CERTAIN = 2.0  # standard errors


@dataclass(frozen=True)
class HeldOut:
    """Who judges what: `count` clips of `prompts`, by `judges` and by the training `reward`."""

    judges: Sequence["Reward"]
    reward: "Reward"
    prompts: Sequence[str]
    count: int

    def check(self) -> None:
        """Raises: UserError for a judge that the policy is trained on, two of one name, or nothing to judge."""
        from reward.mixture import Mixture

        trained = [self.reward, *(self.reward.components.values() if isinstance(self.reward, Mixture) else ())]
        known = {(one.name, one.version) for one in trained}
        for judge in self.judges:
            if (judge.name, judge.version) in known:
                raise UserError(
                    f"judge '{judge.name}' is what the policy is trained on, so it judges nothing; choose another"
                )
        names = [judge.name for judge in self.judges]
        if len(set(names)) < len(names):
            raise UserError(f"two judges have one name ({', '.join(names)}); give every judge once")
        if self.judges and (not self.prompts or self.count < 2):
            raise UserError("held-out judges need at least 2 clips (judge_clips) and a prompt that is not trained on")

    def judge(self, policy: Policy, seed: int, step: int) -> dict[str, float]:
        """What to log; `align/over_optimised` is 1 when some judge went down while the reward went up.

        Every process must call it; the first one judges and the others get an empty answer.
        """
        if not self.judges:
            return {}
        prompts = [self.prompts[index % len(self.prompts)] for index in range(self.count)]
        seeds = [seed_for(seed, "judged clip", index) for index in range(self.count)]
        scores: dict[str, list[Tensor]] = {}
        with averaging(policy):
            first = 0
            for frames in policy.generate(prompts, seeds):
                part = prompts[first : first + len(frames)]
                first += len(frames)
                for one in (self.reward, *self.judges) if policy.accelerator.is_main_process else ():
                    sign = 1.0 if one.higher_is_better else -1.0
                    with torch.no_grad():
                        total = ask(one, frames, part).total.detach().double().cpu()
                    scores.setdefault("" if one is self.reward else one.name, []).append(sign * total)
        if not scores:
            return {}
        totals = {name: torch.cat(values) for name, values in scores.items()}
        return self._compare(policy, totals, step)

    def _compare(self, policy: Policy, totals: dict[str, Tensor], step: int) -> dict[str, float]:
        proxy = totals.pop("")
        logged = {"judge/trained_reward": _mean(proxy) * (1.0 if self.reward.higher_is_better else -1.0)}
        worse = []
        best: dict[str, dict[str, Tensor]] = policy.memory.setdefault(KEY, {})
        for judge in self.judges:
            total = totals[judge.name]
            logged[f"judge/{judge.name}"] = _mean(total) * (1.0 if judge.higher_is_better else -1.0)
            peak = best.get(judge.name)
            if peak is None or _mean(total) > _mean(peak["judge"]):
                best[judge.name] = {"judge": total, "reward": proxy}
            elif change(peak["judge"], total) < -CERTAIN and change(peak["reward"], proxy) > CERTAIN:
                worse.append(judge.name)
        logged["align/over_optimised"] = float(bool(worse))
        if worse:
            logging.getLogger(__name__).warning(
                "step %d: the reward still rises while %s, which the policy is not trained on, has fallen from its "
                "best; stop here or raise kl_weight",
                step, ", ".join(worse),
            )  # fmt: skip
        return logged


def change(before: Tensor, after: Tensor) -> float:
    """Mean paired change from `before` to `after` [n] in its standard errors; pairs with a NaN are left out."""
    difference = after - before
    difference = difference[difference.isfinite()]
    if len(difference) < 2:
        return 0.0
    mean, error = float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))
    if error > 0:
        return mean / error
    return math.copysign(math.inf, mean) if mean else 0.0


def _mean(total: Tensor) -> float:
    good = total[total.isfinite()]
    return float(good.mean()) if len(good) else math.nan
