"""Backbones besides the sandbox: real classes of transformers with tiny random weights, and the generator itself."""

from pathlib import Path

import pytest
import torch
from reward_examples import fill_store
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, VideoMAEConfig, VideoMAEModel, VJEPA2Config
from transformers import VJEPA2Model as VJEPA2

from base_model import native
from core.errors import UserError
from reward import backbone, preference_model
from reward.backbone import LatentBackbone, TransformersBackbone, over_time
from reward.train import train
from reward.train_config import TrainConfig

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
PROMPTS = ["a red ball", "a blue ball"]


def _frames() -> torch.Tensor:
    return torch.rand(2, 9, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def _saved(kind: str, folder: Path) -> str:
    torch.manual_seed(0)
    if kind == "videomae":
        config = VideoMAEConfig(image_size=32, patch_size=16, num_frames=8, tubelet_size=2, **SIZES)
        VideoMAEModel(config).save_pretrained(folder)
    elif kind == "vjepa2":
        few = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, "mlp_ratio": 2}
        size = {key: SIZES[key] for key in ("num_hidden_layers", "num_attention_heads")}
        VJEPA2(VJEPA2Config(crop_size=32, frames_per_clip=4, hidden_size=24, **size, **few)).save_pretrained(folder)
    else:
        size = {key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
        Dinov2Model(Dinov2Config(image_size=32, patch_size=16, mlp_ratio=2, **size)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("kind", "size"), [("videomae", 64), ("vjepa2", 96), ("dinov2", 64)])
def test_any_vision_model_gives_features_that_see_order_and_carry_gradients(
    tmp_path: Path, kind: str, size: int
) -> None:
    eyes = TransformersBackbone(_saved(kind, tmp_path))
    frames = _frames().requires_grad_()
    found = eyes.features(frames, PROMPTS)
    assert found.shape == (2, size)
    alone = torch.cat([eyes.features(_frames()[[i]], [PROMPTS[i]]) for i in range(2)])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-4)
    assert ((eyes.features(_frames().flip(1), PROMPTS) - found).abs().amax(1) > 1e-4).all()
    (gradient,) = torch.autograd.grad(found.sum(), frames)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_a_model_with_two_towers_also_sees_the_prompt(tmp_path: Path) -> None:
    from test_reward_hub import write_clip

    eyes = TransformersBackbone(str(write_clip(tmp_path)))
    found, other = eyes.features(_frames(), PROMPTS), eyes.features(_frames(), PROMPTS[::-1])
    assert found.shape == (2, 4 * 32 + 3)
    assert torch.equal(found[:, :-3], other[:, :-3]) and not torch.equal(found[:, -3:], other[:, -3:])
    model = CLIPModel.from_pretrained(tmp_path)
    assert isinstance(model.config, CLIPConfig)


def test_what_is_no_vision_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no AutoModel at"):
        TransformersBackbone(str(tmp_path))
    with pytest.raises(UserError, match="backbone 'clap' is unknown"):
        backbone.load("clap", "")


def test_over_time_turns_its_sign_with_time_and_grows_with_shuffling() -> None:
    course = torch.arange(6.0)[None, :, None]
    mean, way, spread, restless = over_time(course)[0].tolist()
    assert (mean, way) == (2.5, 5.0) and restless == 1.0
    assert over_time(course.flip(1))[0, 1] == -5.0
    assert over_time(course[:, [0, 3, 1, 5, 2, 4]])[0, 3] > 1.0
    assert torch.isfinite(over_time(course[:, :1])).all()


def test_latent_features_read_any_noise_level_without_decoding_and_with_a_gradient() -> None:
    eyes = LatentBackbone("nano", generator=native.nano())
    latents = torch.randn(2, *eyes.generator.latent_shape(eyes.generator.size), requires_grad=True)
    condition = eyes.generator.encode_prompts(PROMPTS)
    low, high = (eyes.at(latents, torch.full((2,), sigma), condition) for sigma in (0.1, 0.9))
    assert low.shape == high.shape and not torch.allclose(low, high)
    (gradient,) = torch.autograd.grad(low.sum(), latents)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
    frames = torch.rand(2, 5, 3, 32, 32)
    assert torch.equal(eyes.features(frames, PROMPTS), eyes.features(frames, PROMPTS))


def test_a_preference_model_on_another_backbone_trains_saves_and_loads(tmp_path: Path) -> None:
    eyes = TransformersBackbone(_saved("videomae", tmp_path / "eyes"))
    model, _ = train(fill_store(tmp_path), eyes, TrainConfig(num_heads=1, epochs=1), tmp_path / "reward")
    again = preference_model.load(tmp_path / "reward")
    assert torch.equal(model(_frames(), PROMPTS).total, again(_frames(), PROMPTS).total)
    torch.manual_seed(9)
    VideoMAEModel(VideoMAEConfig(image_size=32, patch_size=16, num_frames=8, **SIZES)).save_pretrained(
        tmp_path / "eyes"
    )
    with pytest.raises(UserError, match="trained on transformers .* train it again"):
        preference_model.load(tmp_path / "reward")
