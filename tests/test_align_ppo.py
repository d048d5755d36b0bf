"""PPO: closed forms of GAE and value loss, a critic that learns a known value, and learning on the toy generator."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_generator import Brightness, ToyGenerator, toy_policy

from align import critic, objectives
from align.ppo import PPO
from align.train import TrainConfig, train
from base_model import lora, native
from core.errors import UserError
from core.run import read_metrics
from reward import latent
from reward.backbone import LatentBackbone
from reward.preference_model import Head, PreferenceModel

PROMPTS = ["a", "b", "c", "d"]
QUICK = TrainConfig(
    steps=16, prompts_per_step=4, batch=32, denoising_steps=6, learning_rate=1e-2, passes=2, sample_every=0
)
TOY = PPO(group_size=8, window=3, clip_range=1e-2, critic_learning_rate=1e-2)


def test_advantages_are_the_sums_of_fading_surprises() -> None:
    value, reward = torch.tensor([[0.5, 1.0, -1.0]]), torch.tensor([2.0])
    surprise = [0.5, -2.0, 3.0]
    for fade in (0.0, 0.7, 1.0):
        advantage, returns = critic.generalized_advantages(value, reward, fade)
        expected = [
            surprise[0] + fade * surprise[1] + fade**2 * surprise[2],
            surprise[1] + fade * surprise[2],
            surprise[2],
        ]
        torch.testing.assert_close(advantage, torch.tensor([expected]))
        torch.testing.assert_close(returns, advantage + value)
    torch.testing.assert_close(advantage, reward[:, None] - value)  # 1: what is left of the reward


def test_value_loss_pays_nothing_beyond_the_clip() -> None:
    value = torch.tensor([0.1, 0.4, -0.4, 0.4], requires_grad=True)
    old, returns = torch.zeros(4), torch.tensor([1.0, 1.0, 1.0, -1.0])
    loss = objectives.clipped_value_loss(value, old, returns, 0.2)
    torch.testing.assert_close(loss, torch.tensor([0.81, 0.64, 1.96, 1.96]) / 2)
    (slope,) = torch.autograd.grad(loss.sum(), value)
    torch.testing.assert_close(slope, torch.tensor([-0.9, 0.0, -1.4, 1.4]))  # only going on in the right way is free


def test_rewards_are_standardised_over_the_whole_run() -> None:
    memory: dict[str, float] = {}
    rng = torch.Generator().manual_seed(0)
    batches = [3.0 + 2.0 * torch.randn(32, generator=rng) for _ in range(5)]
    valid = torch.ones(32, dtype=torch.bool)
    for batch in batches:
        last = critic.standardised(batch, valid, memory)
    every = torch.cat(batches)
    torch.testing.assert_close(last, (batches[-1] - every.mean()) / every.std(correction=0), atol=1e-5, rtol=1e-4)
    before = dict(memory)
    broken = critic.standardised(torch.full((32,), float("nan")), torch.arange(32) < 0, dict(memory))
    assert broken.tolist() == [0.0] * 32 and before == memory


def test_critic_learns_a_known_value() -> None:
    """Reward is the clip's mean: V must tell clips by their latents, the sooner in sampling the worse."""
    policy = toy_policy(batch=1024)
    network = critic.build(policy)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    steps = torch.tensor([0, 4])
    sigma = policy.schedule.at(steps)[0].float()
    rng = torch.Generator().manual_seed(0)

    def states(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        level = torch.randn(count, 1, 1, 1, 1, generator=rng)
        clean = level.expand(count, *policy.generator.latent_shape(policy.generator.size))
        noisy = [(1 - s) * clean + s * torch.randn(clean.shape, generator=rng) for s in sigma]
        condition = policy.condition(["a"] * count)
        return critic.trunk_features(policy, torch.stack(noisy, 1), steps, condition), level.flatten()

    features, value = states(4096)
    for _ in range(60):
        loss = (network(features) - value[:, None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, value = states(1024)
    early, late = (network(features) - value[:, None]).square().mean(0).tolist()
    assert abs(early - 1.0) < 0.2  # pure noise promises nothing: the variance of the value remains
    assert late < 0.15


def test_features_come_from_the_frozen_trunk_and_from_each_row_alone() -> None:
    generator = native.nano()
    policy = replace(toy_policy(batch=2), generator=generator, denoising_steps=6)
    lora.attach(generator.policy_module(), rank=2, alpha=2)
    policy.model = type(policy.model)(generator)
    latents = torch.randn(3, 2, *generator.latent_shape(generator.size), generator=torch.Generator().manual_seed(0))
    condition, steps = policy.condition(["a red ball", "a blue ball", "a"]), torch.tensor([1, 4])
    features = critic.trunk_features(policy, latents, steps, condition)
    assert features.shape == (3, 2, 65)  # mean and deviation of 32 channels, and the noise level
    assert features[0, :, -1].tolist() == pytest.approx(policy.schedule.at(steps)[0].tolist())
    for value in lora.parameters(generator.policy_module()):
        value.data += 0.3
    torch.testing.assert_close(critic.trunk_features(policy, latents, steps, condition), features)
    swapped = critic.trunk_features(policy, latents.flip(0), steps, {k: v.flip(0) for k, v in condition.items()})
    torch.testing.assert_close(swapped.flip(0), features)


def _latent_reward(generator: native.NativeGenerator) -> PreferenceModel:
    """A random taste for latents."""
    eyes, size = LatentBackbone("nano", generator=generator), generator.size
    seen = eyes.at(
        torch.zeros(1, *generator.latent_shape(size)), torch.full((1,), 0.5), generator.encode_prompts(["a"])
    )
    torch.manual_seed(0)
    head, one = Head(torch.zeros(seen.shape[1]), torch.ones(seen.shape[1]), 1), torch.ones(1)
    rest = {"mean": 0 * one, "deviation": one, "temperature": one, "log_theta": one}
    return PreferenceModel(eyes, [head], ("overall",), **rest)


def test_a_latent_rewards_scores_are_foretold_in_their_own_units_at_every_level() -> None:
    generator = native.nano()
    policy = replace(toy_policy(batch=2), generator=generator, denoising_steps=6)
    model, steps = _latent_reward(native.nano()), torch.tensor([1, 4])
    before = torch.randn(5, 2, *generator.latent_shape(generator.size), generator=torch.Generator().manual_seed(0))
    condition = policy.condition(list("abcde"))
    path = SimpleNamespace(before=before, steps=steps)
    rollout = SimpleNamespace(trajectory=path, condition=condition, rows=range(5))
    told = critic.foretold(policy, model, rollout)  # type: ignore[arg-type]
    for index, step in enumerate(steps.tolist()):
        sigma = policy.schedule.at(torch.full((5,), step))[0].float()
        with torch.no_grad():
            score = latent.score(model, before[:, index], sigma, condition)
        torch.testing.assert_close(
            told[:, index], (score - score.mean()) / score.std(correction=0), atol=1e-4, rtol=1e-4
        )
    assert set(policy.memory["foretold"]) == {"1", "4"}


def test_a_critic_begins_with_what_is_foretold_and_learns_how_far_to_trust_it() -> None:
    network = critic.Critic(4, foretold=True)
    features = torch.randn(64, 2, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(features), critic.TRUST * features[..., -1])
    assert network.trust is not None
    optimizer = torch.optim.SGD([network.trust], lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        (network(features) + features[..., -1]).square().mean().backward()  # who is foretold the contrary
        optimizer.step()
    assert float(network.trust.detach()) == pytest.approx(-1.0, abs=1e-2)


def test_ppo_starts_from_a_latent_reward_and_keeps_what_it_learned_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _latent_reward(native.nano())
    monkeypatch.setattr(critic, "latent_reward", lambda folder: model)
    config = TrainConfig(steps=1, prompts_per_step=2, batch=4, denoising_steps=4, sample_every=0)
    algorithm = PPO(group_size=2, critic_start="runs/latent")
    run = train(native.nano(), Brightness(), algorithm, ["a", "b"], config, tmp_path / "run")
    state = torch.load(run.checkpoints()[-1] / "state.pt", weights_only=True)
    assert float(state["own"]["critic.trust"]) != critic.TRUST
    assert all(one["count"] == 4 for one in state["memory"]["foretold"].values())
    with pytest.raises(UserError, match=r"reads latents of .*, not of toy"):
        algorithm.check(toy_policy(), Brightness())


def test_a_reward_of_pixels_foretells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = SimpleNamespace(backbone=SimpleNamespace(kind="sandbox"))
    monkeypatch.setattr(critic, "latent_reward", lambda folder: pixels)
    with pytest.raises(UserError, match="backbone is sandbox; only a latent one reads latents"):
        PPO(critic_start="runs/reward").check(toy_policy(), Brightness())


def test_of_two_experts_the_one_that_speaks_is_read() -> None:
    def expert() -> torch.nn.ModuleList:
        return torch.nn.ModuleList([torch.nn.Identity() for _ in range(3)])

    network = torch.nn.ModuleDict(
        {"early": expert(), "late": expert(), "short": torch.nn.ModuleList(list(expert())[:2])}
    )
    for index, name in enumerate(("early", "late")):
        with critic._input_of(critic._middle_blocks(network)) as seen:
            for block in network[name]:
                block(torch.tensor([float(index)]))
        assert [value.tolist() for value in seen] == [[float(index)]]
    assert not any(block._forward_pre_hooks for stack in network.values() for block in stack)


@pytest.mark.parametrize(
    "algorithm",
    [TOY, replace(TOY, gae_lambda=0.0), replace(TOY, kl_weight=1e-3), replace(TOY, noise="dance", eta=0.9)],
    ids=["gae", "one-step", "kl", "dance"],
)
def test_raises_brightness_toward_its_optimum(tmp_path: Path, algorithm: PPO) -> None:
    run = train(ToyGenerator(), Brightness(), algorithm, PROMPTS, QUICK, tmp_path / "run")
    rows = read_metrics(run.folder)
    assert abs(rows[0]["reward/total"] - 0.5) < 0.05
    assert sum(row["reward/total"] for row in rows[-3:]) / 3 > 0.7
    assert max(row["align/first_pass_ratio_error"] for row in rows) == 0.0


def test_needs_no_groups_and_the_critic_comes_to_explain_returns(tmp_path: Path) -> None:
    config = replace(QUICK, prompts_per_step=32, steps=12, learning_rate=1e-6, passes=3)
    prompts = [f"prompt {index}" for index in range(64)]
    run = train(ToyGenerator(), Brightness(), replace(TOY, group_size=1), prompts, config, tmp_path / "run")
    explained = [row["align/explained_variance"] for row in read_metrics(run.folder)]
    assert explained[0] == pytest.approx(0.0, abs=1e-6)
    assert sum(explained[-6:]) / 6 > 0.1


def test_equal_rewards_move_nothing(tmp_path: Path) -> None:
    run = train(ToyGenerator(), Brightness(constant=True), TOY, PROMPTS, replace(QUICK, steps=3), tmp_path / "run")
    rows = read_metrics(run.folder)
    assert rows[-1]["align/lora_norm"] == rows[0]["align/lora_norm"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gae_lambda": 1.5}, "gae_lambda 1.5"),
        ({"value_clip": 0.0}, "value_clip 0.0"),
        ({"group_size": 0}, "group_size 0"),
        ({"eta": 0.0}, "eta 0.0"),
        ({"window": 6}, "does not fit 6 denoising steps"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        train(ToyGenerator(), Brightness(), replace(TOY, **changes), PROMPTS, QUICK, tmp_path / "run")  # type: ignore[arg-type]
