"""Losses of preference learning against closed forms and planted answers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reward.bradley_terry import TIE, A, B, bradley_terry_loss, log_probabilities, rao_kupper_loss


def test_probabilities_sum_to_one_and_mirror_when_the_sides_swap() -> None:
    difference = torch.linspace(-12, 12, 49, dtype=torch.float64)[:, None]
    chances = log_probabilities(difference, torch.tensor([1e-4, 0.1, 1.0, 5.0], dtype=torch.float64)).exp()
    torch.testing.assert_close(chances.sum(-1), torch.ones_like(chances[..., 0]))
    torch.testing.assert_close(chances[..., A], chances[..., B].flip(0))
    torch.testing.assert_close(chances[..., TIE], chances[..., TIE].flip(0))


def test_a_tie_of_equals_has_the_chance_of_the_paper() -> None:
    theta = 5.0  # VideoAlign's constant: (theta - 1) / (theta + 1) = 2/3
    tie = log_probabilities(torch.tensor(0.0), torch.tensor(np.log(theta)))[TIE].exp()
    assert float(tie) == pytest.approx(2 / 3, abs=1e-6)


def test_without_indifference_rao_kupper_is_bradley_terry() -> None:
    difference = torch.tensor([-2.0, 0.3, 1.7], dtype=torch.float64)
    votes = torch.zeros(3, 3, dtype=torch.float64)
    votes[:, A] = torch.tensor([1.0, 0.0, 0.25])
    votes[:, B] = 1 - votes[:, A]
    narrow = rao_kupper_loss(difference, votes, torch.tensor(1e-9, dtype=torch.float64))
    torch.testing.assert_close(narrow, bradley_terry_loss(difference, votes[:, A]))


def test_rows_that_nobody_was_asked_about_do_not_shrink_the_loss() -> None:
    difference, log_theta = torch.tensor([0.5, -3.0]), torch.tensor(0.2)
    votes = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(
        rao_kupper_loss(difference, votes, log_theta), rao_kupper_loss(difference[:1], votes[:1], log_theta)
    )


def test_recovers_planted_utilities_and_indifference() -> None:
    rng = np.random.default_rng(0)
    planted, planted_theta = np.array([1.5, 0.4, -0.5, -1.4]), 2.0
    pair = rng.integers(0, 4, (12000, 2))
    pair = torch.tensor(pair[pair[:, 0] != pair[:, 1]])
    utility = torch.tensor(planted)
    chances = log_probabilities(utility[pair[:, 0]] - utility[pair[:, 1]], torch.tensor(np.log(planted_theta))).exp()
    draw = torch.tensor(rng.random(len(pair)))[:, None]
    choice = (draw > chances.cumsum(-1)).sum(-1).clamp(max=2)
    votes = F.one_hot(choice, 3).double()
    learned, raw = torch.zeros(4, dtype=torch.float64, requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([learned, raw], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = rao_kupper_loss(learned[pair[:, 0]] - learned[pair[:, 1]], votes, F.softplus(raw))
        loss.backward()
        return loss

    optimizer.step(closure)
    found = learned.detach().numpy()
    np.testing.assert_allclose(found - found.mean(), planted, atol=0.12)
    assert float(F.softplus(raw.detach()).exp()) == pytest.approx(planted_theta, rel=0.06)
