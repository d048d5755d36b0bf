"""Signs of a sick run, cheap enough to be always on: of the replay, the gradient, the rewards and the clips."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from align.config import RATIO_TOLERANCE
from base_model.large import whole
from core.errors import UserError

THUMBNAIL = (4, 8, 8)  # frames, rows, columns: what two clips are compared by
LIMIT = 0.02  # a channel this near to black or full counts as saturated
QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


class Diverged(UserError):
    """The policy has broken down: its steps were too large."""


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
    """Stop before a gradient that is not finite reaches the weights. Raises: Diverged."""
    if not norm < float("inf"):
        raise Diverged(
            f"the gradient of step {step} is {norm}; lower learning_rate, passes or updates and run in a new folder"
        )


def norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm of all `tensors` together."""
    return float(whole(nn.utils.get_total_norm([value.detach() for value in tensors])))


def agreement(first: Sequence[Tensor], both: Sequence[Tensor]) -> float | None:
    """Cosine between the gradient of one half of the samples and that of the other, given `first` and their sum.

    Near 0 the batch is too small: its gradient is mostly noise. With a signal share s in the gradient of a half, the
    cosine's expectation is s. None where a gradient is zero.
    """
    second = [total - half for half, total in zip(first, both, strict=True)]
    one, two, total = norm(first), norm(second), norm(both)
    return (total**2 - one**2 - two**2) / (2 * one * two) if one > 0 and two > 0 else None


def look(frames: Tensor) -> Tensor:
    """What is watched of clips [batch, time, 3, height, width], one row each [batch, 2 + thumbnail].

    First motion energy (mean absolute change of a pixel between frames), then saturation (share of channel values
    within 2 % of black or full), then a thumbnail.
    """
    if frames.shape[1] > 1:
        motion = (frames[:, 1:] - frames[:, :-1]).abs().flatten(1).mean(1)
    else:
        motion = frames.new_zeros(len(frames))
    saturation = ((frames < LIMIT) | (frames > 1 - LIMIT)).flatten(1).float().mean(1)
    thumbnail = F.adaptive_avg_pool3d(frames.transpose(1, 2).float(), THUMBNAIL).flatten(1)
    return torch.cat([motion.float()[:, None], saturation[:, None], thumbnail], 1)


def looks(rows: Tensor, group_size: int) -> dict[str, float]:
    """What to log of the `look` [n, ...] of everybody's clips, groups of `group_size` side by side.

    `align/diversity` is the root mean squared difference between the thumbnails of two clips of a group, in units of
    pixels: it falls toward 0 when a policy collapses to one clip per prompt.
    """
    rows = torch.nan_to_num(rows.double())
    logged = {"align/motion_energy": float(rows[:, 0].mean()), "align/saturation": float(rows[:, 1].mean())}
    if group_size > 1:
        variance = rows[:, 2:].unflatten(0, (-1, group_size)).var(1)  # unbiased: half the mean squared difference
        logged["align/diversity"] = float((2 * variance.mean(1)).sqrt().mean())
    return logged


def quantiles(prefix: str, values: Tensor) -> dict[str, float]:
    """`<prefix>p10`, `p50` and `p90` of the finite `values`."""
    good = values[values.isfinite()].double()
    if not good.numel():
        return {}
    return {prefix + name: float(good.quantile(share)) for name, share in QUANTILES.items()}


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
