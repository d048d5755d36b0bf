"""Numbers with their uncertainty: intervals, paired tests, ratings, agreement.

Resampling is by cluster wherever observations share a prompt or a seed: ten clips of one prompt are not ten prompts.
SciPy does the resampling. Directions are always "b minus a", a = first or base, b = second or aligned.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, sparse, special, stats

from core.randomness import numpy_generator

NUM_RESAMPLES = 4999
NUM_REFITS = 300  # of a leaderboard
NUM_AGREEMENT_RESAMPLES = 500  # a coefficient of agreement has no closed form to vectorise
CONFIDENCE = 0.95
QUANTILE = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))  # once: SciPy takes a third of a millisecond for it


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval [low, high], the number n of observations, and how the interval was made."""

    value: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True)
class Difference:
    """Mean of b minus mean of a over pairs, its 95 % interval, and the two-sided p that there is none."""

    difference: float
    low: float
    high: float
    p: float
    n: int
    method: str


def numbered(labels: Iterable[Hashable]) -> NDArray[np.int_]:
    """Each label's number in order of first appearance: ["b", "a", "b"] -> [0, 1, 0]."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int_)


def mean_interval(values: ArrayLike, clusters: Sequence[Hashable] | None = None, seed: int = 0) -> Interval:
    """Mean with a BCa bootstrap interval over clusters (Efron 1987), NaN values left out.

    Args:
        values: [n] numbers.
        clusters: [n] labels of what was drawn independently (prompts); None: every value by itself.
    Returns: an Interval whose low and high are NaN when fewer than two clusters remain.
    """
    sums, counts, n = _by_cluster(np.asarray(values, dtype=float), clusters)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, "no finite value")
    value = float(sums.sum() / counts.sum())
    low, high = _bootstrap(sums, counts, value, seed)
    return Interval(value, low, high, n, f"BCa bootstrap over {len(sums)} clusters")


def wilson(wins: float, ties: float, n: int) -> Interval:
    """Win rate with ties counted half, and Wilson's score interval (1927).

    Written out because SciPy's takes whole wins only. Ties shrink the variance, so the interval errs on the wide side.
    """
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, "no comparison")
    z = QUANTILE
    rate = (wins + ties / 2) / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(rate, max(0.0, centre - half), min(1.0, centre + half), n, "Wilson, ties half")


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: Sequence[Hashable] | None = None, seed: int = 0
) -> Difference:
    """Mean of b - a over pairs: bootstrap interval over clusters, p by flipping the sign of whole clusters.

    Args:
        a, b: [n] values of the same prompts and seeds; a pair with a NaN on either side is left out.
        clusters: [n] labels of what was drawn independently; None: every pair by itself.
    """
    differences = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    interval = mean_interval(differences, clusters, seed)
    p = permutation_p(differences, clusters, seed)
    method = f"{interval.method}, sign-flip permutation p"
    return Difference(interval.value, interval.low, interval.high, p, interval.n, method)


def permutation_p(differences: ArrayLike, clusters: Sequence[Hashable] | None = None, seed: int = 0) -> float:
    """Two-sided p of "the mean difference is 0" by flipping the signs of whole clusters; exact when they are few."""
    sums, _, n = _by_cluster(np.asarray(differences, dtype=float), clusters)
    if n == 0:
        return math.nan
    if len(sums) == 1 or not sums.any():
        return 1.0
    # Swapping a value with the zero beside it, then subtracting, is a sign flip; SciPy permutes pairs, not signs.
    result = stats.permutation_test(
        (sums, np.zeros_like(sums)),
        lambda x, y, axis: (x - y).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        batch=500,
        rng=numpy_generator(seed, "permutation"),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): family-wise error under any dependence. NaN stays NaN and is not counted."""
    tested = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[index] = largest
    return adjusted


def bradley_terry(wins: ArrayLike, ridge: float = 1e-3) -> NDArray[np.float64]:
    """Ratings r with P(i beats j) = 1 / (1 + exp(r_j - r_i)), by penalised maximum likelihood.

    Args:
        wins: [k, k]; wins[i, j] is how often i beat j, a tie counted half on both sides.
        ridge: weight of the squared ratings; keeps the rating of a player who never lost finite.
    Returns: [k] log-odds with mean 0.
    """
    matrix = np.array(wins, dtype=float)
    np.fill_diagonal(matrix, 0.0)

    def loss(ratings: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        gap = ratings[:, None] - ratings[None, :]
        value = -(matrix * special.log_expit(gap)).sum() + 0.5 * ridge * (ratings**2).sum()
        pull = matrix * special.expit(-gap)
        return value, -(pull.sum(axis=1) - pull.sum(axis=0)) + ridge * ratings

    ratings = optimize.minimize(loss, np.zeros(len(matrix)), jac=True, method="L-BFGS-B", options={"gtol": 1e-9}).x
    return ratings - ratings.mean()


@dataclass(frozen=True)
class Standing:
    """One player of a leaderboard.

    Args:
        rating, low, high: log-odds against the average player, with a 95 % interval.
        rank: 1 is best; rank_low and rank_high bound it at 95 %.
        win_rate: share of all its comparisons that it won, ties half.
    """

    player: str
    rating: float
    low: float
    high: float
    rank: int
    rank_low: int
    rank_high: int
    win_rate: float
    n: int


def islands(wins: ArrayLike) -> list[list[int]]:
    """Players [k, k] that were compared, directly or by way of others; more than one group has no common scale."""
    met = np.array(wins, dtype=float)
    labels = sparse.csgraph.connected_components(met + met.T > 0, directed=False)[1]
    return [np.flatnonzero(labels == label).tolist() for label in range(int(labels.max(initial=-1)) + 1)]


def standings(
    players: Sequence[str],
    comparisons: ArrayLike,
    clusters: Sequence[Hashable],
    ridge: float = 1e-2,
    seed: int = 0,
) -> list[Standing]:
    """Bradley-Terry leaderboard, best first, with percentile intervals of ratings and ranks over resampled clusters.

    Args:
        players: k names.
        comparisons: [n, 3] rows of (i, j, share): i met j and won `share` of it, 0.5 for a tie.
        clusters: [n] what was drawn independently (prompts).
        ridge: weight of the squared ratings; a player who never lost stays finite.
    """
    rows = np.asarray(comparisons, dtype=float).reshape(-1, 3)
    cluster = numbered(clusters)
    count = int(cluster.max(initial=-1)) + 1

    i, j = rows[:, :2].astype(int).T
    tables = np.zeros((count, len(players), len(players)))
    np.add.at(tables, (cluster, i, j), rows[:, 2])
    np.add.at(tables, (cluster, j, i), 1 - rows[:, 2])
    table = tables.sum(axis=0)
    point = bradley_terry(table, ridge)
    rng = numpy_generator(seed, "standings")
    weights = rng.multinomial(count, np.full(count, 1 / count), size=NUM_REFITS)
    draws = refit(np.tensordot(weights.astype(float), tables, 1), ridge, point)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
    ranks = 1 + (draws[:, None, :] > draws[:, :, None]).sum(axis=2)
    best, worst = np.percentile(ranks, [tail, 100 - tail], axis=0, method="nearest")
    met = table.sum(axis=0) + table.sum(axis=1)
    found = [
        Standing(
            name,
            float(point[index]),
            float(low[index]),
            float(high[index]),
            int(1 + (point > point[index]).sum()),
            int(best[index]),
            int(worst[index]),
            float(table[index].sum() / met[index]) if met[index] else math.nan,
            int(met[index]),
        )
        for index, name in enumerate(players)
    ]
    return sorted(found, key=lambda standing: -standing.rating)


def refit(wins: NDArray[np.float64], ridge: float, start: NDArray[np.float64]) -> NDArray[np.float64]:
    """`bradley_terry` of many tables [draws, k, k] at once, by Newton's method from ratings that are near."""
    ratings = np.tile(start, (len(wins), 1))
    for _ in range(25):
        chance = special.expit(ratings[:, :, None] - ratings[:, None, :])
        lost = chance.swapaxes(1, 2)
        games = (wins + wins.swapaxes(1, 2)) * chance * lost
        pull = wins * lost
        gradient = pull.sum(axis=2) - pull.sum(axis=1) - ridge * ratings
        curvature = np.eye(len(start)) * (games.sum(axis=2) + ridge)[:, :, None] - games
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        ratings += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return ratings - ratings.mean(axis=1, keepdims=True)


def cohen_kappa(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """Agreement of two annotators beyond chance (Cohen 1960); NaN when chance alone explains everything."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} labels of one annotator, {len(b)} of the other")
    n = len(a)
    if n == 0:
        return math.nan
    labels = numbered([*a, *b])
    table = np.zeros((labels.max() + 1, labels.max() + 1))
    np.add.at(table, (labels[:n], labels[n:]), 1)
    expected = float(table.sum(axis=1) @ table.sum(axis=0)) / n**2
    return math.nan if expected == 1.0 else float((np.trace(table) / n - expected) / (1 - expected))


def krippendorff_alpha(units: Sequence[Sequence[Hashable | None]]) -> float:
    """Agreement of any number of annotators with gaps, nominal labels (Krippendorff 2011).

    Args:
        units: per rated thing its labels, in any order; None for a missing one. Things with one label do not count.
    Returns: 1 perfect, 0 chance; NaN when nothing was rated twice or only one label was ever used.
    """
    rated = [[label for label in unit if label is not None] for unit in units]
    rated = [unit for unit in rated if len(unit) > 1]
    counts = _label_counts(rated)
    weighted = counts / (counts.sum(axis=1, keepdims=True) - 1)
    coincidence = weighted.T @ counts - np.diag(weighted.sum(axis=0))
    totals = coincidence.sum(axis=1)
    n = totals.sum()
    expected = (n**2 - (totals**2).sum()) / (n - 1) if n > 1 else 0.0
    return math.nan if expected == 0 else float(1 - (n - np.trace(coincidence)) / expected)


def fleiss_kappa(units: Sequence[Sequence[Hashable]]) -> float:
    """Agreement of equally many labels per thing, whoever gave them, nominal labels (Fleiss 1971).

    Args:
        units: per rated thing its labels; all of one length, 2 or more.
    Returns: 1 perfect, 0 chance; NaN when there is nothing or only one label was ever used.
    """
    sizes = {len(unit) for unit in units}
    if not units or sizes == {1}:
        return math.nan
    if len(sizes) != 1:
        raise ValueError(f"Fleiss' kappa needs equally many labels per thing, seen {sorted(sizes)}")
    counts = _label_counts(units)
    n = sizes.pop()
    observed = ((counts**2).sum(axis=1) - n) / (n * (n - 1))
    expected = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return math.nan if expected == 1.0 else float((observed.mean() - expected) / (1 - expected))


def _label_counts(units: Sequence[Sequence[Hashable]]) -> NDArray[np.float64]:
    """[units, labels] how often each label was given to each rated thing."""
    labels = numbered(label for unit in units for label in unit)
    counts = np.zeros((len(units), labels.max(initial=-1) + 1))
    np.add.at(counts, (np.repeat(np.arange(len(units)), [len(unit) for unit in units]), labels), 1)
    return counts


def agreement_interval(coefficient: Callable[[Sequence[Any]], float], units: Sequence[Any]) -> Interval:
    """A coefficient of agreement with a percentile bootstrap interval over the rated things.

    Args:
        coefficient: of a list of things, such as `krippendorff_alpha`; resamples where it is NaN are left out.
    """
    value = coefficient(units)
    if math.isnan(value) or len(units) < 2:
        return Interval(value, math.nan, math.nan, len(units), "too few things")
    generator = numpy_generator(0, "agreement")
    samples = (generator.integers(len(units), size=len(units)) for _ in range(NUM_AGREEMENT_RESAMPLES))
    draws = [coefficient([units[i] for i in sample]) for sample in samples]
    low, high = np.nanpercentile(draws, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Interval(value, float(low), float(high), len(units), f"percentile bootstrap over {len(units)} things")


def _by_cluster(values: NDArray[np.float64], clusters: Sequence[Hashable] | None) -> tuple[Any, Any, int]:
    """Per cluster the sum and the count of its finite values, and how many finite values there are."""
    if clusters is not None and len(clusters) != len(values):
        raise ValueError(f"{len(values)} values but {len(clusters)} cluster labels")
    finite = np.isfinite(values)
    if clusters is None:
        kept = values[finite]
        return kept, np.ones_like(kept), len(kept)
    index = numbered(cluster for cluster, ok in zip(clusters, finite, strict=True) if ok)
    return np.bincount(index, values[finite]), np.bincount(index).astype(float), int(finite.sum())


def _bootstrap(sums: Any, counts: Any, value: float, seed: int) -> tuple[float, float]:
    if len(sums) < 2:
        return math.nan, math.nan
    means = sums / counts
    if np.ptp(means) <= 1e-12 * np.abs(means).max():  # BCa divides by their spread, which rounding makes 0 or nearly so
        return value, value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (sums, counts),
            lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
            paired=True,
            vectorized=True,
            n_resamples=NUM_RESAMPLES,
            batch=500,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=numpy_generator(seed, "bootstrap"),
        ).confidence_interval
    return float(interval.low), float(interval.high)
