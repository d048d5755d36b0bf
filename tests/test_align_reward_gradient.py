"""Reward gradients on the toy generator: exactly the gradient of the whole chain, and refused where there is none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, Scores, ToyGenerator, toy_policy

from align.policy import Policy
from align.reward_gradient import RewardGradient
from align.train import TrainConfig, train
from base_model import flow, sampler
from core.errors import UserError
from core.randomness import seed_for
from core.run import read_metrics

PROMPTS = ["a", "b", "c", "d"]
QUICK = TrainConfig(steps=24, prompts_per_step=8, batch=8, denoising_steps=6, learning_rate=1e-2, sample_every=0)
VARIANTS = [RewardGradient(), RewardGradient(last_steps=6), RewardGradient("draft-lv"), RewardGradient("refl")]


def _gradient(policy: Policy, algorithm: RewardGradient, reward: Brightness) -> list[torch.Tensor]:
    experience = algorithm.collect(policy, reward, PROMPTS, seed=0, step=0)
    for part in experience.parts(policy.batch, 0, 1):
        loss, _ = algorithm.loss(policy, part)
        assert float(loss.detach()) == 0.0  # no step taken, nothing gained: the replay is what was sampled
        (loss * part.share).backward()
    slopes = [value.grad.clone() for value in policy.parameters]  # type: ignore[union-attr]
    for value in policy.parameters:
        value.grad = None
    return slopes


def _moved_policy() -> Policy:
    """LoRA's first update has gradients in one half only; somewhere else both halves have one."""
    policy = toy_policy(batch=3)
    for index, value in enumerate(policy.parameters):
        value.data += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(index))
    return policy


@pytest.mark.parametrize("last", [1, 3, 6])
def test_draft_is_autograd_through_sampling_decoding_and_reward(last: int) -> None:
    policy = _moved_policy()
    found = _gradient(policy, RewardGradient(last_steps=last), Brightness())
    latents = sampler.initial_noise(
        policy.generator, [seed_for(0, "training clip", 0, row) for row in range(len(PROMPTS))]
    )
    condition = policy.condition(PROMPTS)
    for index in range(6):
        step = torch.full((4,), index)
        velocity = policy.velocity(latents, step, condition)
        latents, _ = flow.transition("ode", latents, velocity, *policy.schedule.at(step), 0.0)
        if index == 5 - last:
            latents = latents.detach()
    (-Brightness()(policy.generator.decode(latents), PROMPTS).total.mean()).backward()
    for slope, value in zip(found, policy.parameters, strict=True):
        torch.testing.assert_close(slope, value.grad, atol=1e-7, rtol=1e-4)
        assert float(slope.abs().max()) > 0


def test_refl_is_autograd_through_the_predicted_clip() -> None:
    policy = _moved_policy()
    algorithm = RewardGradient("refl", earliest_step=5)
    found = _gradient(policy, algorithm, Brightness())
    experience = algorithm.collect(policy, Brightness(), PROMPTS, seed=0, step=0)
    before, step = experience.trajectory.before[:, 0], experience.trajectory.steps.expand(4)
    velocity = policy.velocity(before, step, policy.condition(PROMPTS))
    clean = flow.denoised(before, velocity, policy.schedule.at(step)[0])
    (-Brightness()(policy.generator.decode(clean), PROMPTS).total.mean()).backward()
    for slope, value in zip(found, policy.parameters, strict=True):
        torch.testing.assert_close(slope, value.grad, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("algorithm", VARIANTS, ids=["draft-1", "draft-6", "draft-lv", "refl"])
def test_raises_brightness_toward_its_optimum(tmp_path: Path, algorithm: RewardGradient) -> None:
    run = train(ToyGenerator(), Brightness(), algorithm, PROMPTS, QUICK, tmp_path / "run")
    brightness = [row["reward/total"] for row in read_metrics(run.folder)]
    assert abs(brightness[0] - 0.5) < 0.1
    assert sum(brightness[-3:]) / 3 > 0.75


def test_draft_lv_averages_over_copies_noised_again() -> None:
    experience = RewardGradient("draft-lv", redraws=3).collect(toy_policy(), Brightness(), PROMPTS, seed=0, step=0)
    path = experience.trajectory
    assert path.steps.tolist() == [5] * 4 and path.before.shape[:2] == (4, 4)
    sigma = float(toy_policy().schedule.sigma[5])
    noise = (path.before[:, 1:] - (1 - sigma) * path.latents[:, None]) / sigma
    assert abs(float(noise.mean())) < 0.4 and abs(float(noise.std()) - 1) < 0.3
    assert not torch.allclose(noise[:, 0], noise[:, 1])


def test_a_lower_reward_is_better_where_the_reward_says_so() -> None:
    policy = _moved_policy()
    up = _gradient(policy, RewardGradient(), Brightness())
    down = _gradient(policy, RewardGradient(), Brightness(higher_is_better=False))
    assert all(torch.equal(a, -b) for a, b in zip(up, down, strict=True))


def test_above_the_ceiling_nothing_pulls_and_broken_rewards_neither() -> None:
    policy = _moved_policy()
    assert all(float(slope.abs().max()) == 0 for slope in _gradient(policy, RewardGradient(ceiling=0.1), Brightness()))
    every = _gradient(policy, RewardGradient(ceiling=0.99), Brightness())
    assert all(torch.equal(a, b) for a, b in zip(every, _gradient(policy, RewardGradient(), Brightness()), strict=True))
    some = RewardGradient().collect(policy, Brightness(broken=(0,)), PROMPTS, seed=0, step=0)
    assert [float(row.abs().max()) > 0 for row in some.extra["slope"]] == [False, True, True, False]  # batches of 3


def test_kl_holds_the_policy_at_the_reference(tmp_path: Path) -> None:
    algorithm = RewardGradient(kl_weight=100.0)
    run = train(ToyGenerator(), Brightness(), algorithm, PROMPTS, QUICK, tmp_path / "run")
    last = read_metrics(run.folder)[-1]
    assert last["reward/total"] < 0.6 and last["align/kl_reference"] > 0


def test_a_reward_without_a_gradient_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'brightness' says it is not differentiable"):
        train(ToyGenerator(), Brightness(differentiable=False), RewardGradient(), PROMPTS, QUICK, tmp_path / "run")
    assert not (tmp_path / "run").exists()

    @dataclass(frozen=True)
    class Boastful(Brightness):
        def __call__(self, frames: torch.Tensor, prompts: Sequence[str]) -> Scores:
            return super().__call__(frames.detach(), prompts)

    with pytest.raises(UserError, match="says it is differentiable but its score carries no gradient"):
        train(ToyGenerator(), Boastful(), RewardGradient(), PROMPTS, QUICK, tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [{"last_steps": 0}, {"last_steps": 7}, {"redraws": 0, "variant": "draft-lv"}, {"earliest_step": 6}],
)
def test_impossible_settings_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(changes))} . must be"):
        train(ToyGenerator(), Brightness(), replace(RewardGradient(), **changes), PROMPTS, QUICK, tmp_path / "run")  # type: ignore[arg-type]
