"""DDPM's mathematics as identities: closed forward, posterior, conversions, weights, and a bound with a known value."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from base_model import flow, vp

PROCESSES = {"linear": vp.linear(), "cosine": vp.cosine()}


@pytest.fixture(params=list(PROCESSES))
def process(request: pytest.FixtureRequest) -> vp.Process:
    return PROCESSES[request.param]


def test_a_process_falls_from_clean_to_noise(process: vp.Process) -> None:
    assert process.num_times == 1000 and process.alpha_bar[0] == 1.0
    assert bool((process.alpha_bar.diff() < 0).all()) and 0 < float(process.alpha_bar[-1]) < 1e-4


@pytest.mark.parametrize(("name", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_alpha_bar_is_diffusers(name: str, theirs: str) -> None:
    expected = DDPMScheduler(beta_schedule=theirs).alphas_cumprod
    torch.testing.assert_close(PROCESSES[name].alpha_bar[1:].float(), expected, atol=1e-6, rtol=1e-3)


def test_one_closed_step_forward_is_many_small_ones(process: vp.Process) -> None:
    """Coefficients of the chain x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise, carried along exactly."""
    signal, variance = 1.0, 0.0
    for time in range(1, 401):
        beta = float(1 - process.alpha_bar[time] / process.alpha_bar[time - 1])
        signal, variance = signal * math.sqrt(1 - beta), (1 - beta) * variance + beta
    one, zero, time = torch.ones(1, 1).double(), torch.zeros(1, 1).double(), torch.tensor([400])
    assert float(vp.noised(process, one, zero, time)) == pytest.approx(signal, abs=1e-12)
    assert float(vp.noised(process, zero, one, time)) ** 2 == pytest.approx(variance, abs=1e-12)


def test_the_posterior_is_bayes_rule(process: vp.Process) -> None:
    """Precisions add: q(x_{t-1} | x_t, clean) is prior N(x_{t-1} | clean) times likelihood N(x_t | x_{t-1})."""
    time, clean, noisy = torch.tensor([1, 2, 500, 1000]), torch.randn(4, 3).double(), torch.randn(4, 3).double()
    now, before = (process.alpha_bar[t][:, None] for t in (time, time - 1))
    beta = 1 - now / before
    prior_variance = (1 - before).clamp(min=1e-30)
    precision = 1 / prior_variance + (1 - beta) / beta
    mean = (before.sqrt() * clean / prior_variance + (1 - beta).sqrt() * noisy / beta) / precision
    got_mean, got_variance = vp.posterior(process, clean, noisy, time)
    torch.testing.assert_close(got_mean, mean, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(got_variance, 1 / precision, atol=1e-12, rtol=1e-9)
    assert float(got_variance[0]) == 0.0 and torch.equal(got_mean[0], clean[0])  # t = 1 ends in the data


def test_the_ancestral_transition_draws_from_the_posterior(process: vp.Process) -> None:
    """`flow.transition("ddim", eta=1)` at the predicted clean latents is DDPM's step."""
    time, noisy, v = torch.tensor([700]), torch.randn(1, 5), torch.randn(1, 5)
    clean = vp.convert(v, noisy, process.alpha_bar[time], "velocity", "clean")
    mean, variance = vp.posterior(process, clean, noisy, time)
    sigma = (1 - process.alpha_bar).sqrt()
    got, std = flow.transition("ddim", noisy, v, sigma[time], sigma[time - 1], 1.0)
    torch.testing.assert_close(got, mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(std**2, variance.to(std), atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("source", ["noise", "velocity", "clean"])
@pytest.mark.parametrize("target", ["noise", "velocity", "clean"])
def test_predictions_convert_into_each_other(source: vp.Prediction, target: vp.Prediction) -> None:
    alpha_bar, clean, noise = (
        torch.tensor([0.9, 0.5, 0.01]).double(),
        torch.randn(3, 4).double(),
        torch.randn(3, 4).double(),
    )
    a, s = alpha_bar.sqrt()[:, None], (1 - alpha_bar).sqrt()[:, None]
    noisy = a * clean + s * noise
    truth = {"noise": noise, "clean": clean, "velocity": a * noise - s * clean}
    torch.testing.assert_close(vp.convert(truth[source], noisy, alpha_bar, source, target), truth[target])


def test_min_snr_weighs_every_prediction_the_same() -> None:
    """The weighted error of a wrong clean prediction does not depend on how the network says it."""
    alpha_bar = torch.tensor([0.999, 0.9, 0.5, 0.05]).double()
    noisy, right, wrong = (torch.randn(4, 6).double() for _ in range(3))
    losses = []
    for kind in ("clean", "noise", "velocity"):
        difference = vp.convert(right, noisy, alpha_bar, "clean", kind) - vp.convert(
            wrong, noisy, alpha_bar, "clean", kind
        )
        losses.append(vp.min_snr_weight(alpha_bar, kind) * difference.square().mean(1))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])
    weight = vp.min_snr_weight(alpha_bar, "clean")
    assert float(weight[0]) == 5.0 and float(weight[2]) == pytest.approx(1.0)


def _bound_above_entropy(levels: int, wrong: float = 0.0) -> float:
    """Bits per dimension over the entropy of N(.3, .5^2), predicted as well as can be, or `wrong` by a constant."""
    std, mean = 0.5, 0.3
    noise = torch.sigmoid(torch.linspace(4.0, -3.0, levels, dtype=torch.float64)).tolist()  # even in log SNR
    signal = [1 - s for s in noise]

    def best(noisy: torch.Tensor, index: int) -> torch.Tensor:
        a, s = signal[index], noise[index]
        return mean + a * std**2 * (noisy - a * mean) / (a**2 * std**2 + s**2) + wrong

    rng = torch.Generator().manual_seed(0)
    clean = mean + std * torch.randn(1, 20_000, generator=rng)
    bits = float(vp.bits_per_dimension(clean, best, signal, noise, rng))
    return bits - 0.5 * math.log2(2 * math.pi * math.e * std**2)


def test_the_bound_of_a_gaussian_falls_to_its_entropy_with_more_steps() -> None:
    """The best prediction leaves only the price of finite steps, which is proportional to their size."""
    few, many = _bound_above_entropy(100), _bound_above_entropy(800)
    assert 0.0 < many < 0.04 and few > 5 * many
    assert _bound_above_entropy(800, wrong=0.05) > many + 0.1


def test_a_process_gives_the_samplers_their_levels(process: vp.Process) -> None:
    schedule = process.schedule(20)
    assert schedule.num_steps == 20 and float(schedule.sigma[-1]) == 0.0 and bool((schedule.sigma.diff() < 0).all())
    with pytest.raises(ValueError, match="do not fit 1000 times"):
        process.schedule(1001)


def test_logit_normal_levels_have_the_median_that_the_shift_gives() -> None:
    level = flow.logit_normal(20_001, torch.Generator().manual_seed(0), shift=3.0)
    assert float(level.median()) == pytest.approx(3 * 0.5 / (1 + 2 * 0.5), abs=0.01)
    plain = flow.logit_normal(20_001, torch.Generator().manual_seed(0), mean=0.5, std=0.8)
    assert float(plain.logit().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(plain.logit().std()) == pytest.approx(0.8, abs=0.02)
