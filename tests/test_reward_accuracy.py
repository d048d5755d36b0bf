"""Agreement of a reward with votes: exact scan, baselines, calibration."""

import numpy as np
import pytest
import torch

from reward import accuracy
from reward.bradley_terry import TIE, A, B, vote_chances


def test_tie_threshold_equals_brute_force_also_when_scores_repeat() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        n = int(rng.integers(1, 30))
        difference = rng.integers(-4, 5, n) / 2.0 if rng.random() < 0.7 else rng.normal(size=n)
        choice = rng.integers(0, 3, n)
        found = accuracy.tie_threshold(difference, choice)
        tried = [-1.0, *np.unique(np.abs(difference))]
        best = max(np.mean(accuracy.decisions(difference, one) == choice) for one in tried)
        assert np.mean(accuracy.decisions(difference, found) == choice) == pytest.approx(best)


def test_threshold_allows_no_ties_when_nobody_votes_tie() -> None:
    assert accuracy.tie_threshold(np.array([1.0, -2.0, 0.5]), np.array([A, B, A])) < 0


def test_without_ties_a_tie_vote_is_left_out_and_an_equal_score_is_half_right() -> None:
    right = accuracy.correct_without_ties(np.array([1.0, 1.0, 0.0, -1.0]), np.array([A, TIE, B, B]))
    np.testing.assert_array_equal(right, [1.0, np.nan, 0.5, 1.0])


def test_chance_is_that_of_shuffled_predictions() -> None:
    rng = np.random.default_rng(0)
    predicted, choice = rng.choice(3, 300, p=[0.5, 0.2, 0.3]), rng.choice(3, 300, p=[0.2, 0.6, 0.2])
    shuffled = [np.mean(rng.permutation(predicted) == choice) for _ in range(400)]
    assert accuracy.chance(predicted, choice) == pytest.approx(np.mean(shuffled), abs=0.01)


@pytest.mark.parametrize("lapse", [0.0, 0.3])
def test_calibration_finds_a_planted_temperature_indifference_and_lapse(lapse: float) -> None:
    rng = np.random.default_rng(2)
    logit = torch.tensor(rng.normal(0, 2.0, 20000))
    chances = vote_chances(logit, torch.tensor(0.4), torch.tensor(lapse))
    choice = (torch.tensor(rng.random(len(logit)))[:, None] > chances.cumsum(-1)).sum(-1).clamp(max=2)
    votes = np.eye(3)[choice]
    temperature, log_theta, found = accuracy.calibration(3.0 * logit.numpy(), votes)  # overconfident by 3
    assert temperature == pytest.approx(3.0, rel=0.08)
    assert log_theta == pytest.approx(0.4, rel=0.08)
    assert found == pytest.approx(lapse, abs=0.02)
    before = accuracy.expected_calibration_error(*_confidence(3.0 * logit, 0.4, 0.0, choice))
    after = accuracy.expected_calibration_error(*_confidence(3.0 * logit / temperature, log_theta, found, choice))
    assert after < 0.02 < before


def _confidence(
    difference: torch.Tensor, log_theta: float, lapse: float, choice: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    chances = vote_chances(difference, torch.tensor(log_theta), torch.tensor(lapse))
    two = chances[choice != TIE][:, [A, B]].numpy()
    right = accuracy.correct_without_ties(difference.numpy(), choice.numpy())
    return two.max(1) / two.sum(1), right[np.isfinite(right)]


def test_the_reliability_curve_of_a_known_liar() -> None:
    probability, right = np.repeat([0.6, 0.9], 30), np.repeat([1.0, 0.0], 30)
    low, high = accuracy.reliability_curve(probability, right, num_bins=2)
    assert (low.confidence, low.accuracy, low.n) == (pytest.approx(0.6), 1.0, 30)
    assert (high.confidence, high.accuracy, high.n) == (pytest.approx(0.9), 0.0, 30)
    assert accuracy.expected_calibration_error(probability, right, num_bins=2) == pytest.approx((0.4 + 0.9) / 2)


def test_the_debiased_calibration_is_that_of_the_world_and_not_of_the_few_pairs() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(60_000) * 0.5 + 0.5
    honest = (rng.random(60_000) < probability).astype(float)
    boasting = (rng.random(60_000) < probability - 0.1).astype(float)
    parts = [slice(start, start + 600) for start in range(0, 60_000, 600)]
    found = [
        np.mean([accuracy.debiased_calibration_square(probability[part], right[part]) for part in parts])
        for right in (boasting, honest)
    ]
    assert found == [pytest.approx(0.01, abs=1e-3), pytest.approx(0.0, abs=3e-4)]
    assert np.mean([accuracy.expected_calibration_error(probability[part], honest[part]) for part in parts]) > 0.04
    assert np.isnan(accuracy.debiased_calibration_square(probability[:0], honest[:0]))


def test_the_calibration_floor_is_what_an_honest_model_shows_and_falls_with_the_number_of_pairs() -> None:
    rng = np.random.default_rng(3)
    probability = rng.uniform(0.5, 1.0, 4000)
    right = (rng.random(4000) < probability).astype(float)
    shown = [
        accuracy.expected_calibration_error(probability[i : i + 200], right[i : i + 200]) for i in range(0, 4000, 200)
    ]
    assert accuracy.calibration_floor(probability[:200]) == pytest.approx(np.mean(shown), abs=0.01)
    assert accuracy.calibration_floor(probability) < 0.5 * accuracy.calibration_floor(probability[:200])


def test_brier_score_of_certain_and_of_guessed_chances() -> None:
    votes = np.eye(2)
    assert accuracy.brier_score(votes, votes) == 0
    assert accuracy.brier_score(np.full((2, 2), 0.5), votes) == 0.5
    assert accuracy.brier_score(votes[::-1], votes) == 2
