"""The signs that are always watched, each against a known answer."""

import math
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, ToyGenerator

from align import health
from align.ddpo import DDPO
from align.train import TrainConfig, train
from core.run import read_metrics


def test_a_still_grey_clip_has_no_motion_and_a_blinking_one_all_of_it() -> None:
    still = torch.full((1, 4, 3, 16, 16), 0.5)
    blinking = torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(1, 4, 1, 1, 1).expand(1, 4, 3, 16, 16)
    rows = health.look(torch.cat([still, blinking]))
    assert rows[:, 0].tolist() == [0.0, 1.0] and rows[:, 1].tolist() == [0.0, 1.0]
    assert health.look(still[:, :1])[0, 0] == 0.0  # one frame does not move


def test_diversity_is_the_distance_of_two_clips_of_a_group() -> None:
    dark, light = torch.full((1, 4, 3, 8, 8), 0.2), torch.full((1, 4, 3, 8, 8), 0.5)
    same = health.looks(health.look(torch.cat([dark, dark, light, light])), group_size=2)
    apart = health.looks(health.look(torch.cat([dark, light, light, dark])), group_size=2)
    assert same["align/diversity"] == 0.0 and apart["align/diversity"] == pytest.approx(0.3)
    assert "align/diversity" not in health.looks(health.look(dark), group_size=1)


def test_agreement_of_halves() -> None:
    a, b = [torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 1.0])]
    both = [one + other for one, other in zip(a, b, strict=True)]
    assert health.agreement(a, both) == pytest.approx(math.sqrt(0.5))
    assert health.agreement(a, [-2 * a[0]]) == pytest.approx(-1.0)
    assert health.agreement([torch.zeros(2)], a) is None


def test_quantiles_leave_out_what_is_not_finite() -> None:
    values = torch.tensor([*range(11), math.nan], dtype=torch.float64)
    assert health.quantiles("r_", values) == {"r_p10": 1.0, "r_p50": 5.0, "r_p90": 9.0}
    assert health.quantiles("r_", torch.tensor([math.nan])) == {}


def test_every_step_logs_rewards_clips_and_gradient(tmp_path: Path) -> None:
    config = TrainConfig(steps=1, prompts_per_step=4, batch=8, denoising_steps=6, sample_every=0)
    run = train(
        ToyGenerator(), Brightness(), DDPO(group_size=8, window=2, clip_range=1e-2), ["a", "b"], config, tmp_path / "r"
    )
    (row,) = read_metrics(run.folder)
    for name in ("reward/p10", "reward/p50", "reward/p90", "reward/red", "reward/red_std", "reward/red_p90"):
        assert 0 < row[name] < 1, name
    assert row["reward/p10"] < row["reward/p50"] < row["reward/p90"]
    assert row["align/motion_energy"] == 0.0 and row["align/diversity"] > 0.1 and 0 <= row["align/saturation"] < 0.1
    assert -1 <= row["align/gradient_agreement"] <= 1 and row["align/gradient_agreement"] != 0
    for name in ("align/dead_groups", "align/clip_fraction", "align/approx_kl", "align/grad_norm", "align/lora_norm"):
        assert name in row, name
    for name in ("sample", "decode", "reward", "exposed", "train"):
        assert row[f"time/{name}_seconds"] >= 0


def test_two_steps_of_the_same_clips_are_no_two_halves_of_a_batch(tmp_path: Path) -> None:
    config = TrainConfig(steps=1, prompts_per_step=2, batch=16, denoising_steps=6, sample_every=0)
    run = train(ToyGenerator(), Brightness(), DDPO(group_size=8, window=2), ["a", "b"], config, tmp_path / "r")
    assert "align/gradient_agreement" not in read_metrics(run.folder)[0]
