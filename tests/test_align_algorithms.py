"""What holds of every algorithm in the table: exact resume, the same update on two processes, explained options."""

import dataclasses
from pathlib import Path

import processes
import pytest
import torch
import toy_algorithms
from toy_generator import Brightness, toy_policy

from align import ALGORITHMS
from base_model import lora
from core.errors import UserError
from core.registry import resolve
from core.run import read_metrics

HELD = sorted(ALGORITHMS.keys() - {"dpo"})  # dpo holds to the reference by its own formula


def test_every_algorithm_of_the_table_is_tried_here() -> None:
    assert toy_algorithms.TOYS.keys() == ALGORITHMS.keys()
    for name, algorithm in toy_algorithms.TOYS.items():
        assert type(algorithm) is resolve(ALGORITHMS, name, "algorithm")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_option_is_explained_and_no_name_is_taken_twice(name: str) -> None:
    loop = {field.name for field in dataclasses.fields(toy_algorithms.TrainConfig)}
    for field in dataclasses.fields(resolve(ALGORITHMS, name, "algorithm")):
        assert len(field.metadata["help"]) > 10 and field.name not in loop


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_killed_run_ends_bit_equal_to_an_unbroken_one(tmp_path: Path, name: str) -> None:
    whole = toy_algorithms.run(name, str(tmp_path))
    folder = tmp_path / "checkpoints"
    for step in (2, 3):  # as if the process had died while saving after the second step
        state = folder / f"step-{step:06d}" / "state.pt"
        state.write_bytes(state.read_bytes()[:-5])
    again = toy_algorithms.run(name, str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(*map(_adapters, (whole, again)), strict=True))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_kept_of_sampling_does_not_grow_with_its_steps(name: str) -> None:
    kept = []
    for num_steps in (8, 24):
        policy = dataclasses.replace(toy_policy(), denoising_steps=num_steps)
        algorithm = toy_algorithms.TOYS[name]
        if name == "ppo":
            policy.own.update(algorithm.modules(policy))
        path = algorithm.collect(policy, Brightness(), list("abcd"), seed=0, step=0).trajectory
        kept.append([tuple(value.shape) for value in (path.before, path.after, path.mean, path.log_prob)])
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_as_many_clips_are_learned_from_as_it_says_and_their_numbers_are_known(name: str) -> None:
    policy, algorithm = toy_policy(), toy_algorithms.TOYS[name]
    if name == "ppo":
        policy.own.update(algorithm.modules(policy))
    collected = algorithm.collect(policy, Brightness(), list("abcd"), seed=0, step=0)
    assert algorithm.learned(4) == len(collected.advantage) == len(collected.rows) == len(set(collected.rows))
    assert set(collected.rows) <= set(range(collected.num_sampled))


@pytest.mark.parametrize("name", HELD)
def test_the_pull_to_the_reference_has_a_gradient_once_the_policy_has_moved(name: str) -> None:
    policy, found = toy_policy(), []
    for value in policy.parameters:
        value.data += 0.1
    for weight in (0.0, 1.0):
        algorithm = dataclasses.replace(toy_algorithms.TOYS[name], kl_weight=weight)  # type: ignore[type-var]
        if name == "ppo":
            policy.own.update(algorithm.modules(policy))
        part = next(iter(algorithm.collect(policy, Brightness(), list("abcd"), seed=0, step=0).parts(16, 0, 1)))
        loss, metrics = algorithm.loss(policy, part)
        assert ("kl_reference" in metrics) == (weight > 0)
        found.append(torch.autograd.grad(loss, policy.parameters))
    assert all(float((a - b).abs().max()) > 1e-6 for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", HELD)
def test_a_pull_away_from_the_reference_is_refused(name: str) -> None:
    algorithm = dataclasses.replace(toy_algorithms.TOYS[name], kl_weight=-0.1)  # type: ignore[type-var]
    with pytest.raises(UserError, match=r"kl_weight -0\.1 must be 0"):
        algorithm.check(toy_policy(), Brightness())


@pytest.mark.slow
def test_two_processes_make_the_same_update_as_one(tmp_path: Path) -> None:
    processes.run(processes.TORCHRUN, "toy_algorithms.py", tmp_path)
    for name in ALGORITHMS:
        one = toy_algorithms.run(name, str(tmp_path / f"{name}-one"))
        two = toy_algorithms.ToyGenerator()
        lora.load(two.network, tmp_path / name / "checkpoints" / "step-000003" / "lora")
        far = max(float((a - b).abs().max()) for a, b in zip(*map(_adapters, (one, two)), strict=True))
        assert far < 1e-5, name  # sums of gradients are taken in another order; a step moves a weight by 1e-3
        rewards = [[row["reward/total"] for row in read_metrics(tmp_path / end)] for end in (name, f"{name}-one")]
        assert rewards[0] == pytest.approx(rewards[1], rel=1e-5)


def _adapters(generator: toy_algorithms.ToyGenerator) -> list[torch.Tensor]:
    return [value.detach() for value in lora.parameters(generator.network)]
