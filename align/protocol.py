"""What an alignment algorithm is: a frozen dataclass that is its own configuration, with two verbs.

`collect` makes experience with the policy, `loss` judges a part of it; the loop in `train.py` does everything else
and is the same for all. An algorithm that needs networks of its own (a critic) names them in `modules`; they are
trained, saved and restored beside the adapters. To add an algorithm: one file here and one line in `ALGORITHMS` of
`align/__init__.py`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from align.experience import Experience, Part
from align.policy import Policy

if TYPE_CHECKING:
    from reward.protocol import Reward


class Algorithm(Protocol):
    """One way to move a policy toward a reward."""

    def check(self, policy: Policy, reward: "Reward") -> None:
        """Refuse settings that do not fit the policy or the reward, before any time is spent (UserError)."""
        ...

    def modules(self, policy: Policy) -> dict[str, nn.Module]:
        """The algorithm's own networks, empty for most; `policy.call(name, ...)` runs them.

        They start from weights that depend on nothing but the settings, so build them under a fixed seed. An algorithm
        that names any has a field `critic_learning_rate`, of AdamW for all of them.
        """
        ...

    def learned(self, prompts: int) -> int:
        """How many clips a training step of so many prompts learns from, over all processes."""
        ...

    def collect(self, policy: Policy, reward: "Reward", prompts: Sequence[str], seed: int, step: int) -> Experience:
        """Sample with the policy and say what was good. Everything random derives from (seed, step)."""
        ...

    def loss(self, policy: Policy, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, metrics) of one part; metrics are means over samples, but `ratio_error`, which is a maximum."""
        ...
