"""Weighted regression and best-of-N on the toy generator, and the weights against hand-worked numbers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, ToyGenerator, toy_policy

from align.train import TrainConfig, train
from align.weighted_regression import WeightedRegression, exponential_weights
from core.errors import UserError
from core.run import read_metrics

PROMPTS = ["a", "b", "c", "d"]
QUICK = TrainConfig(
    steps=20, prompts_per_step=4, batch=32, denoising_steps=6, learning_rate=1e-2, passes=4, sample_every=0
)
TOY = WeightedRegression()
BEST = WeightedRegression("best")


def test_weights_are_exponential_inside_a_group_and_groups_weigh_alike() -> None:
    advantage = torch.tensor([1.0, -1.0, 0.5, -0.5, 0.0, 0.0])
    weight = torch.tensor([1.5, 1.5, 1.5, 1.5, 0.0, 0.0])
    found = exponential_weights(advantage, weight, 2, temperature=0.5)
    ratio = [math.exp(4.0), math.exp(2.0)]
    for group, value in enumerate(ratio):
        assert float(found[2 * group] / found[2 * group + 1]) == pytest.approx(value, rel=1e-5)
        assert float(found[2 * group : 2 * group + 2].sum()) == pytest.approx(3.0)
    assert found[4:].tolist() == [0.0, 0.0] and float(found.mean()) == pytest.approx(1.0)


def test_a_clip_without_a_reward_weighs_nothing() -> None:
    found = exponential_weights(torch.tensor([0.7, 0.0, -0.7]), torch.tensor([1.5, 0.0, 1.5]), 3, temperature=1.0)
    assert found[1] == 0.0 and float(found[0] / found[2]) == pytest.approx(math.exp(1.4), rel=1e-5)


@pytest.mark.parametrize("algorithm", [TOY, BEST, replace(TOY, kl_weight=1e-2)], ids=["exponential", "best", "kl"])
def test_raises_brightness_toward_its_optimum(tmp_path: Path, algorithm: WeightedRegression) -> None:
    run = train(ToyGenerator(), Brightness(), algorithm, PROMPTS, QUICK, tmp_path / "run")
    rows = read_metrics(run.folder)
    assert abs(rows[0]["reward/total"] - 0.5) < 0.05
    assert sum(row["reward/total"] for row in rows[-3:]) / 3 > 0.7
    assert rows[0]["samples"] == 32


def test_best_of_n_learns_from_the_brightest_of_every_group() -> None:
    policy = toy_policy()
    all_of_them = TOY.collect(policy, Brightness(), PROMPTS, seed=0, step=0).trajectory.latents
    found = replace(BEST, best=2).collect(policy, Brightness(), PROMPTS, seed=0, step=0)
    bright = policy.generator.decode(all_of_them).flatten(1).mean(1).reshape(4, 8)
    kept = policy.generator.decode(found.trajectory.latents).flatten(1).mean(1).reshape(4, 2)
    torch.testing.assert_close(kept, bright.sort(1, descending=True).values[:, :2])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"group_size": 1}, "group_size 1"),
        ({"temperature": 0.0}, "temperature 0.0"),
        ({"best": 8}, "best 8 of a group of 8"),
        ({"levels": 7}, "levels 7 must be in 1..6"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        train(ToyGenerator(), Brightness(), replace(TOY, **changes), PROMPTS, QUICK, tmp_path / "run")  # type: ignore[arg-type]
