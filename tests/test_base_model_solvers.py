"""Solvers against closed forms: order of convergence on a Gaussian, each other, and diffusers' schedulers."""

import math
from collections.abc import Sequence

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)

from base_model import flow, solvers
from core.errors import UserError

MEAN, STD = 0.7, 0.5


def _levels(num_steps: int) -> list[float]:
    return flow.linear_schedule(num_steps).sigma.tolist()


def _gaussian(levels: Sequence[float]) -> solvers.Field:
    """The exact field for clean data N(MEAN, STD^2)."""

    def field(x: torch.Tensor, index: int) -> torch.Tensor:
        s = levels[index]
        surplus = (x - (1 - s) * MEAN) / ((1 - s) ** 2 * STD**2 + s**2)
        return s * surplus - (MEAN + (1 - s) * STD**2 * surplus)

    return field


def _curved(levels: Sequence[float]) -> solvers.Field:
    """A field that is no probability flow and bends everywhere, so that every order of error shows."""
    return lambda x, index: torch.sin(3.0 * x + 2.0 * levels[index])


def _end(name: solvers.Name, field: solvers.Field, x: torch.Tensor, levels: Sequence[float]) -> torch.Tensor:
    *_, last = solvers.solve(name, field, x, levels, eta=0.0)
    return last


def _exact(x: torch.Tensor, start: float, end: float) -> torch.Tensor:
    """The probability flow of a Gaussian keeps every quantile in its place."""
    variance = [(1 - s) ** 2 * STD**2 + s**2 for s in (start, end)]
    return (1 - end) * MEAN + (x - (1 - start) * MEAN) * math.sqrt(variance[1] / variance[0])


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpm++2m", 2)])
def test_halving_the_step_divides_the_error_by_two_to_the_order(name: solvers.Name, order: int) -> None:
    x = torch.tensor([-2.0, -0.3, 0.4, 1.0], dtype=torch.float64)[:, None]
    errors = []
    for num_steps in (40, 80, 160):
        levels = torch.sigmoid(torch.linspace(3.0, -3.0, num_steps + 1, dtype=torch.float64)).tolist()
        exact = _exact(x, levels[0], levels[-1])
        errors.append(float((_end(name, _gaussian(levels), x, levels) - exact).abs().max()))
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert abs(math.log2(coarse / fine) - order) < 0.2


@pytest.mark.parametrize(("name", "most"), [("euler", 0.04), ("heun", 0.0011), ("dpm++2m", 0.005)])
def test_the_whole_way_from_noise_to_data_ends_at_the_datas_quantile(name: solvers.Name, most: float) -> None:
    """With 40 even steps; the last is of first order in all of them, and so is the first of dpm++2m."""
    x, levels = torch.tensor([-2.0, -0.3, 0.4, 1.0], dtype=torch.float64)[:, None], _levels(40)
    assert float((_end(name, _gaussian(levels), x, levels) - (MEAN + STD * x)).abs().max()) < most


def test_ddim_without_noise_is_euler() -> None:
    x, levels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), _levels(9)
    torch.testing.assert_close(
        _end("ddim", _curved(levels), x, levels), _end("euler", _curved(levels), x, levels), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_one_ddim_step_is_the_transition_of_the_variance_preserving_family(eta: float) -> None:
    """On the straight path, brought back onto the circle: the step that `flow` replays for a policy gradient."""
    x, v = torch.randn(6, 4), torch.randn(6, 4)
    sigma, after = 0.8, 0.5
    alpha, alpha_after = math.sqrt(1 - sigma**2), math.sqrt(1 - after**2)
    mean, std = flow.transition("ddim", x, v, torch.full((6,), sigma), torch.full((6,), after), eta)
    rng = [torch.Generator().manual_seed(row) for row in range(6)]
    expected = mean + std * solvers.fresh_noise(rng, x)
    field = (sigma * x + alpha * v) - (alpha * x - sigma * v)
    levels = [sigma / (alpha + sigma), after / (alpha_after + after)]
    rng = [torch.Generator().manual_seed(row) for row in range(6)]
    (moved,) = solvers.ancestral(lambda *_: field, x / (alpha + sigma), levels, eta, rng)
    torch.testing.assert_close(moved * (alpha_after + after), expected)


@pytest.mark.parametrize(("name", "eta"), [("ddpm", 1.0), ("ddim", 0.5)])
def test_fresh_noise_keeps_the_distribution_of_the_data(name: solvers.Name, eta: float) -> None:
    count, levels = 20_000, _levels(120)
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(1, count, generator=rng)
    *_, x = solvers.solve(name, _gaussian(levels), x, levels, eta=eta, rng=[rng])
    # 4 standard errors, and 2 % for the finite step
    assert abs(float(x.mean()) - MEAN) < 4 * STD / math.sqrt(count) + 0.01
    assert abs(float(x.var()) / STD**2 - 1) < 4 * math.sqrt(2 / count) + 0.02


# --- diffusers as a second opinion ------------------------------------------------------------------------------------


def test_euler_and_heun_are_diffusers() -> None:
    sigmas = flow.linear_schedule(8, shift=3.0).sigma.tolist()
    field, x = _curved(sigmas), torch.randn(2, 3)
    euler = FlowMatchEulerDiscreteScheduler()
    euler.set_timesteps(sigmas=sigmas[:-1])
    theirs = x
    for index, time in enumerate(euler.timesteps):
        theirs = euler.step(field(theirs, index), time, theirs).prev_sample
    torch.testing.assert_close(_end("euler", field, x, sigmas), theirs)

    heun = FlowMatchHeunDiscreteScheduler()
    heun.set_timesteps(8)
    sigmas = [float(heun.sigmas[0]), *heun.sigmas[1::2].tolist()]
    field, theirs = _curved(sigmas), x
    for index, time in enumerate(heun.timesteps):
        theirs = heun.step(field(theirs, (index + 1) // 2), time, theirs).prev_sample
    torch.testing.assert_close(_end("heun", field, x, sigmas), theirs)


def test_dpm_solver_is_diffusers() -> None:
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(16)  # below 15 steps diffusers makes the last but one of first order
    sigmas = scheduler.sigmas.tolist()
    field = _curved(sigmas)
    x = torch.randn(2, 3)
    theirs = x
    for index, time in enumerate(scheduler.timesteps):
        theirs = scheduler.step(field(theirs, index), time, theirs).prev_sample
    torch.testing.assert_close(_end("dpm++2m", field, x, sigmas), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_a_noisy_step_is_diffusers(kind: type[DDIMScheduler] | type[DDPMScheduler]) -> None:
    scheduler = kind(prediction_type="v_prediction", clip_sample=False, beta_schedule="squaredcos_cap_v2")
    scheduler.set_timesteps(10)
    now, after = scheduler.timesteps[3], scheduler.timesteps[4]
    x, v = torch.randn(1, 50_000), torch.randn(1, 50_000)
    generator = torch.Generator().manual_seed(3)
    options = {"eta": 1.0} if kind is DDIMScheduler else {}
    theirs = scheduler.step(v, now, x, generator=generator, **options).prev_sample
    pairs = [
        (float(scheduler.alphas_cumprod[t].sqrt()), float((1 - scheduler.alphas_cumprod[t]).sqrt()))
        for t in (now, after)
    ]
    (alpha, sigma), (alpha_after, sigma_after) = pairs
    field = (sigma * x + alpha * v) - (alpha * x - sigma * v)
    levels = [s / (a + s) for a, s in pairs]
    rng = [torch.Generator().manual_seed(3)]
    (ours,) = solvers.ancestral(lambda *_: field, x / (alpha + sigma), levels, 1.0, rng)
    torch.testing.assert_close(ours * (alpha_after + sigma_after), theirs, atol=1e-4, rtol=1e-4)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_an_unknown_solver_or_eta_is_one_line() -> None:
    x = torch.zeros(1, 2)
    with pytest.raises(UserError, match="solver 'rk4' is unknown; known: euler, heun, dpm"):
        solvers.solve("rk4", _curved([1.0, 0.0]), x, [1.0, 0.0])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="eta 1.5 is out of range"):
        solvers.solve("ddim", _curved([1.0, 0.0]), x, [1.0, 0.0], eta=1.5)
    with pytest.raises(ValueError, match="one random generator per row: 1 rows, 0 generators"):
        list(solvers.solve("ddpm", _curved([1.0, 0.5, 0.0]), x, [1.0, 0.5, 0.0]))
