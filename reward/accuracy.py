"""How often a reward and the votes agree: with ties and without, against baselines, and how honest the chances are.

A difference is utility of a less utility of b; a choice is 0 (a), 1 (tie) or 2 (b).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from core.randomness import numpy_generator
from reward.bradley_terry import TIE, A, B, vote_chances

Numbers = NDArray[np.float64]
Choices = NDArray[np.int64]
NUM_DRAWS = 200  # of outcomes, to see what chance leaves of a calibration error


def decisions(difference: Numbers, threshold: float) -> Choices:
    """Choice by sign, or tie where |difference| <= threshold; a negative threshold allows no tie but an exact 0."""
    choice = np.where(difference > 0, A, B)
    return np.where((np.abs(difference) <= threshold) | (difference == 0), TIE, choice)


def correct_without_ties(difference: Numbers, choice: Choices) -> Numbers:
    """1 where the sign is that of the vote, one half where the difference is exactly 0, NaN where the vote is a tie."""
    right = np.where(difference == 0, 0.5, (difference > 0) == (choice == A))
    return np.where(choice == TIE, np.nan, right)


def tie_threshold(difference: Numbers, choice: Choices) -> float:
    """The threshold with the most correct decisions, by an exact scan; the smallest of equally good ones.

    All pairs of one |difference| change sides together: a scan pair by pair overstates the accuracy when scores repeat.
    Fit it on other pairs than it is judged on. Source: Deutsch et al. 2023 (arXiv 2305.14324).
    """
    size = np.abs(difference)
    candidates, group = np.unique(size, return_inverse=True)
    # Crossing a pair's size turns its decision from its sign into a tie.
    gain = (choice == TIE).astype(float) - (decisions(difference, -1.0) == choice)
    total = np.concatenate([[0.0], np.cumsum(np.bincount(group, gain, minlength=len(candidates)))])
    best = int(np.argmax(total))
    return -1.0 if best == 0 else float(candidates[best - 1])


def chance(predicted: Choices, choice: Choices) -> float:
    """Expected accuracy of predictions shuffled over the pairs: how far the mere rates of a, tie and b carry."""
    return float(sum(np.mean(predicted == kind) * np.mean(choice == kind) for kind in (A, TIE, B)))


def calibration(difference: Numbers, votes: Numbers) -> tuple[float, float, float]:
    """(temperature, log theta, lapse) that make votes most likely, by `bradley_terry.vote_chances`.

    Without the lapse, a model of votes of which 15 % are slips promises more than any judge can keep: its surest
    predictions said .95 and were right in .84. Args: difference [n]; votes [n, 3] shares over (a, tie, b).
    Temperature stays within [1/50, 50], the lapse within [0, .6].
    """
    weight = max(float(votes.sum()), 1e-12)

    def loss(x: Numbers) -> float:
        chances = vote_chances(torch.from_numpy(difference / np.exp(x[0])), *map(torch.tensor, (_softplus(x[1]), x[2])))
        return -float((votes * np.log(chances.numpy().clip(1e-12))).sum()) / weight

    limits = [(-np.log(50), np.log(50)), (-12.0, 5.0), (0.0, 0.6)]
    found = minimize(loss, np.array([0.0, -2.0, 0.05]), method="Nelder-Mead", bounds=limits, options={"maxiter": 400})
    return float(np.exp(found.x[0])), _softplus(found.x[1]), float(found.x[2])


def _softplus(x: float) -> float:
    return float(max(np.logaddexp(0.0, x), 1e-6))


@dataclass(frozen=True)
class Bin:
    """One point of a reliability curve: n predictions, their mean confidence, and the share of them that was right."""

    confidence: float
    accuracy: float
    n: int


def reliability_curve(probability: Numbers, right: Numbers, num_bins: int = 10) -> list[Bin]:
    """Bins of equal mass from the least to the most confident; fewer of them where 15 predictions would not fill one.

    Args: probability [n] given to the side that was predicted, in [0.5, 1]; right [n] in [0, 1].
    """
    count = min(num_bins, max(1, len(probability) // 15))
    bins = np.array_split(np.argsort(probability, kind="stable"), count)
    return [Bin(float(probability[rows].mean()), float(right[rows].mean()), len(rows)) for rows in bins if len(rows)]


def expected_calibration_error(probability: Numbers, right: Numbers, num_bins: int = 10) -> float:
    """Mean |confidence - accuracy| over the bins of the reliability curve. Arguments as there."""
    curve = reliability_curve(probability, right, num_bins)
    total = sum(one.n for one in curve)
    return sum(one.n * abs(one.confidence - one.accuracy) for one in curve) / total if total else float("nan")


def calibration_floor(probability: Numbers) -> float:
    """The calibration error that chance alone leaves: its mean when every prediction is right exactly as often as its
    probability says. It is no 0: ten bins of twenty pairs show .08. Arguments as for `reliability_curve`."""
    rng = numpy_generator(0, "calibration floor")
    draws = (rng.random((NUM_DRAWS, len(probability))) < probability).astype(np.float64)
    return float(np.mean([expected_calibration_error(probability, right) for right in draws]))


def debiased_calibration_square(probability: Numbers, right: Numbers) -> float:
    """Mean square of confidence - accuracy over the bins, less what chance adds to it; below 0 where chance took away.

    Its root is never below what `expected_calibration_error` would be of endless pairs, so a goal for that holds for
    this. Arguments as for `reliability_curve`. Source: Kumar et al. 2019 (arXiv 1909.10155), debiased estimator.
    """
    curve = reliability_curve(probability, right)
    total = sum(one.n for one in curve)
    if not total:
        return float("nan")
    chance = [one.accuracy * (1 - one.accuracy) / max(one.n - 1, 1) for one in curve]
    squares = [(one.confidence - one.accuracy) ** 2 - extra for one, extra in zip(curve, chance, strict=True)]
    return sum(one.n * square for one, square in zip(curve, squares, strict=True)) / total


def brier_score(chances: Numbers, votes: Numbers) -> float:
    """Mean squared distance of chances [n, class] from votes [n, class], summed over classes: 0 is perfect, two equal
    classes guessed by halves give .5. Source: Brier 1950."""
    return float(((chances - votes) ** 2).sum(1).mean()) if len(chances) else float("nan")
