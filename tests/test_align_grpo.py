"""GRPO on the toy generator: every trust region learns, and each does what it promises."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, ToyGenerator, toy_policy

from align import objectives
from align.advantages import group_advantages
from align.grpo import GRPO
from align.train import TrainConfig, train
from base_model import flow
from core.errors import UserError
from core.run import read_metrics

PROMPTS = ["a", "b", "c", "d"]
QUICK = TrainConfig(
    steps=16, prompts_per_step=4, batch=32, denoising_steps=6, learning_rate=1e-2, passes=2, sample_every=0
)
TOY = GRPO(window=3, clip_range=1e-2, kl_limit=1e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {"trust": "clip", "spread": "all"},
        {"trust": "guard"},
        {"trust": "mask"},
        {"group_size": 16, "keep": 8},
        {"noise": "dance", "eta": 0.9, "same_noise": True},
        {"noise": "cps", "eta": 0.5, "clip_range": 0.1},
    ],
    ids=["clip", "guard", "mask", "best-and-worst", "dance", "cps"],
)
def test_raises_brightness_toward_its_optimum(tmp_path: Path, changes: dict[str, object]) -> None:
    algorithm = replace(TOY, **changes)  # type: ignore[arg-type]
    run = train(ToyGenerator(), Brightness(), algorithm, PROMPTS, QUICK, tmp_path / "run")
    rows = read_metrics(run.folder)
    assert abs(rows[0]["reward/total"] - 0.5) < 0.05
    assert sum(row["reward/total"] for row in rows[-3:]) / 3 > 0.75
    assert max(row["align/first_pass_ratio_error"] for row in rows) == 0.0


def test_guard_takes_the_drift_out_of_the_ratio_and_scales_it_by_std() -> None:
    torch.manual_seed(0)
    for std in (0.05, 0.5):
        spread = torch.full((4000, 1), std)
        old = torch.zeros(4000, 50)
        mean = old + 0.3 * std
        sample = old + std * torch.randn(4000, 50)
        ratio = flow.log_prob(sample, mean, spread) - flow.log_prob(sample, old, spread)
        guarded = objectives.guarded_log_ratio(ratio, mean, old, spread)
        assert float(ratio.mean()) == pytest.approx(-0.045, abs=0.003)  # -(.3)^2 / 2
        assert abs(float(guarded.mean())) < 4 * float(guarded.std()) / 4000**0.5
        assert float(guarded.std()) == pytest.approx(0.3 / 50**0.5 * std, rel=0.05)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_guard_weighs_steps_so_that_all_move_the_velocity_alike(shift: float) -> None:
    """The gradient of a guarded log-ratio in the velocity is |d mean / d velocity| z: as large as the step is."""
    schedule = flow.linear_schedule(8, shift)
    step = torch.arange(1, 7)
    sigma, after = schedule.at(step)
    noise = torch.randn(6, 4000)
    velocity, x = torch.zeros(6, 4000, requires_grad=True), torch.randn(6, 4000)
    mean, std = flow.transition("dance", x, velocity, sigma, after, 0.05, sigma_max=schedule.sigma_max)
    ratio = objectives.guarded_log_ratio(
        flow.log_prob((mean + std * noise).detach(), mean, std), mean, mean.detach(), std
    )
    weight = objectives.even_step_weight(sigma, after, 8)
    assert shift != 1.0 or torch.allclose(weight, torch.ones(6, dtype=torch.float64))
    (slope,) = torch.autograd.grad((weight * ratio).sum(), velocity)
    size = slope.norm(dim=1)
    assert float(size.max() / size.min()) < 1.1


def test_only_the_best_and_the_worst_are_learned_from_and_all_are_counted(tmp_path: Path) -> None:
    collected = replace(TOY, keep=2).collect(toy_policy(), Brightness(), PROMPTS, seed=0, step=0)
    everyone = TOY.collect(toy_policy(), Brightness(), PROMPTS, seed=0, step=0).advantage.reshape(4, 8)
    expected = torch.stack([everyone.max(1).values, everyone.min(1).values], 1).flatten()
    assert torch.equal(collected.advantage, expected) and collected.num_sampled == 32


def test_mask_stops_only_moves_that_leave_the_trust_region_further() -> None:
    ratio = torch.tensor([0.1, 0.1, -0.1, -0.1, 0.1], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    moved = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    (slope,) = torch.autograd.grad(objectives.trusted_surrogate(ratio, advantage, moved, 0.5).sum(), ratio)
    assert (slope != 0).tolist() == [False, True, True, False, True]


def test_one_scale_for_all_groups_lets_small_differences_count_little() -> None:
    reward = torch.tensor([0.0, 0.02, 0.0, 1.0])
    every = torch.ones(4, dtype=torch.bool)
    own, shared = (group_advantages(reward, every, 2, 5.0, spread).value for spread in ("group", "all"))
    assert float(own[1]) == pytest.approx(float(own[3]), rel=0.02)
    assert float(shared[3]) == pytest.approx(50 * float(shared[1]), rel=1e-4)


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    for changes, told in (
        ({"group_size": 1}, "group_size 1"),
        ({"keep": 3}, "keep 3 must be even"),
        ({"keep": 10}, "keep 10 must be even and at most group_size 8"),
        ({"kl_limit": 0.0}, "kl_limit 0.0"),
        ({"eta": 0.0}, "eta"),
    ):
        with pytest.raises(UserError, match=told):
            train(ToyGenerator(), Brightness(), replace(TOY, **changes), PROMPTS, QUICK, tmp_path / "run")  # type: ignore[arg-type]
