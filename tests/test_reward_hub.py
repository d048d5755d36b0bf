"""Rewards people already use: the real loading code on tiny random weights of the published layouts, against scores
computed another way."""

import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

import reward
from core.errors import UserError
from core.video import CLIP_MEAN, CLIP_STD
from reward import clip_models, image_reward
from reward.frame_reward import prepared, state_of

PROMPTS = ["a red ball", "a blue square"]
TOWER = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT_TOWER = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def _frames() -> torch.Tensor:
    coarse = torch.rand(2, 5, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse.flatten(0, 1), (48, 64), mode="bilinear").unflatten(0, (2, 5))


def _images() -> list[Image.Image]:
    """The first frame of each video as people would have saved it."""
    return [Image.fromarray((one[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)) for one in _frames()]


@pytest.fixture(scope="module")
def hf_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def write_clip(folder: Path) -> Path:
    """A tiny transformers CLIP with a tokenizer, as PickScore's folder has them."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    letters = [chr(code) for code in range(97, 123)]
    words = {word: index for index, word in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    words |= {f"{letter}</w>": len(words) + index for index, letter in enumerate(letters)}
    text = CLIPTextConfig(vocab_size=len(words), bos_token_id=0, eos_token_id=1, max_position_embeddings=12, **sizes)
    vision = CLIPVisionConfig(image_size=32, patch_size=16, **sizes)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_open_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny open_clip model as a local folder; its architecture is registered as "tiny-test"."""
    folder = tmp_path_factory.mktemp("openclip")
    config = {"embed_dim": 16, "vision_cfg": TOWER, "text_cfg": TEXT_TOWER}
    (folder / "tiny-test.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-test.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-test", load_weights=False)
    about = {"model_cfg": config, "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "HPS_v2.1_compressed.pt")
    return folder


def test_preparing_images_is_the_processors_up_to_its_rounding() -> None:
    theirs = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    wanted = theirs(_images(), return_tensors="pt")["pixel_values"]
    ours = prepared(_frames()[:, 0], 32, CLIP_MEAN, CLIP_STD)
    assert float((ours - wanted).abs().max()) < 2.5 / 255 / min(CLIP_STD)


def test_pick_score_is_the_logit_that_transformers_computes(hf_clip: Path) -> None:
    judge = clip_models.pick_score(str(hf_clip))
    found = judge(_frames()[:, :1], PROMPTS)
    model, words = CLIPModel.from_pretrained(hf_clip).eval(), CLIPTokenizer.from_pretrained(hf_clip)
    text = words(PROMPTS, padding=True, truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=prepared(_frames()[:, 0], 32, CLIP_MEAN, CLIP_STD), **text).logits_per_image
    torch.testing.assert_close(found.total, logits.diagonal())


def test_a_video_scores_the_mean_of_its_frames_with_a_gradient_and_nan_alone(hf_clip: Path) -> None:
    judge = clip_models.pick_score(str(hf_clip))
    frames = _frames().requires_grad_()
    total = judge(frames, PROMPTS).total
    alone = torch.stack([judge(frames[:, [i]], PROMPTS).total for i in range(5)]).mean(0)
    torch.testing.assert_close(total, alone)
    (gradient,) = torch.autograd.grad(total.sum(), frames)
    assert torch.isfinite(gradient).all() and (gradient.abs().amax((0, 2, 3, 4)) > 0).all()
    broken = _frames()
    broken[0, 2, 0, 0, 0] = math.nan
    assert torch.isfinite(judge(broken, PROMPTS).total).tolist() == [False, True]


def test_open_clip_clip_score_and_hps_are_its_cosine_in_their_own_words(tiny_open_clip: Path) -> None:
    weights = f"local-dir:{tiny_open_clip}"
    plain, scaled = clip_models.open_clip_cosine(weights), clip_models.clip_score(weights)
    preferred = clip_models.hps(str(tiny_open_clip), "tiny-test")
    model, _, look = open_clip.create_model_and_transforms(weights)
    words = open_clip.get_tokenizer("tiny-test")
    images = torch.stack([look(image) for image in _images()])

    def cosine(prompts: list[str]) -> torch.Tensor:
        with torch.no_grad():
            both = model.encode_image(images, normalize=True), model.encode_text(words(prompts), normalize=True)
        return (both[0] * both[1]).sum(-1)

    frames = _frames()[:, :1]
    torch.testing.assert_close(plain(frames, PROMPTS).total, cosine(PROMPTS), atol=5e-3, rtol=0)
    torch.testing.assert_close(preferred(frames, PROMPTS).total, cosine(PROMPTS), atol=5e-3, rtol=0)
    expected = 2.5 * cosine([f"A photo depicts {text}" for text in PROMPTS]).clamp(min=0)
    torch.testing.assert_close(scaled(frames, PROMPTS).total, expected, atol=1e-2, rtol=0)


def test_aesthetic_predictor_is_a_chain_of_matrices_on_the_normalised_embedding(hf_clip: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    sizes, state, index = (16, 1024, 128, 64, 16, 1), {}, 0
    for number, (wide, narrow) in enumerate(zip(sizes, sizes[1:], strict=False)):
        state[f"layers.{index}.weight"] = torch.randn(narrow, wide) / wide**0.5
        state[f"layers.{index}.bias"] = torch.randn(narrow)
        index += 2 if number < 3 else 1
    assert set(state) == {f"layers.{i}.{kind}" for i in (0, 2, 4, 6, 7) for kind in ("weight", "bias")}
    torch.save(state, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    judge = clip_models.aesthetic(str(tmp_path / "sac+logos+ava1-l14-linearMSE.pth"), str(hf_clip))
    model = CLIPModel.from_pretrained(hf_clip).eval()
    with torch.no_grad():
        pooled = model.vision_model(pixel_values=prepared(_frames()[:, 0], 32, CLIP_MEAN, CLIP_STD)).pooler_output
        x = torch.nn.functional.normalize(model.visual_projection(pooled), dim=-1)
        for i in (0, 2, 4, 6, 7):
            x = x @ state[f"layers.{i}.weight"].T + state[f"layers.{i}.bias"]
    torch.testing.assert_close(judge(_frames()[:, :1], PROMPTS).total, x[:, 0])


VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
}
READER = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
# transformers' names of the vision tower -> BLIP's own, written out as its checkpoint has them.
ORIGINAL = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding": "patch_embed.proj",
    "encoder.layers": "blocks",
    "layer_norm": "norm",
    "self_attn.qkv": "attn.qkv",
    "self_attn.projection": "attn.proj",
    "post_norm": "norm",
}


@pytest.fixture
def blip(tmp_path: Path) -> tuple[Path, BlipVisionModel, BlipTextModel, dict[str, torch.Tensor]]:
    """A folder with ImageReward.pt in the original layout and a BERT tokenizer; the towers it was made of."""
    torch.manual_seed(2)
    eye = BlipVisionModel(BlipVisionConfig(patch_size=16, hidden_act="gelu", layer_norm_eps=1e-6, **VISION)).eval()
    reader = BlipTextModel(BlipTextConfig(encoder_hidden_size=32, is_decoder=True, **READER), add_pooling_layer=False)
    state = {}
    for name, value in eye.state_dict().items():
        for new, old in ORIGINAL.items():
            name = name.replace(new, old)
        state[f"blip.visual_encoder.{name}"] = value
    state |= {f"blip.text_encoder.{name}": value for name, value in reader.state_dict().items()}
    sizes = {0: (32, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16), 7: (16, 1)}
    for index, (wide, narrow) in sizes.items():
        state[f"mlp.layers.{index}.weight"] = torch.randn(narrow, wide) / wide**0.5
        state[f"mlp.layers.{index}.bias"] = torch.randn(narrow)
    state["blip.text_decoder.unused"] = torch.zeros(3)  # the checkpoint holds more than scoring needs
    torch.save(state, tmp_path / "ImageReward.pt")
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "ball"])
    )
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return tmp_path, eye, reader.eval(), state


def test_image_reward_reads_the_original_names_and_scores_the_first_token(blip: tuple) -> None:
    folder, eye, reader, state = blip
    judge = image_reward.image_reward(str(folder), VISION, READER)
    found = judge(_frames()[:, :1], PROMPTS).total
    words = BertTokenizer(str(folder / "vocab.txt"))(PROMPTS, padding="max_length", max_length=35, return_tensors="pt")
    with torch.no_grad():
        seen = eye(pixel_values=prepared(_frames()[:, 0], 32, CLIP_MEAN, CLIP_STD)).last_hidden_state
        x = reader(words.input_ids, words.attention_mask, encoder_hidden_states=seen).last_hidden_state[:, 0]
        for i in (0, 2, 4, 6, 7):
            x = x @ state[f"mlp.layers.{i}.weight"].T + state[f"mlp.layers.{i}.bias"]
    torch.testing.assert_close(found, (x[:, 0] - image_reward.MEAN) / image_reward.STD, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_of_another_layout_or_a_damaged_one_is_refused_in_one_line(blip: tuple, tmp_path: Path) -> None:
    folder = blip[0]
    with pytest.raises(UserError, match="another layout: .* of .* weights, such as"):
        image_reward.image_reward(str(folder), VISION | {"hidden_size": 64}, READER)
    (tmp_path / "broken.pt").write_bytes(b"\x80\x04nonsense")
    with pytest.raises(UserError, match="cannot be read as weights"):
        state_of(tmp_path / "broken.pt")
    with pytest.raises(UserError, match=r"holds no ImageReward\.pt"):
        image_reward.image_reward(str(tmp_path.parent))


def test_a_file_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "was here").touch, ())

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="cannot be read as weights"):
        state_of(tmp_path / "evil.pt")
    assert not (tmp_path / "was here").exists()


def test_rewards_are_found_by_name_and_weights(hf_clip: Path, tiny_open_clip: Path) -> None:
    assert reward.load(f"pick-score:{hf_clip}").name == "pick-score"
    assert reward.load(f"open-clip:local-dir:{tiny_open_clip}").name == "open-clip"
    with pytest.raises(UserError, match="needs weights"):
        reward.load("open-clip")
    with pytest.raises(UserError, match="takes no weights"):
        reward.load("motion:somewhere")
    with pytest.raises(UserError, match="must be ARCHITECTURE/TAG"):
        reward.load("clip-score:nothing")
