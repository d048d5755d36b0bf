"""Dawid and Skene's EM against planted annotators, a hand-made answer, and votes that can teach nothing."""

import numpy as np
import pytest

from reward.dawid_skene import consensus


def _people(rng: np.random.Generator, skill: list[float], num_items: int) -> tuple[np.ndarray, ...]:
    """True classes, and one vote of every person on every item; a slip falls on the two other classes evenly."""
    truth = rng.choice(3, num_items, p=[0.4, 0.2, 0.4])
    rows = [(i, w, truth[i] if rng.random() < s else (truth[i] + rng.integers(1, 3)) % 3)
            for i in range(num_items) for w, s in enumerate(skill)]  # fmt: skip
    return truth, *np.array(rows).T


def test_finds_planted_reliabilities_and_beats_the_majority() -> None:
    skill = [0.95, 0.9, 0.4, 0.4, 0.35]
    truth, item, person, answer = _people(np.random.default_rng(0), skill, 800)
    found = consensus(item, person, answer, 3)
    np.testing.assert_allclose(found.reliability, skill, atol=0.05)
    np.testing.assert_allclose(found.prevalence, [0.4, 0.2, 0.4], atol=0.05)
    counts = np.zeros((800, 3))
    np.add.at(counts, (item, answer), 1)
    majority = np.mean(counts.argmax(1) == truth)
    assert np.mean(found.posterior.argmax(1) == truth) > majority + 0.1


def test_every_turn_raises_the_log_posterior() -> None:
    _, item, person, answer = _people(np.random.default_rng(1), [0.8, 0.6, 0.5], 200)
    found = consensus(item, person, answer, 3)
    assert len(found.objective) > 3 and (np.diff(found.objective) > -1e-9).all()
    np.testing.assert_allclose(found.posterior.sum(1), 1)
    np.testing.assert_allclose(found.confusion.sum(2), 1)


def test_one_turn_is_the_sum_done_by_hand() -> None:
    found = consensus([0, 0, 1], [0, 1, 0], [0, 1, 1], 2, prior=1.0, agreement=0.0, max_turns=1)
    # Item 0 starts as (1/2, 1/2), item 1 as (0, 1). Person 0 said 0, then 1; person 1 said 1 on item 0.
    confusion = np.array([[[1.5 / 2.5, 1 / 2.5], [1.5 / 3.5, 2 / 3.5]], [[1 / 2.5, 1.5 / 2.5], [1 / 2.5, 1.5 / 2.5]]])
    np.testing.assert_allclose(found.confusion, confusion, atol=1e-6)
    prevalence = np.array([1.5, 2.5]) / 4
    joint = prevalence * confusion[0, :, 0] * confusion[1, :, 1]
    np.testing.assert_allclose(found.posterior[0], joint / joint.sum(), atol=1e-6)


def test_people_who_never_overlap_are_believed() -> None:
    answer = np.random.default_rng(2).integers(0, 3, 60)
    found = consensus(np.arange(60), np.arange(60) % 3, answer, 3)
    assert (found.posterior.argmax(1) == answer).all()


def test_no_votes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one vote"):
        consensus([], [], [], 3)
