"""Signs of a sick run, cheap enough to be always on."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.errors import UserError

RATIO_TOLERANCE = 1e-6


def check_first_pass(ratio_error: float, step: int) -> None:
    """Stop a run whose replay does not reproduce its own samples: every later ratio would be noise.

    Raises: UserError if the largest |ratio - 1| before the first update is above 1e-6 (or not a number).
    """
    if not ratio_error <= RATIO_TOLERANCE:
        raise UserError(
            f"the policy does not reproduce its own samples: |ratio - 1| is {ratio_error:.2g} before the first update "
            f"of step {step}, accepted is {RATIO_TOLERANCE:g}; look for dropout, train mode, or rows that mix"
        )


def check_gradient(norm: float, step: int) -> None:
    """Stop before a gradient that is not finite reaches the weights.

    Raises: UserError.
    """
    if not norm < float("inf"):
        raise UserError(f"the gradient of step {step} is {norm}; lower learning_rate or eta and run in a new folder")


def norm(parameters: Sequence[nn.Parameter]) -> float:
    """Euclidean norm of all `parameters` together."""
    return float(torch.stack([value.detach().float().norm() for value in parameters]).norm())


class Tally:
    """Weighted means of the losses' metrics over the parts of an update; `ratio_error` is kept as a maximum."""

    def __init__(self) -> None:
        self._sum: dict[str, Tensor] = {}

    def add(self, metrics: dict[str, Tensor], share: float) -> None:
        for name, value in metrics.items():
            seen = self._sum.get(name)
            if name == "ratio_error":
                self._sum[name] = value if seen is None else torch.maximum(seen, value)
            else:
                self._sum[name] = value * share + (0.0 if seen is None else seen)

    def read(self, name: str) -> Tensor | None:
        return self._sum.get(name)

    def means(self, updates: int) -> dict[str, Tensor]:
        """Everything but `ratio_error`, as means over `updates` updates."""
        return {name: value / updates for name, value in self._sum.items() if name != "ratio_error"}
