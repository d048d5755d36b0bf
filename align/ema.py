"""A moving average of the trained weights: what is judged, shown and saved when `ema_decay` is above 0.

Single policy-gradient steps are noisy; their average is the better model and moves more smoothly. It lies in the
policy's memory, so checkpoints carry it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from align.policy import Policy

KEY = "average"


def average(kept: Sequence[Tensor], weights: Sequence[Tensor], decay: float, updates: int) -> list[Tensor]:
    """decay x kept + (1 - decay) x weights; `decay` is lower at first, or the start would stay in for long.

    Args: updates: how many went before. Source: the ramp (1 + n) / (10 + n) of TensorFlow's moving average.
    """
    share = min(decay, (1 + updates) / (10 + updates))
    return [share * a + (1.0 - share) * b for a, b in zip(kept, weights, strict=True)]


def update(policy: Policy, decay: float, updates: int) -> None:
    """Take the present weights into the policy's average; nothing happens for decay 0."""
    if decay > 0:
        weights = policy.weights()
        policy.memory[KEY] = average(policy.memory.get(KEY, weights), weights, decay, updates)


@contextmanager
def averaging(policy: Policy) -> Iterator[None]:
    """Inside, the policy has its average weights, where there is an average."""
    if KEY not in policy.memory:
        yield
        return
    with policy.with_weights(policy.memory[KEY]):
        yield
