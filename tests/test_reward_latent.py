"""Scores of noisy latents: learned at several levels at once, read at any, without decoding."""

from pathlib import Path

import pytest
import torch
from reward_examples import tiny_clip

from base_model import native
from core.errors import UserError
from reward import latent
from reward.backbone import LatentBackbone, SandboxBackbone
from reward.bradley_terry import A, B
from reward.examples import Examples, split
from reward.preference_model import Head, PreferenceModel
from reward.train_config import TrainConfig


def test_a_taste_for_large_latents_is_read_at_every_level_and_has_a_gradient() -> None:
    eyes = LatentBackbone("nano", generator=native.nano())
    rng = torch.Generator().manual_seed(0)
    size = torch.linspace(0.2, 3.0, 48)[torch.randperm(48, generator=rng)]
    shape = eyes.generator.latent_shape(eyes.generator.size)
    latents = size.view(-1, 1, 1, 1, 1) * torch.randn(1, *shape, generator=rng).expand(48, *shape)
    pair = torch.arange(48).view(24, 2)
    votes = torch.nn.functional.one_hot(torch.where(size[pair[:, 0]] > size[pair[:, 1]], A, B), 3).float().unsqueeze(1)
    videos = tuple(Path(str(index)) for index in range(48))
    data = Examples(videos, tuple(f"a ball {n // 2}" for n in range(48)), pair, votes, ("overall",))
    config = TrainConfig(num_heads=1, epochs=10, batch_pairs=16)
    model = latent.fit_latent(eyes, latents, data, split(data.pair_prompts, config), config, levels=(0.1, 0.5))
    condition = eyes.generator.encode_prompts(["a ball"] * 48)
    for level in (0.1, 0.3, 0.5):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
        noisy = ((1 - level) * latents + level * noise).requires_grad_()
        total = latent.score(model, noisy, torch.full((48,), level), condition)
        assert float(torch.corrcoef(torch.stack([total.detach(), size]))[0, 1]) > 0.6
        (gradient,) = torch.autograd.grad(total.sum(), noisy)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    assert torch.isfinite(model(torch.rand(2, 5, 3, 32, 32), ["x", "y"]).total).all()  # decoded videos too: the audit


def test_a_reward_that_sees_pixels_cannot_read_latents() -> None:
    blank, one = torch.zeros(64), torch.ones(1)
    rest = {"mean": 0 * one, "deviation": one, "temperature": one, "log_theta": one}
    model = PreferenceModel(SandboxBackbone(tiny_clip()), [Head(blank, blank + 1, 1)], ("overall",), **rest)
    with pytest.raises(UserError, match="only a latent one reads latents"):
        latent.score(model, torch.zeros(1), torch.zeros(1), {})
