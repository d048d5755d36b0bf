"""Advantages against hand-computed statistics, with rewards left out and groups without spread."""

import math

import torch

from align.advantages import EPSILON, group_advantages, prompt_advantages

ALL = torch.ones(8, dtype=torch.bool)


def test_group_advantage_is_the_standard_score_inside_the_group() -> None:
    reward = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 10.0, 20.0, 20.0])
    result = group_advantages(reward, ALL, group_size=4, limit=5.0)
    first = (reward[:4] - 2.5) / (math.sqrt(1.25) + EPSILON)
    second = torch.tensor([-1.0, -1.0, 1.0, 1.0]) * 5 / (5 + EPSILON)
    torch.testing.assert_close(result.value, torch.cat([first, second]))
    assert result.weight.tolist() == [1.0] * 8 and result.dead == 0.0


def test_a_group_without_spread_is_dead_and_the_others_carry_the_weight() -> None:
    reward = torch.tensor([0.3] * 4 + [1.0, 2.0, 3.0, 4.0])
    result = group_advantages(reward, ALL, group_size=4, limit=5.0)
    assert result.dead == 0.5 and result.value[:4].tolist() == [0.0] * 4
    assert result.weight.tolist() == [0.0] * 4 + [2.0] * 4
    assert float(group_advantages(torch.full((8,), 0.3), ALL, 4, 5.0).weight.sum()) == 0.0


def test_a_reward_that_is_not_finite_changes_nobody_else() -> None:
    reward = torch.tensor([1.0, 2.0, 3.0, float("nan"), 1.0, 2.0, 3.0, float("inf")])
    result = group_advantages(reward, reward.isfinite(), group_size=4, limit=5.0)
    expected = (torch.tensor([1.0, 2.0, 3.0]) - 2.0) / (math.sqrt(2 / 3) + EPSILON)
    torch.testing.assert_close(result.value, torch.cat([expected, torch.zeros(1), expected, torch.zeros(1)]))
    assert (
        result.weight[3] == 0 and result.weight[7] == 0 and math.isclose(float(result.weight.mean()), 1.0, rel_tol=1e-6)
    )


def test_advantages_are_limited() -> None:
    reward = torch.zeros(64)
    reward[0] = 1.0
    value = group_advantages(reward, torch.ones(64, dtype=torch.bool), 64, limit=5.0).value
    assert float(value.max()) == 5.0


def test_prompt_history_grows_and_takes_over_from_the_batch() -> None:
    history: dict[str, list[float]] = {}
    prompts = ["a", "b"] * 4
    reward = torch.tensor([0.0, 10.0, 1.0, 11.0, 0.0, 10.0, 1.0, 11.0])
    early = prompt_advantages(reward, ALL, prompts, history, size=6, enough=8, limit=5.0)
    assert float(early.value[::2].max()) < 0 < float(early.value[1::2].min())  # against the batch: prompt b is "better"
    late = prompt_advantages(reward, ALL, prompts, history, size=6, enough=4, limit=5.0)
    torch.testing.assert_close(late.value[::2], late.value[1::2])  # against their own prompt they are alike
    assert history["a"] == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0] and len(history["b"]) == 6
