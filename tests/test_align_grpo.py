"""GRPO on the toy generator: every trust region learns, and each does what it promises."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, ToyGenerator

from align import objectives
from align.advantages import group_advantages
from align.grpo import GRPO
from align.train import TrainConfig, train
from base_model import flow
from core.errors import UserError
from core.run import read_metrics

PROMPTS = ["a", "b", "c", "d"]
QUICK = TrainConfig(
    steps=16, prompts_per_step=4, batch=16, denoising_steps=6, learning_rate=1e-2, updates=2, sample_every=0
)
TOY = GRPO(window=3, clip_range=1e-2, kl_limit=1e-2)


@pytest.mark.parametrize("trust", ["clip", "guard", "mask"])
def test_raises_brightness_toward_its_optimum(tmp_path: Path, trust: str) -> None:
    algorithm = replace(TOY, trust=trust, spread="all")  # type: ignore[arg-type]
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
        ({"kl_limit": 0.0}, "kl_limit 0.0"),
        ({"eta": 0.0}, "eta"),
    ):
        with pytest.raises(UserError, match=told):
            train(ToyGenerator(), Brightness(), replace(TOY, **changes), PROMPTS, QUICK, tmp_path / "run")  # type: ignore[arg-type]
