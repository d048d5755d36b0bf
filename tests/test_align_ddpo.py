"""DDPO on the toy generator: it learns, its ratio starts at one, and what cannot teach is left out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, Scores, ToyGenerator, toy_policy

from align import objectives
from align.ddpo import DDPO
from align.policy import Policy, Velocity
from align.replay import USUAL_ETA, window_at
from align.train import TrainConfig, train
from base_model import flow, lora, native
from base_model.large import launch
from core.errors import UserError
from core.run import read_metrics

PROMPTS = ["a", "b", "c", "d"]
QUICK = TrainConfig(
    steps=3, prompts_per_step=4, batch=16, denoising_steps=6, learning_rate=1e-2, sample_every=0, save_every=100
)
TOY = DDPO(group_size=8, window=3, clip_range=1e-2)


@pytest.mark.parametrize(
    "algorithm",
    [
        TOY,
        replace(TOY, noise="dance", eta=0.9),
        replace(TOY, noise="cps", eta=0.5, clip_range=1e-1),
        replace(TOY, advantage="prompt", history_enough=8),
        replace(TOY, kl_weight=1e-3),
        replace(TOY, same_noise=True),
    ],
    ids=["flow", "dance", "cps", "prompt-history", "kl", "same-noise"],
)
def test_raises_brightness_toward_its_optimum(tmp_path: Path, algorithm: DDPO) -> None:
    run = train(
        ToyGenerator(), Brightness(), algorithm, PROMPTS, replace(QUICK, steps=16, batch=32, passes=2), tmp_path / "run"
    )
    brightness = [row["reward/total"] for row in read_metrics(run.folder)]
    assert abs(brightness[0] - 0.5) < 0.05
    assert sum(brightness[-3:]) / 3 > 0.75


def test_score_function_alone_learns_and_uses_samples_once(tmp_path: Path) -> None:
    algorithm = replace(TOY, estimator="sf")
    run = train(ToyGenerator(), Brightness(), algorithm, PROMPTS, replace(QUICK, steps=24, batch=32), tmp_path / "run")
    brightness = [row["reward/total"] for row in read_metrics(run.folder)]
    assert sum(brightness[-3:]) / 3 > 0.7
    with pytest.raises(UserError, match="'sf' is wrong once the policy has moved"):
        train(ToyGenerator(), Brightness(), algorithm, PROMPTS, replace(QUICK, updates=2), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_score_function_and_clipped_ratio_have_the_same_first_gradient() -> None:
    log_ratio, advantage = torch.zeros(3, requires_grad=True), torch.tensor([2.0, -1.0, 0.5])
    slopes = [
        torch.autograd.grad(loss.sum(), log_ratio)[0]
        for loss in (
            objectives.score_function(log_ratio, advantage),
            objectives.clipped_surrogate(log_ratio, advantage, 1e-4),
        )
    ]
    assert torch.equal(*slopes)


def test_a_strong_kl_keeps_the_policy_at_the_reference(tmp_path: Path) -> None:
    norms = {}
    for weight in (0.0, 100.0):
        run = train(
            ToyGenerator(),
            Brightness(),
            replace(TOY, kl_weight=weight),
            PROMPTS,
            replace(QUICK, steps=12, batch=32),
            tmp_path / f"{weight}",
        )
        norms[weight] = read_metrics(run.folder)[-1]["reward/total"]
    assert norms[100.0] < 0.6 < norms[0.0]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_ratio_is_exactly_one_before_the_first_update_of_every_step(tmp_path: Path, guidance: float) -> None:
    config = replace(QUICK, updates=2, passes=2, guidance=guidance)
    run = train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / "run")
    rows = read_metrics(run.folder)
    assert [row["align/first_pass_ratio_error"] for row in rows] == [0.0, 0.0, 0.0]
    assert max(row["align/approx_kl"] for row in rows) > 0  # the second update sees a policy that has moved


@pytest.mark.parametrize("kind", ["flow", "dance", "cps"])
def test_a_half_precision_model_leaves_fp32_steps_whose_density_is_of_what_is_stored(kind: flow.Kind) -> None:
    """A density of unrounded latents beside rounded ones moves the ratio by several clip ranges."""
    generator = native.nano("bfloat16")
    parameters = lora.attach(generator.policy_module(), rank=2, alpha=2)
    accelerator = launch()
    model = Velocity(generator)
    policy = Policy(
        generator, model, parameters, accelerator, denoising_steps=5, guidance=1.0, batch=2, prompts_per_step=1
    )
    algorithm = DDPO(group_size=2, noise=kind, window=2)
    path = algorithm.collect(policy, Brightness(), ["a red ball"], seed=0, step=0).trajectory
    assert path.before.dtype == path.after.dtype == path.mean.dtype == torch.float32
    for index, step in enumerate(path.steps):
        levels = policy.schedule.at(step.expand(2))
        std = flow.coefficients(kind, *levels, USUAL_ETA[kind], policy.schedule.sigma_max)[2].float()
        normal = torch.distributions.Normal(path.mean[:, index], std.reshape(-1, 1, 1, 1, 1))
        expected = normal.log_prob(path.after[:, index]).flatten(1).mean(1)
        torch.testing.assert_close(path.log_prob[:, index], expected)


def test_a_model_that_does_not_reproduce_itself_stops_the_run(tmp_path: Path) -> None:
    class Restless(ToyGenerator):
        def predict(self, *inputs: object, **options: object) -> torch.Tensor:
            velocity = super().predict(*inputs, **options)  # type: ignore[arg-type]
            return velocity * (1 + 1e-3 * torch.is_grad_enabled())

    with pytest.raises(UserError, match=r"does not reproduce its own samples: \|ratio - 1\| is"):
        train(Restless(), Brightness(), TOY, PROMPTS, QUICK, tmp_path / "run")


@pytest.mark.parametrize("form", ["latent", "velocity"])
def test_kl_has_a_gradient_once_the_policy_has_moved(form: str) -> None:
    policy = toy_policy()
    algorithm = replace(TOY, kl_weight=1.0, kl_form=form)
    for value in policy.parameters:
        value.data += 0.1
    experience = algorithm.collect(policy, Brightness(constant=True), PROMPTS, seed=0, step=0)
    part = next(iter(experience.parts(16, 0, 1)))
    part = replace(part, weight=torch.ones_like(part.weight))  # a constant reward leaves only the KL
    loss, metrics = algorithm.loss(policy, part)
    loss.backward()
    assert float(metrics["kl_reference"].detach()) > 1e-6
    assert all(float(value.grad.abs().max()) > 0 for value in policy.parameters)


def test_groups_without_spread_are_counted_and_move_nothing(tmp_path: Path) -> None:
    generator = ToyGenerator()
    run = train(generator, Brightness(constant=True), TOY, PROMPTS, QUICK, tmp_path / "run")
    rows = read_metrics(run.folder)
    assert [row["align/dead_groups"] for row in rows] == [1.0, 1.0, 1.0]
    assert rows[-1]["align/lora_norm"] == rows[0]["align/lora_norm"]


def test_a_policy_that_learned_stands_still_once_nothing_teaches(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Fading(Brightness):
        calls: list[int] = field(default_factory=list)

        def __call__(self, frames: torch.Tensor, prompts: Sequence[str]) -> Scores:
            self.calls.append(len(frames))
            return replace(Brightness(), constant=len(self.calls) > 4)(frames, prompts)  # 2 batches a step

    run = train(ToyGenerator(), Fading(), TOY, PROMPTS, replace(QUICK, steps=5), tmp_path / "run")
    norms = [row["align/lora_norm"] for row in read_metrics(run.folder)]
    assert norms[0] != norms[1] == norms[2] == norms[3] == norms[4]  # AdamW's momentum alone would go on


def test_rewards_that_are_not_finite_are_masked_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(ToyGenerator(), Brightness(broken=(0, 5)), TOY, PROMPTS, QUICK, tmp_path / "run")
    row = read_metrics(run.folder)[0]
    assert row["reward/masked"] == 4.0 and 0.3 < row["reward/total"] < 0.7  # 2 of each of 2 batches
    assert "sample 5 of step 1 (prompt 'a')" in caplog.text


def test_a_whole_batch_of_broken_rewards_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finite value for any of the 32 samples of step 1"):
        train(ToyGenerator(), Brightness(broken=tuple(range(16))), TOY, PROMPTS, QUICK, tmp_path / "run")


def test_a_reward_that_raises_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reward 'brightness' failed on 16 clips.*IndexError"):
        train(ToyGenerator(), Brightness(broken=(99,)), TOY, PROMPTS, QUICK, tmp_path / "run")


def test_every_prompt_is_encoded_once_for_the_run(tmp_path: Path) -> None:
    generator = ToyGenerator()
    train(generator, Brightness(), TOY, PROMPTS * 2, QUICK, tmp_path / "run")
    assert sorted(generator.encoded) == PROMPTS


def test_the_window_depends_on_seed_and_step_alone_and_visits_every_place() -> None:
    windows = [window_at(10, 2, 0, seed=0, step=step) for step in range(50)]
    assert windows == [window_at(10, 2, 0, seed=0, step=step) for step in range(50)]
    assert {window.start for window in windows} == {0, 1, 2, 3} and {len(window) for window in windows} == {2}
    assert window_at(10, 0, 0, seed=0, step=0) == range(9)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"eta": 0.0}, "eta 0.0"),
        ({"group_size": 1}, "group_size 1"),
        ({"clip_range": 0.0}, "clip_range 0.0"),
        ({"clip_range": math.nan}, "clip_range nan"),
        ({"window": 6}, "does not fit 6 denoising steps"),
        ({"window_stop": 2}, "window 3 with window_stop 2"),
        ({"window_stop": 6}, "does not fit 6 denoising steps"),
        ({"noise": "ddim"}, "family 'flow'"),
        ({"advantage_limit": 0.0}, "advantage_limit 0.0"),
        ({"history_size": 0}, "history_size 0"),
    ],
)
def test_impossible_settings_are_refused_before_any_file_is_written(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        train(ToyGenerator(), Brightness(), replace(TOY, **changes), PROMPTS, QUICK, tmp_path / "run")
    assert not (tmp_path / "run").exists()
