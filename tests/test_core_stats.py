import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from core import stats
from core.randomness import numpy_generator


@pytest.mark.parametrize(("wins", "n"), [(0, 5), (7, 10), (70, 128), (30, 30)])
def test_wilson_equals_scipy_where_there_are_no_ties(wins, n):
    expected = scipy_stats.binomtest(wins, n).proportion_ci(0.95, method="wilson")
    interval = stats.wilson(wins, 0, n)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert interval.value == wins / n


def test_ties_count_half():
    assert stats.wilson(3, 4, 10).value == 0.5
    assert stats.wilson(3, 4, 10).low == stats.wilson(5, 0, 10).low


def test_mean_interval_of_independent_values_is_near_the_normal_one():
    values = numpy_generator(0, "test").normal(3.0, 2.0, size=400)
    interval = stats.mean_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert interval == stats.mean_interval(values)  # the same seed, the same interval


def test_clustered_interval_covers_the_truth_and_the_naive_one_does_not(monkeypatch):
    monkeypatch.setattr(stats, "NUM_RESAMPLES", 399)
    clusters = np.repeat(np.arange(25), 8)
    covered = {"clustered": 0, "naive": 0}
    for trial in range(200):
        rng = numpy_generator(trial, "coverage")
        values = rng.normal(size=25)[clusters] + 0.3 * rng.normal(size=200)
        for name, labels in (("clustered", clusters.tolist()), ("naive", None)):
            interval = stats.mean_interval(values, labels, seed=trial)
            covered[name] += interval.low <= 0.0 <= interval.high
    # 95 % asked for; 25 clusters cost a percentile bootstrap some of it. Binomial noise on 200 trials is 1.5 points.
    assert 0.89 <= covered["clustered"] / 200 <= 0.99
    assert covered["naive"] / 200 < 0.65


def test_nan_is_left_out_and_counted_out():
    interval = stats.mean_interval([1.0, math.nan, 3.0, 5.0])
    assert (interval.value, interval.n) == (3.0, 3)
    assert stats.mean_interval([math.nan]).n == 0


def test_one_cluster_gives_no_interval_and_equal_values_a_point():
    assert math.isnan(stats.mean_interval([1.0, 2.0], ["p", "p"]).low)
    interval = stats.mean_interval([2.0, 2.0, 2.0])
    assert (interval.low, interval.high) == (2.0, 2.0)


def test_a_shift_by_a_constant_keeps_its_interval_though_the_differences_are_rounded():
    values = numpy_generator(1, "test").random(20)
    found = stats.paired_difference(values, values + 0.1)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))


def test_paired_difference_is_b_minus_a_and_finds_a_shift_between_noisy_pairs():
    rng = numpy_generator(0, "pairs")
    a = rng.normal(0, 10, size=60)
    b = a + 0.5 + rng.normal(0, 0.5, size=60)
    result = stats.paired_difference(a, b)
    assert result.difference == pytest.approx((b - a).mean())
    assert result.low > 0 and result.p < 0.001
    assert result.n == 60


def test_permutation_p_is_exact_for_few_clusters():
    # All 2^5 sign patterns: only +++++ and ----- are as extreme.
    assert stats.permutation_p([1.0, 2.0, 1.5, 0.5, 3.0]) == pytest.approx(2 / 32)
    assert stats.permutation_p([1.0] * 50, clusters=["p"] * 50) == 1.0
    assert stats.permutation_p([0.0, 0.0, 0.0]) == 1.0


def test_permutation_p_is_uniform_when_nothing_differs(monkeypatch):
    monkeypatch.setattr(stats, "NUM_RESAMPLES", 299)
    p_values = [stats.permutation_p(numpy_generator(trial, "null").normal(size=30), seed=trial) for trial in range(200)]
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.10


def test_cluster_labels_must_match():
    with pytest.raises(ValueError, match="3 values but 2"):
        stats.mean_interval([1.0, 2.0, 3.0], ["a", "b"])


def test_holm_on_the_textbook_example():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = stats.holm([0.02, math.nan, 0.5])
    assert adjusted[0] == pytest.approx(0.04) and math.isnan(adjusted[1]) and adjusted[2] == 0.5


def test_bradley_terry_recovers_planted_strengths():
    planted = np.array([1.0, 0.3, -0.2, -1.1])
    chance = 1 / (1 + np.exp(planted[None, :] - planted[:, None]))
    wins = numpy_generator(0, "wins").binomial(4000, np.triu(chance, 1))
    wins = wins + np.tril((4000 - wins.T), -1)
    np.testing.assert_allclose(stats.bradley_terry(wins), planted, atol=0.06)


def test_bradley_terry_of_two_players_is_the_log_odds_and_stays_finite():
    ratings = stats.bradley_terry([[0, 30], [10, 0]], ridge=0.0)
    assert ratings[0] - ratings[1] == pytest.approx(math.log(3), abs=1e-5)
    assert np.isfinite(stats.bradley_terry([[0, 5], [0, 0]])).all()


def test_cohen_kappa_on_the_textbook_table():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed 0.7, expected 0.5.
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    a, b = zip(*pairs, strict=True)
    assert stats.cohen_kappa(a, b) == pytest.approx(0.4)
    assert math.isnan(stats.cohen_kappa(["y"], ["y"]))


def test_krippendorff_alpha_on_the_published_example():
    # Krippendorff 2011, section C: four observers, twelve units, nominal alpha = .743.
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    assert stats.krippendorff_alpha(list(zip(*observers, strict=True))) == pytest.approx(0.743, abs=5e-4)
    assert math.isnan(stats.krippendorff_alpha([["a"], ["b"]]))


def test_a_refit_from_a_near_start_is_the_same_maximum() -> None:
    rng = np.random.default_rng(0)
    wins = rng.integers(0, 9, size=(6, 6)).astype(float)
    wins[0, 1:], wins[1:, 0] = 9, 0  # one who never lost
    start = stats.bradley_terry(wins + 1, 1e-2)
    tables = np.stack([wins, wins + 2])
    alone = [stats.bradley_terry(table, 1e-2) for table in tables]
    assert stats.refit(tables, 1e-2, start) == pytest.approx(np.stack(alone), abs=1e-4)
