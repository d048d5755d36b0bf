"""Transitions against closed forms: normal densities, an analytic Gaussian, and the limits of the schedule."""

import math

import pytest
import torch

from base_model import flow, vp

STOCHASTIC = ("flow", "dance", "cps", "ddim")
ETA = {"flow": 0.7, "dance": 0.3, "cps": 0.06, "ddim": 1.0}  # cps: see the note in `flow.coefficients`


def _gaussian_velocity(x: torch.Tensor, sigma: torch.Tensor, mean: float, std: float, family: str) -> torch.Tensor:
    """Exact velocity for clean data N(mean, std^2)."""
    sigma = sigma.reshape(-1, *[1] * (x.dim() - 1)).to(x.dtype)
    alpha = (1 - sigma**2).sqrt() if family == "vp" else 1 - sigma
    surplus = (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)
    clean, noise = mean + alpha * std**2 * surplus, sigma * surplus
    return alpha * noise - sigma * clean if family == "vp" else noise - clean


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_sde_ends_in_the_distribution_of_the_data_as_the_ode_does(kind: flow.Kind) -> None:
    family = "vp" if kind == "ddim" else "flow"
    mean, std, count = 0.7, 0.5, 40_000
    schedule = flow.linear_schedule(150)
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(count, 1, generator=rng)
    for index in range(schedule.num_steps):
        levels = schedule.at(torch.full((count,), index))
        velocity = _gaussian_velocity(x, levels[0], mean, std, family)
        last = index == schedule.num_steps - 1
        now = ("ddim" if family == "vp" else "ode") if last else kind
        moved, noise = flow.transition(
            now, x, velocity, *levels, 0.0 if last else ETA[kind], sigma_max=schedule.sigma_max
        )
        x = moved + noise * torch.randn(count, 1, generator=rng)
    # 4 standard errors of the estimate plus 2 % for the finite step; a wrong drift is off by tens of percent.
    assert abs(float(x.mean()) - mean) < 4 * std / math.sqrt(count) + 0.01
    assert abs(float(x.var()) / std**2 - 1) < 4 * math.sqrt(2 / count) + 0.02


@pytest.mark.parametrize("eta", [0.3, 0.8])
def test_cps_leaves_exactly_the_noise_of_the_next_level(eta: float) -> None:
    """The promise of coefficient-preserving sampling, exact for a single data point at any step size."""
    count, clean = 20_000, 0.7
    for now, after in ((1.0, 0.6), (0.6, 0.5), (0.2, 0.05)):
        x = (1 - now) * clean + now * torch.randn(count, 1, generator=torch.Generator().manual_seed(0))
        levels = torch.full((count,), now), torch.full((count,), after)
        mean, std = flow.transition("cps", x, (x - clean) / now, *levels, eta)
        moved = mean + std * torch.randn(count, 1, generator=torch.Generator().manual_seed(1))
        assert abs(float(moved.mean()) - (1 - after) * clean) < 4 * after / math.sqrt(count)
        assert abs(float(moved.var()) / after**2 - 1) < 4 * math.sqrt(2 / count)


def test_ode_transports_an_analytic_gaussian_exactly_up_to_the_step() -> None:
    schedule = flow.linear_schedule(400)
    x = torch.tensor([[-2.0], [0.0], [1.0]])
    start = x.clone()
    for index in range(400):
        levels = schedule.at(torch.full((3,), index))
        x, _ = flow.transition("ode", x, _gaussian_velocity(x, levels[0], 0.7, 0.5, "flow"), *levels, 0.0)
    torch.testing.assert_close(x, 0.7 + 0.5 * start, atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_zero_eta_is_the_deterministic_step(kind: flow.Kind) -> None:
    x, v = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    levels = flow.linear_schedule(10).at(torch.tensor([0, 3, 7, 9]))
    mean, std = flow.transition(kind, x, v, *levels, 0.0, sigma_max=0.9)
    assert float(std.abs().max()) == 0.0
    if kind != "ddim":
        torch.testing.assert_close(mean, flow.transition("ode", x, v, *levels, 0.0)[0])
    else:
        sigma, after = (level.float().reshape(-1, 1, 1) for level in levels)
        clean, noise = (1 - sigma**2).sqrt() * x - sigma * v, sigma * x + (1 - sigma**2).sqrt() * v
        torch.testing.assert_close(mean, (1 - after**2).sqrt() * clean + after * noise)


def test_flow_sde_mean_is_the_published_formula() -> None:
    x, v, s, dt, eta = torch.randn(3, 5), torch.randn(3, 5), 0.6, -0.1, 0.7
    mean, std = flow.transition("flow", x, v, torch.full((3,), s), torch.full((3,), s + dt), eta)
    diffusion = eta * math.sqrt(s / (1 - s))
    torch.testing.assert_close(mean, x + v * dt + diffusion**2 / (2 * s) * (x + (1 - s) * v) * dt)
    torch.testing.assert_close(std, torch.full((3, 1), diffusion * math.sqrt(-dt)))


@pytest.mark.parametrize("kind", STOCHASTIC)
@pytest.mark.parametrize("top", [1.0, 0.9999])
def test_pure_noise_and_the_last_step_are_finite_and_bounded(kind: flow.Kind, top: float) -> None:
    schedule = flow.linear_schedule(10, shift=3.0)
    sigma = schedule.sigma.clone()
    sigma[0] = top
    schedule = flow.Schedule(sigma)
    levels = schedule.at(torch.tensor([0, 9]))
    mean, std = flow.transition(
        kind, torch.ones(2, 4), torch.ones(2, 4), *levels, ETA[kind], sigma_max=schedule.sigma_max
    )
    assert mean.isfinite().all() and std.isfinite().all()
    assert float(std.max()) <= 1.0


def test_log_prob_is_the_mean_of_normal_densities() -> None:
    sample, mean = torch.randn(6, 2, 3, 4), torch.randn(6, 2, 3, 4)
    std = torch.rand(6, 1, 1, 1) + 0.1
    expected = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(sample).flatten(1).mean(1)
    torch.testing.assert_close(flow.log_prob(sample, mean, std), expected)


def test_log_prob_of_a_deterministic_step_is_refused() -> None:
    with pytest.raises(ValueError, match="deterministic"):
        flow.log_prob(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([[0.1], [0.0]]))


def test_rows_may_stand_at_different_steps() -> None:
    schedule = flow.linear_schedule(8)
    x, v, step = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 6, 3, 3, 1])
    together = flow.transition("flow", x, v, *schedule.at(step), 0.7, sigma_max=schedule.sigma_max)
    for row in range(5):
        alone = flow.transition(
            "flow",
            x[row : row + 1],
            v[row : row + 1],
            *schedule.at(step[row : row + 1]),
            0.7,
            sigma_max=schedule.sigma_max,
        )
        assert torch.equal(together[0][row], alone[0][0]) and torch.equal(together[1][row], alone[1][0])


def test_denoised_inverts_interpolate() -> None:
    clean, noise, sigma = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0.2, 0.5, 0.9])
    noisy = flow.interpolate(clean, noise, sigma)
    torch.testing.assert_close(flow.denoised(noisy, flow.velocity(clean, noise), sigma), clean)


def test_min_snr_is_ddpms_on_the_error_of_the_clean_latents() -> None:
    sigma = torch.linspace(0.05, 0.95, 19)
    clean, noise, wrong = torch.randn(3, 19, 8, generator=torch.Generator().manual_seed(0))
    noisy = flow.interpolate(clean, noise, sigma)
    error = (wrong - flow.velocity(clean, noise)).square().mean(1)
    error_of_clean = (flow.denoised(noisy, wrong, sigma) - clean).square().mean(1)
    signal = (1.0 - sigma) ** 2 / ((1.0 - sigma) ** 2 + sigma**2)  # the alpha_bar of the same signal-to-noise ratio
    assert torch.allclose(
        flow.min_snr_weight(sigma, 5.0) * error, vp.min_snr_weight(signal, "clean", 5.0) * error_of_clean, rtol=1e-4
    )


def test_schedule_shift_keeps_the_ends_and_lifts_the_middle() -> None:
    plain, shifted = flow.linear_schedule(10), flow.linear_schedule(10, shift=3.0)
    assert shifted.sigma[0] == 1 and shifted.sigma[-1] == 0
    assert bool((shifted.sigma[1:-1] > plain.sigma[1:-1]).all())


@pytest.mark.parametrize(("kind", "eta"), [("cps", 1.5), ("flow", -0.1), ("nonsense", 0.5)])
def test_impossible_noise_is_refused(kind: flow.Kind, eta: float) -> None:
    with pytest.raises(ValueError):
        flow.coefficients(kind, torch.tensor([0.5]), torch.tensor([0.4]), eta, 0.9)
