"""The denoising loop on the toy generator: what is kept, what is refused, and what noise depends on."""

import pytest
import torch
from toy_generator import ToyGenerator

from base_model import flow, sampler, solvers
from core.errors import UserError
from core.randomness import torch_generator

GENERATOR = ToyGenerator()
PROMPTS = ["a", "b", "c", "d"]


def _sample(count: int = 4, **options: object) -> sampler.Trajectory:
    condition = GENERATOR.encode_prompts(PROMPTS[:count])
    noise = sampler.initial_noise(GENERATOR, range(count))
    rng = [torch_generator(0, "test", row) for row in range(count)]
    return sampler.sample(sampler.denoise(GENERATOR, condition, noise=noise, num_steps=6, rng=rng, **options))  # type: ignore[arg-type]


def test_only_window_steps_are_kept_and_stochastic() -> None:
    path = _sample(kind="flow", eta=0.7, window=range(1, 3))
    assert path.steps.tolist() == [1, 2] and path.before.shape == (4, 2, 2, 1, 2, 2) and path.log_prob.shape == (4, 2)
    quiet = _sample()
    states = list(
        sampler.denoise(
            GENERATOR, GENERATOR.encode_prompts(PROMPTS), noise=sampler.initial_noise(GENERATOR, range(4)), num_steps=6
        )
    )
    assert torch.equal(path.before[:, 0], states[0].after)  # the ODE up to the window
    assert torch.equal(quiet.latents, states[-1].after) and not torch.equal(path.latents, quiet.latents)
    assert quiet.before.shape == (4, 0, 2, 1, 2, 2)


def test_stored_log_prob_is_that_of_the_stored_transition() -> None:
    path = _sample(kind="flow", eta=0.7, window=range(0, 5))
    schedule = GENERATOR.schedule(6)
    condition = GENERATOR.encode_prompts(PROMPTS)
    for index, step in enumerate(path.steps):
        steps = step.expand(4)
        velocity = GENERATOR.predict(path.before[:, index], steps, schedule, condition)
        mean, std = flow.transition(
            "flow", path.before[:, index], velocity, *schedule.at(steps), 0.7, sigma_max=schedule.sigma_max
        )
        expected = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(path.after[:, index])
        torch.testing.assert_close(path.log_prob[:, index], expected.flatten(1).mean(1).detach())


def test_a_clip_does_not_depend_on_its_batch() -> None:
    together = _sample(4, kind="flow", eta=0.7, window=range(0, 3))
    fewer = _sample(2, kind="flow", eta=0.7, window=range(0, 3))
    torch.testing.assert_close(together.latents[:2], fewer.latents)
    frames = sampler.generate_frames(GENERATOR, PROMPTS, seeds=[5, 6, 7, 8], num_steps=4, batch=3)
    torch.testing.assert_close(
        frames[2:3], sampler.generate_frames(GENERATOR, ["c"], seeds=[7], num_steps=4), atol=1e-6, rtol=0
    )
    assert frames.shape == (4, 1, 3, 2, 2) and float(frames.min()) >= 0 and float(frames.max()) <= 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "flow", "eta": 0.0}, "eta 0.0"),
        ({"kind": "cps", "eta": 1.2}, "eta 1.2"),
        ({"kind": "ddim", "eta": 1.0}, "family 'flow'"),
        ({"kind": "flow", "eta": 0.7, "window": range(3, 6)}, "inside 0..4"),
        ({"kind": "flow", "eta": 0.7, "window": range(0)}, "window"),
    ],
)
def test_noise_without_a_log_probability_is_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        _sample(**options)


def test_guidance_one_is_no_guidance() -> None:
    condition, noise = GENERATOR.encode_prompts(PROMPTS), sampler.initial_noise(GENERATOR, range(4))
    plain = sampler.sample(sampler.denoise(GENERATOR, condition, noise=noise, num_steps=4))
    guided = sampler.sample(
        sampler.denoise(
            GENERATOR, condition, noise=noise, num_steps=4, guidance=1.0, unconditional=GENERATOR.unconditional(4)
        )
    )
    assert torch.equal(plain.latents, guided.latents)


# --- any solver, guidance in an interval, negative prompts ------------------------------------------------------------


def _draw(sampling: sampler.Sampling, **options: object) -> torch.Tensor:
    return sampler.draw(
        sampler.solve(
            GENERATOR,
            GENERATOR.encode_prompts(PROMPTS),
            noise=sampler.initial_noise(GENERATOR, range(4)),
            sampling=sampling,
            rng=sampler.solver_noise(range(4)),
            **options,  # type: ignore[arg-type]
        )
    )


def test_euler_is_the_deterministic_policy_step_to_the_bit() -> None:
    assert torch.equal(_draw(sampler.Sampling(num_steps=6)), _sample().latents)


@pytest.mark.parametrize("solver", solvers.NAMES)
def test_every_solver_draws_the_toys_distribution(solver: solvers.Name) -> None:
    """Without adapters the toy samples N(0, 1) exactly; the deterministic solvers keep even the noise's own order."""
    drawn = _draw(sampler.Sampling(num_steps=40, solver=solver))
    noise = sampler.initial_noise(GENERATOR, range(4))
    if solver in ("euler", "heun", "dpm++2m"):
        torch.testing.assert_close(drawn, noise, atol=0.15, rtol=0.1)
    else:
        assert abs(float(drawn.std()) - 1) < 0.4


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm++2m"])
def test_a_variance_preserving_model_is_solved_on_the_straight_path(solver: solvers.Name) -> None:
    """The exact v-prediction of clean data N(0, 1) is 0 everywhere, so nothing may move."""

    class Still(ToyGenerator):
        def predict(self, latents: torch.Tensor, *_: object) -> torch.Tensor:
            return torch.zeros_like(latents)

    still = Still(family="vp")
    noise = sampler.initial_noise(still, range(4))
    drawn = sampler.draw(
        sampler.solve(
            still, still.encode_prompts(PROMPTS), noise=noise, sampling=sampler.Sampling(num_steps=30, solver=solver)
        )
    )
    old = sampler.sample(sampler.denoise(still, still.encode_prompts(PROMPTS), noise=noise, num_steps=30)).latents
    if solver == "euler":
        torch.testing.assert_close(drawn, old, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(drawn, noise, atol=0.06 if solver == "euler" else 5e-3, rtol=0.05)


class Counting(ToyGenerator):
    """Keeps the guidance of every call."""

    def predict(self, latents, step, schedule, condition, unconditional=None, guidance=1.0):  # type: ignore[no-untyped-def]
        self.encoded.append(f"{float(schedule.at(step)[0][0]):.2f} {guidance if unconditional is not None else 1.0}")
        return super().predict(latents, step, schedule, condition, unconditional, guidance)


def test_guidance_acts_inside_its_interval_and_costs_nothing_outside() -> None:
    counting = Counting()
    condition, noise = counting.encode_prompts(PROMPTS), sampler.initial_noise(counting, range(4))
    counting.encoded.clear()
    sampling = sampler.Sampling(num_steps=5, guidance=3.0, guidance_interval=(0.3, 0.7))
    sampler.draw(
        sampler.solve(counting, condition, noise=noise, sampling=sampling, unconditional=counting.unconditional(4))
    )
    assert counting.encoded == ["1.00 1.0", "0.80 1.0", "0.60 3.0", "0.40 3.0", "0.20 1.0"]


def test_guidance_leads_away_from_the_negative_prompt() -> None:
    plain, negative = sampler.Sampling(guidance=2.0), sampler.Sampling(guidance=2.0, negative_prompt="blurred")
    assert sampler.opposite(GENERATOR, sampler.Sampling(), 3) is None
    for sampling, expected in (
        (plain, GENERATOR.unconditional(3)),
        (negative, GENERATOR.encode_prompts(["blurred"] * 3)),
    ):
        got = sampler.opposite(GENERATOR, sampling, 3)
        assert got is not None and torch.equal(got["prompt"], expected["prompt"])
    frames = [sampler.generate_frames(GENERATOR, PROMPTS, seeds=range(4), sampling=one) for one in (plain, negative)]
    assert frames[0].shape == frames[1].shape


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"batch": -1}, "batch is -1"),
        ({"guidance_interval": (0.6, 0.4)}, "guidance interval 0.6 to 0.4"),
        ({"negative_prompt": "blurred"}, "a negative prompt does nothing at guidance 1"),
        ({"solver": "rk4"}, "solver 'rk4' is unknown"),
        ({"eta": 2.0}, "eta 2.0 is out of range"),
    ],
)
def test_a_sampling_that_cannot_be_is_one_line(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        sampler.Sampling(**options)  # type: ignore[arg-type]


def test_a_schedule_begun_in_the_middle_keeps_the_levels_below() -> None:
    whole = flow.linear_schedule(10)
    part = flow.from_level(whole, 0.55)
    assert part.sigma.tolist() == pytest.approx([0.55, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert torch.equal(flow.from_level(whole, 1.0).sigma, whole.sigma)
    with pytest.raises(ValueError, match="not at 0"):
        flow.from_level(whole, 0)
