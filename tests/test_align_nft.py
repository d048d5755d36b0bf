"""DiffusionNFT on the toy generator: it learns, and its gradient is what the paper says."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, ToyGenerator, toy_policy

from align import objectives
from align.grpo import GRPO
from align.nft import NFT
from align.protocol import Algorithm
from align.renoise import levels_at
from align.reward_gradient import RewardGradient
from align.train import TrainConfig, train
from base_model import flow
from base_model.sampler import initial_noise
from core.errors import UserError
from core.run import read_metrics

PROMPTS = ["a", "b", "c", "d"]
QUICK = TrainConfig(
    steps=16,
    prompts_per_step=4,
    batch=32,
    denoising_steps=6,
    learning_rate=1e-2,
    passes=2,
    sample_every=0,
)
TOY = NFT(advantage_limit=2.0)


@pytest.mark.parametrize("algorithm", [TOY, replace(TOY, old_decay=0.3, strength=0.5), replace(TOY, kl_weight=1e-3)])
def test_raises_brightness_toward_its_optimum(tmp_path: Path, algorithm: NFT) -> None:
    run = train(ToyGenerator(), Brightness(), algorithm, PROMPTS, QUICK, tmp_path / "run")
    brightness = [row["reward/total"] for row in read_metrics(run.folder)]
    assert abs(brightness[0] - 0.5) < 0.05
    assert sum(brightness[-3:]) / 3 > 0.75


def test_at_the_sampling_policy_only_the_advantage_is_left_of_the_gradient() -> None:
    clean, noise = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    sigma, goodness = torch.tensor([0.3, 0.6, 0.9]), torch.tensor([1.0, 0.5, 0.2])
    latents = flow.interpolate(clean, noise, sigma)
    velocity = torch.randn(3, 2, 4).requires_grad_()
    loss = objectives.contrast(clean, latents, sigma, velocity, velocity.detach(), goodness, strength=1.0)
    (slope,) = torch.autograd.grad(loss.sum(), velocity)
    wide = sigma.reshape(3, 1, 1)
    miss = latents - wide * velocity.detach() - clean
    scale = miss.abs().flatten(1).mean(1).reshape(3, 1, 1)
    expected = (2 * goodness - 1).reshape(3, 1, 1) * -wide * 2 * miss / 8 / scale
    torch.testing.assert_close(slope, expected)
    assert float(slope[1].abs().max()) < 1e-7  # as good as the group: nothing to learn


def test_any_solver_draws_the_clips(tmp_path: Path) -> None:
    """Known answer: the untrained toy takes N(0, 1) noise to itself, the more exactly the better the solver."""
    distance = {}
    for solver in ("euler", "heun", "dpm++2m"):
        policy = replace(toy_policy(), solver=solver)
        noise = initial_noise(policy.generator, range(16))
        (path,) = policy.sample_batches(policy.condition(["a"] * 16), noise)
        assert path.before.shape[:2] == (16, 0) and path.log_prob.shape == (16, 0)
        distance[solver] = float((path.latents - noise).square().mean())
    assert distance["heun"] < distance["dpm++2m"] < distance["euler"] < 0.2, distance
    run = train(ToyGenerator(), Brightness(), TOY, PROMPTS, replace(QUICK, solver="dpm++2m"), tmp_path / "run")
    brightness = [row["reward/total"] for row in read_metrics(run.folder)]
    assert sum(brightness[-3:]) / 3 > 0.75


@pytest.mark.parametrize("algorithm", [GRPO(), RewardGradient()])
def test_steps_that_are_judged_one_by_one_are_eulers(tmp_path: Path, algorithm: Algorithm) -> None:
    with pytest.raises(UserError, match="solver 'heun' takes steps that cannot be judged one by one"):
        train(ToyGenerator(), Brightness(), algorithm, PROMPTS, replace(QUICK, solver="heun"), tmp_path / "run")


def test_a_group_shares_its_noise_and_no_other_group_does() -> None:
    policy = toy_policy()
    experience = replace(TOY, group_size=4, levels=2).collect(policy, Brightness(), PROMPTS[:2], seed=0, step=0)
    path, clean = experience.trajectory, experience.trajectory.latents
    for index, sigma in enumerate(policy.schedule.at(path.steps)[0]):
        noise = (path.before[:, index] - (1 - sigma) * clean) / sigma
        first, second = noise[:4], noise[4:]
        torch.testing.assert_close(first, first[:1].expand_as(first))
        torch.testing.assert_close(second, second[:1].expand_as(second))
        assert not torch.allclose(first[0], second[0], atol=0.1)


def test_the_levels_cover_the_schedule() -> None:
    drawn = [levels_at(10, 3, seed=0, step=step).tolist() for step in range(60)]
    assert all(low < 3 <= middle < 6 <= high for low, middle, high in drawn)
    assert {step for steps in drawn for step in steps} == set(range(10))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"group_size": 1}, "group_size 1"),
        ({"levels": 7}, "levels 7 must be in 1..6"),
        ({"old_decay": 1.0}, "old_decay"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        train(ToyGenerator(), Brightness(), replace(TOY, **changes), PROMPTS, QUICK, tmp_path / "run")
