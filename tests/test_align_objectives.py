"""Losses against hand-worked numbers and autograd."""

import pytest
import torch

from align import objectives


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "passes"),
    [(0.0, 1.0, True), (0.1, 1.0, False), (-0.1, 1.0, True), (0.1, -1.0, True), (-0.1, -1.0, False)],
)
def test_surrogate_stops_paying_only_in_the_direction_of_the_gain(
    log_ratio: float, advantage: float, passes: bool
) -> None:
    value = torch.tensor([log_ratio], requires_grad=True)
    good = torch.tensor([advantage])
    (slope,) = torch.autograd.grad(objectives.clipped_surrogate(value, good, 0.05).sum(), value)
    assert bool(slope != 0) == passes
    assert bool(objectives.clipped_share(value.detach(), good, 0.05)) != passes


def test_surrogate_at_ratio_one_is_the_policy_gradient() -> None:
    value, advantage = torch.zeros(3, requires_grad=True), torch.tensor([2.0, -1.0, 0.5])
    (slope,) = torch.autograd.grad(objectives.clipped_surrogate(value, advantage, 1e-4).sum(), value)
    assert torch.equal(slope, -advantage)


@pytest.mark.parametrize("advantage", [1.0, 0.0], ids=["gain", "neither"])
def test_a_ratio_beyond_all_numbers_stops_quietly(advantage: float) -> None:
    """exp(100) is infinite, and no gradient, or no advantage, times infinity would be NaN."""
    value, good = torch.tensor([100.0], requires_grad=True), torch.tensor([advantage])
    clipped = objectives.clipped_surrogate(value, good, 0.1)
    masked = objectives.trusted_surrogate(value, good, torch.ones(1), 0.1)
    assert clipped.item() == pytest.approx(-1.1 * advantage) and masked.item() == 0
    for loss in (clipped, masked):
        (slope,) = torch.autograd.grad(loss.sum(), value)
        assert slope == 0


def test_approximate_kl_is_unbiased_on_gaussians() -> None:
    old, new = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.3, 1.2)
    torch.manual_seed(0)
    x = old.sample((200_000,))
    estimate = objectives.approximate_kl(new.log_prob(x) - old.log_prob(x))
    exact = float(torch.distributions.kl_divergence(old, new))
    assert abs(float(estimate.mean()) - exact) < 4 * float(estimate.std()) / 200_000**0.5
    assert float(estimate.min()) >= 0


def test_latent_kl_is_the_kl_of_normals_per_element() -> None:
    mean, other, std = torch.randn(3, 2, 4), torch.randn(3, 2, 4), torch.rand(3, 1, 1) + 0.5
    normal = torch.distributions.Normal
    exact = torch.distributions.kl_divergence(normal(mean, std.expand_as(mean)), normal(other, std.expand_as(mean)))
    torch.testing.assert_close(objectives.latent_kl(mean, other, std), exact.flatten(1).mean(1))
