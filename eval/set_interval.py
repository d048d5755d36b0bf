"""Intervals for numbers that belong to a whole set: leave one prompt out at a time.

A Frechet distance of resampled videos is biased upward, because a resample holds duplicates: its bootstrap interval
does not even contain the point estimate. The jackknife removes instead of repeating (Efron & Stein 1981).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from core.stats import CONFIDENCE, Interval, numbered

MAX_PARTS = 128  # more prompts than this are left out in groups


def parts_for(dim: int) -> int:
    """In how many parts a set is cut when one value costs dim^3."""
    return MAX_PARTS if dim <= 64 else 32 if dim <= 512 else 10


def jackknife(
    value: Callable[[NDArray[np.int_]], float], groups: Sequence[str], max_parts: int = MAX_PARTS
) -> Interval:
    """Interval of `value(rows kept)` from leaving out one group of rows at a time.

    Args:
        value: statistic of the rows [k] of a set.
        groups: [n] the prompt of each row; rows of one prompt leave together.
        max_parts: how often `value` is computed at most.
    Returns: value of all rows +- a t-quantile of the jackknife's standard error; NaN bounds below three groups.
    """
    rows = np.arange(len(groups))
    part = numbered(groups) % max_parts
    parts = int(part.max()) + 1 if len(part) else 0
    point = value(rows)
    if parts < 3:
        return Interval(point, float("nan"), float("nan"), len(rows), "too few prompts for a jackknife")
    left_out = np.array([value(rows[part != k]) for k in range(parts)])
    error = float(np.sqrt((parts - 1) / parts * ((left_out - left_out.mean()) ** 2).sum()))
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, parts - 1)) * error
    return Interval(point, point - reach, point + reach, len(rows), f"jackknife over {parts} groups of prompts")
