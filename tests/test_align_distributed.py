"""Two processes on CPU (gloo) against one on the same global batch; of three groups of eight, one spans both.

Sums of gradients are taken in another order, so equal means within 1e-5 of a weight here, after four steps of 1e-3.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import processes
import pytest
import torch
import toy_run
from toy_generator import Brightness, toy_policy

from align.advantage_matching import AdvantageMatching
from align.ddpo import DDPO
from align.dpo import DPO
from align.grpo import GRPO
from align.nft import NFT
from align.ppo import PPO
from align.reward_gradient import RewardGradient
from align.weighted_regression import WeightedRegression
from base_model.large import launch
from core.errors import UserError
from core.run import read_metrics

TOLERANCE = 1e-5


@pytest.mark.slow
def test_two_processes_make_the_same_update_as_one_and_either_goes_on_with_the_others_run(tmp_path: Path) -> None:
    _two_processes(tmp_path / "two")
    one = toy_run.run(str(tmp_path / "one"))

    rows = [[row for row in read_metrics(tmp_path / name) if row["step"]] for name in ("one", "two")]
    assert [row["samples"] for row in rows[1]] == [24, 48, 72, 96] == [row["samples"] for row in rows[0]]
    shared = {name for name in rows[0][1] if not name.startswith("time")} - {"align/gradient_agreement"}
    assert {"reward/brightness", "align/diversity", "align/critic_grad_norm", "judge/brightness-again"} <= shared
    for name in shared:
        seen = [[row[name] for row in some if name in row] for some in rows]
        assert seen[1] == pytest.approx(seen[0], rel=1e-3, abs=1e-6), name
    _require_close(tmp_path / "one", tmp_path / "two")

    for name, begin in (("one", _two_processes), ("two", toy_run.run)):  # each goes on where the other is half way
        shutil.copytree(tmp_path / name, tmp_path / f"half-{name}")
        for step in (3, 4):
            shutil.rmtree(tmp_path / f"half-{name}" / "checkpoints" / f"step-{step:06d}")
        begin(str(tmp_path / f"half-{name}"))
        assert [row["step"] for row in read_metrics(tmp_path / f"half-{name}")] == [0, 1, 2, 3, 4]
        _require_close(one.folder, tmp_path / f"half-{name}")


def _two_processes(out: Path | str) -> None:
    processes.run(processes.ACCELERATE, "toy_run.py", out)


def _require_close(a: Path, b: Path) -> None:
    """Weights, their average and the critic of the last checkpoints."""
    one, two = (torch.load(folder / "checkpoints" / "step-000004" / "state.pt") for folder in (a, b))
    pairs = [*zip(one["weights"], two["weights"], strict=True)]
    pairs += [*zip(one["memory"]["average"], two["memory"]["average"], strict=True)]
    pairs += [(one["own"][name], two["own"][name]) for name in ("critic.weight", "critic.bias")]
    assert max(float((x - y).abs().max()) for x, y in pairs) < TOLERANCE
    assert one["memory"]["prompt_spread"] == pytest.approx(two["memory"]["prompt_spread"], rel=1e-3)


def test_a_launcher_whose_processes_do_not_meet_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    launch()  # the accelerator of this process exists and is alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="started 2 processes but accelerate sees 1"):
        launch()


@pytest.mark.parametrize(
    "algorithm",
    [GRPO(keep=2), DDPO(keep=2), NFT(keep=2), AdvantageMatching(keep=2), DPO(), WeightedRegression(weighting="best")],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_groups_cut_by_the_processes_are_refused_before_anything_is_sampled(algorithm: Any) -> None:
    two = SimpleNamespace(num_processes=2, process_index=0)
    policy = replace(toy_policy(), accelerator=two, prompts_per_step=2)
    algorithm.check(policy, Brightness())
    with pytest.raises(UserError, match="prompts_per_step 3 over 2 processes cuts a group of 8.* a multiple of 2"):
        algorithm.check(replace(policy, prompts_per_step=3), Brightness())


@pytest.mark.parametrize("algorithm", [PPO(), RewardGradient()], ids=lambda algorithm: type(algorithm).__name__)
def test_clips_that_do_not_divide_are_refused_before_anything_is_sampled(algorithm: Any) -> None:
    two = SimpleNamespace(num_processes=2, process_index=0)
    with pytest.raises(UserError, match="3 prompts x group_size 1 = 3 samples do not divide over 2 processes"):
        algorithm.check(replace(toy_policy(), accelerator=two, prompts_per_step=3), Brightness())


def test_samples_that_do_not_divide_over_the_processes_are_refused() -> None:
    from align.experience import rows_of

    assert [rows_of(3, 8, rank, 2) for rank in (0, 1)] == [range(0, 12), range(12, 24)]
    with pytest.raises(UserError, match="3 prompts x group_size 9 = 27 samples do not divide over 2 processes"):
        rows_of(3, 9, 0, 2)
