"""The denoising loop on the toy generator: what is kept, what is refused, and what noise depends on."""

import pytest
import torch
from toy_generator import ToyGenerator

from base_model import flow, sampler
from core.errors import UserError
from core.randomness import torch_generator

GENERATOR = ToyGenerator()
PROMPTS = ["a", "b", "c", "d"]


def _sample(count: int = 4, **options: object) -> sampler.Trajectory:
    condition = GENERATOR.encode_prompts(PROMPTS[:count])
    noise = sampler.initial_noise(GENERATOR, range(count))
    rng = [torch_generator(0, "test", row) for row in range(count)]
    return sampler.sample(GENERATOR, condition, noise=noise, num_steps=6, rng=rng, **options)  # type: ignore[arg-type]


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
    plain = sampler.sample(GENERATOR, condition, noise=noise, num_steps=4)
    guided = sampler.sample(
        GENERATOR, condition, noise=noise, num_steps=4, guidance=1.0, unconditional=GENERATOR.unconditional(4)
    )
    assert torch.equal(plain.latents, guided.latents)
