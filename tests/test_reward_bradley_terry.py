"""Losses of preference learning against closed forms and planted answers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reward.bradley_terry import (
    LOSSES,
    TIE,
    A,
    B,
    davidson_log_probabilities,
    davidson_loss,
    log_probabilities,
    margin_loss,
    rao_kupper_loss,
    regression_loss,
)


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
    torch.testing.assert_close(narrow, F.binary_cross_entropy_with_logits(difference, votes[:, A]))


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


def test_davidsons_ties_keep_their_ratio_and_their_chance_at_zero() -> None:
    difference, nu = torch.linspace(-9, 9, 37, dtype=torch.float64), 1.7
    chances = davidson_log_probabilities(difference, torch.tensor(nu).log().double()).exp()
    torch.testing.assert_close(chances.sum(-1), torch.ones(37, dtype=torch.float64))
    ratio = chances[:, TIE] ** 2 / (chances[:, A] * chances[:, B])
    torch.testing.assert_close(ratio, torch.full_like(ratio, nu**2))
    assert float(chances[18, TIE]) == pytest.approx(nu / (2 + nu))
    torch.testing.assert_close(chances[:, A] / chances[:, B], difference.exp())


def test_a_margin_of_zero_is_bradley_terry_with_ties_as_halves_and_a_margin_asks_for_more() -> None:
    difference = torch.tensor([-2.0, 0.3, 1.7], dtype=torch.float64)
    votes = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0.2, 0, 0.8]], dtype=torch.float64)
    plain = F.binary_cross_entropy_with_logits(difference, votes[:, A] + votes[:, TIE] / 2)
    torch.testing.assert_close(margin_loss(difference, votes), plain)
    shifted = F.binary_cross_entropy_with_logits(difference[:1] - 0.57, votes[:1, A])
    torch.testing.assert_close(margin_loss(difference[:1], votes[:1], 0.57), shifted)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_toward_the_winner_ignores_the_unasked_and_weighs_votes(name: str) -> None:
    width = torch.tensor(-0.5, dtype=torch.float64)
    votes = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 1.0]], dtype=torch.float64)
    difference = torch.tensor([0.2, 5.0, 0.4], dtype=torch.float64, requires_grad=True)
    loss = LOSSES[name](difference, votes, width, 0.3)
    (gradient,) = torch.autograd.grad(loss, difference)
    assert gradient[0] < 0 and gradient[1] == 0 and gradient[2] > 0
    asked = LOSSES[name](difference[[0, 2]], votes[[0, 2]], width, 0.3)
    torch.testing.assert_close(loss, asked)
    weighted = LOSSES[name](difference[[0, 2]], votes[[0, 2]] * torch.tensor([[3.0], [1.0]]).double(), width, 0.3)
    repeated = LOSSES[name](difference[[0, 0, 0, 2]], votes[[0, 0, 0, 2]], width, 0.3)
    torch.testing.assert_close(weighted, repeated)


def test_davidson_recovers_a_planted_rate_of_ties() -> None:
    votes = torch.tensor([[40.0, 30.0, 30.0]], dtype=torch.float64)
    difference, log_nu = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.LBFGS([difference, log_nu], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = davidson_loss(difference, votes, log_nu)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert difference.item() == pytest.approx(np.log(4 / 3), abs=1e-4)
    assert float(log_nu.detach().exp()) == pytest.approx(30 / np.sqrt(40 * 30), abs=1e-4)


def test_regression_leaves_out_ratings_that_were_not_given() -> None:
    utility = torch.tensor([1.0, 2.0, 7.0], requires_grad=True)
    loss = regression_loss(utility, torch.tensor([0.0, 4.0, float("nan")]))
    assert float(loss) == pytest.approx((1 + 4) / 2)
    (gradient,) = torch.autograd.grad(loss, utility)
    torch.testing.assert_close(gradient, torch.tensor([1.0, -2.0, 0.0]))
