"""Scores of noisy latents: learned at several levels at once, read at any, without decoding."""

import json
from pathlib import Path

import pytest
import torch
from reward_examples import fill_store, tiny_clip

from base_model import native
from core.errors import UserError
from reward import latent
from reward.backbone import LatentBackbone, SandboxBackbone
from reward.bradley_terry import A, B
from reward.examples import Examples, split
from reward.preference_model import Head, PreferenceModel
from reward.report import summary
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
    seen = latent.views(eyes, latents, data.prompts, seed=0, levels=(0.1, 0.5))
    model = latent.fit_views(seen, data, split(data.pair_prompts, config), eyes, config)
    condition = eyes.generator.encode_prompts(["a ball"] * 48)
    for level in (0.1, 0.3, 0.5):
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
        noisy = ((1 - level) * latents + level * noise).requires_grad_()
        total = latent.score(model, noisy, torch.full((48,), level), condition)
        assert float(torch.corrcoef(torch.stack([total.detach(), size]))[0, 1]) > 0.6
        (gradient,) = torch.autograd.grad(total.sum(), noisy)
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_votes_on_files_teach_every_level_and_any_format_is_read(tmp_path: Path) -> None:
    store = fill_store(tmp_path)
    eyes = LatentBackbone("nano", generator=native.nano())
    model, report = latent.train(store, eyes, TrainConfig(num_heads=1, epochs=2), tmp_path / "reward")
    assert list(report["levels"]) == ["0.1", "0.3", "0.5", "0.7", "0.9"]
    assert report["levels"]["0.3"] == report["aspects"]["overall"]["accuracy"]
    assert "at noise 0.9" in summary(report)
    assert json.loads((tmp_path / "reward" / "report.json").read_text()) == report
    for frames in (torch.rand(2, 11, 3, 24, 40), torch.rand(2, 1, 3, 64, 64)):  # as the audit shows them
        assert torch.isfinite(model(frames, ["x", "y"]).total).all()


def test_a_reward_that_sees_pixels_cannot_read_latents() -> None:
    blank, one = torch.zeros(64), torch.ones(1)
    rest = {"mean": 0 * one, "deviation": one, "temperature": one, "log_theta": one}
    model = PreferenceModel(SandboxBackbone(tiny_clip()), [Head(blank, blank + 1, 1)], ("overall",), **rest)
    with pytest.raises(UserError, match="only a latent one reads latents"):
        latent.score(model, torch.zeros(1), torch.zeros(1), {})
