"""Several judges' scores of one thing as one score: the mean, or something more careful where they disagree.

A policy climbs to wherever the score is too high. Judges trained on different data err in different places, so their
disagreement marks such places; the careful rules pay less there. Judges on one frozen backbone share its blind spots.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def mean(scores: Tensor) -> Tensor:
    """Mean over the first axis, [judge, ...] to [...]."""
    return scores.mean(0)


def worst(scores: Tensor) -> Tensor:
    """The lowest judge's score; judges must share a unit. Source: Coste et al. 2023 (arXiv 2310.02743), eq. 3."""
    return scores.amin(0)


def penalised(scores: Tensor, weight: float = 1.0) -> Tensor:
    """Mean less `weight` times the variance over judges. Source: Coste et al. 2023 (arXiv 2310.02743), eq. 4."""
    return scores.mean(0) - weight * scores.var(0, correction=0)


AGGREGATIONS: dict[str, Callable[[Tensor], Tensor]] = {"mean": mean, "worst": worst, "penalised": penalised}
