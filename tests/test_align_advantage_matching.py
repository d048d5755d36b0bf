"""Advantage-weighted matching on the toy generator: it learns, and its gradient is the weighted pretraining loss's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, ToyGenerator, toy_policy

from align.advantage_matching import AdvantageMatching
from align.train import TrainConfig, train
from base_model import flow
from core.errors import UserError
from core.run import read_metrics

PROMPTS = ["a", "b", "c", "d"]
QUICK = TrainConfig(
    steps=16, prompts_per_step=4, batch=16, denoising_steps=6, learning_rate=1e-2, updates=2, sample_every=0
)
TOY = AdvantageMatching(clip_range=0.1)


@pytest.mark.parametrize("algorithm", [TOY, replace(TOY, kl_weight=1e-3), replace(TOY, spread="all")])
def test_raises_brightness_toward_its_optimum(tmp_path: Path, algorithm: AdvantageMatching) -> None:
    run = train(ToyGenerator(), Brightness(), algorithm, PROMPTS, QUICK, tmp_path / "run")
    rows = read_metrics(run.folder)
    assert abs(rows[0]["reward/total"] - 0.5) < 0.05
    assert sum(row["reward/total"] for row in rows[-3:]) / 3 > 0.75
    assert max(row["align/approx_kl"] for row in rows) > 0


def test_first_gradient_is_that_of_the_pretraining_loss_weighted_by_advantage() -> None:
    policy = toy_policy(batch=32)
    experience = TOY.collect(policy, Brightness(), PROMPTS, seed=0, step=0)
    part = next(iter(experience.parts(32, 0, 1)))
    loss, _ = TOY.loss(policy, part)
    found = torch.autograd.grad(loss, policy.parameters)
    sigma = policy.schedule.at(part.step)[0].float().reshape(-1, 1, 1, 1, 1)
    noise = (part.before - (1 - sigma) * part.clean) / sigma
    error = policy.velocity(part.before, part.step, part.condition) - flow.velocity(part.clean, noise)
    expected = torch.autograd.grad((part.advantage * error.square().flatten(1).mean(1)).mean(), policy.parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_tight_clip_keeps_the_policy_near_the_one_that_sampled(tmp_path: Path) -> None:
    ends = {}
    for clip_range in (1e-5, 0.2):
        config = replace(QUICK, passes=4, steps=4)
        run = train(
            ToyGenerator(),
            Brightness(),
            replace(TOY, clip_range=clip_range),
            PROMPTS,
            config,
            tmp_path / f"{clip_range}",
        )
        ends[clip_range] = read_metrics(run.folder)[-1]
    assert ends[1e-5]["align/clip_fraction"] > 0.5 > ends[0.2]["align/clip_fraction"]
    assert ends[1e-5]["align/approx_kl"] < ends[0.2]["align/approx_kl"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"group_size": 1}, "group_size 1"), ({"clip_range": 0.0}, "clip_range 0.0"), ({"levels": 0}, "levels 0")],
)
def test_impossible_settings_are_refused(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        train(ToyGenerator(), Brightness(), replace(TOY, **changes), PROMPTS, QUICK, tmp_path / "run")  # type: ignore[arg-type]
