"""Backbones by path, on tiny random weights of the published layouts: what they read, refuse and say of themselves."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from core import video
from core.errors import UserError
from core.registry import resolve
from eval import METRICS, backbones, flow, fvd, human_action, i3d, vbench
from eval.bench import Bench, Tools
from eval.features import Cache
from eval.protocol import Metric, Sample, Score

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")
FRAMES = np.random.default_rng(0).random((17, 3, 40, 56), dtype=np.float32)
CLASSES = 5


def tiny_i3d() -> dict[str, torch.Tensor]:
    """The layout of the PyTorch I3D with 2 channels a path."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def unit(name: str, inside: int, outside: int, kernel: tuple[int, ...]) -> None:
        state[f"{name}.conv3d.weight"] = torch.randn(outside, inside, *kernel) / inside**0.5
        for part, value in (("weight", 1.0), ("bias", 0.1), ("running_mean", 0.05), ("running_var", 1.1)):
            state[f"{name}.bn.{part}"] = torch.full((outside,), value)
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(1)

    unit("Conv3d_1a_7x7", 3, 4, (7, 7, 7))
    unit("Conv3d_2b_1x1", 4, 4, (1, 1, 1))
    unit("Conv3d_2c_3x3", 4, 8, (3, 3, 3))
    for block in i3d.BLOCKS:
        name = f"Mixed_{block}"
        for path, inside, size in (("b0", 8, 1), ("b1a", 8, 1), ("b1b", 2, 3), ("b2a", 8, 1), ("b2b", 2, 3)):
            unit(f"{name}.{path}", inside, 2, (size,) * 3)
        unit(f"{name}.b3b", 8, 2, (1, 1, 1))
    state["logits.conv3d.weight"] = torch.randn(CLASSES, 8, 1, 1, 1)
    state["logits.conv3d.bias"] = torch.randn(CLASSES)
    return state


class Detector(nn.Module):
    """Called as StyleGAN-V's TorchScript is."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        if resize:
            x = torch.nn.functional.interpolate(x.flatten(0, 1), (224, 224), mode="bilinear").unflatten(0, x.shape[:2])
        if rescale:
            x = x / 127.5 - 1
        return x.mean(dim=(2, 3, 4))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.save(tiny_i3d(), folder / "i3d.pt")
    torch.jit.script(Detector()).save(str(folder / "i3d_torchscript.pt"))
    return folder


def test_every_metric_names_a_backbone_that_exists() -> None:
    for name in METRICS:
        metric: Metric = resolve(METRICS, name, "metric")
        assert metric.backbone is None or metric.backbone in backbones.BACKBONES, name
        assert metric.estimator is None or metric.estimator in flow.ESTIMATORS, name
        assert (metric.per_set is None) == (metric.pool is None), name


def test_i3d_gives_the_logits_of_the_first_16_frames(weights: Path) -> None:
    tower = backbones.load("i3d", {"i3d": str(weights / "i3d.pt")})
    features = tower.encode_frames(FRAMES)
    assert features.shape == (1, CLASSES) and tower.sha256 == video.sha256(weights / "i3d.pt")
    assert np.array_equal(features, tower.encode_frames(FRAMES[:16]))
    assert not np.allclose(features, tower.encode_frames(FRAMES[::-1]))
    centre = backbones.load("i3d,centre", {"i3d": str(weights / "i3d.pt")})
    assert not np.allclose(features, centre.encode_frames(FRAMES)) and centre.preprocessing != tower.preprocessing


def test_i3d_runs_from_nine_frames_on_and_its_logits_are_a_mean_over_time() -> None:
    state = tiny_i3d()
    clip = torch.randn(1, 3, 9, 224, 224)
    assert i3d.logits(state, clip).shape == (1, CLASSES)
    with pytest.raises(RuntimeError):
        i3d.logits(state, clip[:, :, :8])


@pytest.mark.skipif("SORALIGN_I3D" not in os.environ, reason="needs the published weights: SORALIGN_I3D=PATH")
def test_i3d_gives_the_published_distance_of_black_from_white(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 clips of 30 frames, 64x64, all zeros against all ones: 151.256 (common_metrics, PyTorch)."""
    monkeypatch.setattr(i3d, "NUM_FRAMES", 30)
    tower = backbones.load("i3d", {"i3d": os.environ["SORALIGN_I3D"]})
    black, white = (tower.encode_frames(np.full((30, 3, 64, 64), value, np.float32)) for value in (0, 1))
    assert fvd.distance(np.repeat(black, 8, axis=0), np.repeat(white, 8, axis=0)) == pytest.approx(151.256, rel=1e-3)


def test_i3d_pads_as_tensorflow_does() -> None:
    """SAME: 224 pixels, kernel 7, stride 2 need 5 zeros, two in front and three behind."""
    padded = i3d._padded(torch.ones(1, 1, 16, 224, 224), (7, 7, 7), (2, 2, 2))
    assert padded.shape[2:] == (21, 229, 229)
    assert padded[0, 0, :, 100, 100].tolist() == [0.0] * 2 + [1.0] * 16 + [0.0] * 3
    assert i3d._padded(torch.ones(1, 1, 4, 7, 7), (1, 1, 1), (1, 1, 1)).shape[2:] == (4, 7, 7)


def test_an_i3d_unit_is_convolution_normalisation_and_relu() -> None:
    state = tiny_i3d()
    conv = nn.Conv3d(4, 8, 3, padding=1, bias=False)
    norm = nn.BatchNorm3d(8, eps=1e-3).eval()
    conv.load_state_dict({"weight": state["Conv3d_2c_3x3.conv3d.weight"]})
    norm.load_state_dict(
        {key.removeprefix("Conv3d_2c_3x3.bn."): value for key, value in state.items() if "Conv3d_2c_3x3.bn" in key}
    )
    x = torch.randn(2, 4, 5, 9, 9)
    with torch.no_grad():
        assert torch.allclose(i3d._unit(state, "Conv3d_2c_3x3", x), norm(conv(x)).relu(), atol=1e-5)


def test_the_torchscript_detector_is_called_as_its_protocol_says(weights: Path) -> None:
    path = str(weights / "i3d_torchscript.pt")
    mean = FRAMES[:16].mean(axis=(0, 2, 3)) * 2 - 1
    for name in ("i3d", "i3d,own"):  # stretched by us to [-1, 1], or 0..255 stretched by the detector
        assert backbones.load(name, {"i3d": path}).encode_frames(FRAMES)[0] == pytest.approx(mean, abs=0.02)


def test_given_a_state_dict_stylegan_v_stretches_as_the_detector_would(weights: Path) -> None:
    given = {"i3d": str(weights / "i3d.pt")}
    one, two = backbones.load("i3d", given), backbones.load("i3d,own", given)
    assert np.array_equal(one.encode_frames(FRAMES), two.encode_frames(FRAMES))


def test_weights_that_are_absent_wrong_or_of_another_hash_say_so(weights: Path, tmp_path: Path) -> None:
    file = weights / "i3d.pt"
    digest = video.sha256(file)
    backbones.load("i3d", {"i3d": f"{file}#{digest[:12].upper()}"})
    with pytest.raises(UserError, match="--weights i3d=PATH"):
        backbones.load("i3d", {})
    with pytest.raises(UserError, match="do not exist"):
        backbones.load("i3d", {"i3d": str(tmp_path / "none.pt")})
    for wanted in ("00" * 32, digest[:4]):
        with pytest.raises(UserError, match="have sha256"):
            backbones.load("i3d", {"i3d": f"{file}#{wanted}"})
    (tmp_path / "junk.pt").write_bytes(b"junk")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("junk.pt", "other.pt"):
        for backbone in ("i3d", "dino"):
            with pytest.raises(UserError, match="weights"):
                backbones.load(backbone, {backbone: str(tmp_path / name)})
    with pytest.raises(UserError, match="MobileNetV2"):
        backbones.load("mobilenet_v2", {"mobilenet_v2": str(tmp_path / "junk.pt")})
    with pytest.raises(UserError, match="raft_large"):
        flow.load("raft", {"raft": str(tmp_path / "junk.pt")})


def test_videomae_from_a_folder(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEModel

    config = VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    VideoMAEModel(config).save_pretrained(tmp_path)
    tower = backbones.load("videomae", {"videomae": str(tmp_path)})
    assert tower.min_frames == 4 and tower.encode_frames(FRAMES).shape == (1, 16)
    assert np.array_equal(tower.encode_frames(FRAMES), tower.encode_frames(FRAMES[:4]))
    assert tower.sha256 == video.sha256(tmp_path / "model.safetensors")


def test_any_open_clip_model_by_name_and_file(tmp_path: Path) -> None:
    tower = backbones.load("open_clip", {"open_clip": tiny_clip(tmp_path)})
    rows, words = tower.encode_frames(FRAMES), tower.encode_text("a red ball")
    assert rows.shape == (17, 16) and words is not None and words.shape == (16,)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(17)) and np.linalg.norm(words) == pytest.approx(1)
    with pytest.raises(UserError, match="MODEL:FILE"):
        backbones.load("open_clip", {"open_clip": str(tmp_path / "tiny.pt")})


def test_a_clip_as_openai_publishes_it_is_read_from_its_torchscript(tmp_path: Path) -> None:
    plain = backbones.load("open_clip", {"open_clip": tiny_clip(tmp_path)})
    archive = nn.Module()
    for name, tensor in torch.load(tmp_path / "tiny.pt").items():
        *path, leaf = name.split(".")
        place = archive
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_buffer(leaf, tensor)
    torch.jit.script(archive).save(str(tmp_path / "scripted.pt"))
    scripted = backbones.load("open_clip", {"open_clip": f"tiny-soralign:{tmp_path / 'scripted.pt'}"})
    assert np.array_equal(scripted.encode_frames(FRAMES[:2]), plain.encode_frames(FRAMES[:2]))


def tiny_clip(folder: Path) -> str:
    """MODEL:FILE of a CLIP with random weights for 32x32 frames, embeddings of 16."""
    import open_clip

    vision = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    (folder / "tiny-soralign.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-soralign").state_dict(), folder / "tiny.pt")
    return f"tiny-soralign:{folder / 'tiny.pt'}"


def test_aesthetic_quality_is_the_linear_head_on_unit_embeddings_over_ten(tmp_path: Path) -> None:
    clip = tiny_clip(tmp_path)
    head = {"weight": torch.randn(1, 16), "bias": torch.tensor([5.0])}
    torch.save(head, tmp_path / "head.pth")
    tower = backbones.load("laion", {"laion": f"{clip}:{tmp_path / 'head.pth'}"})
    flat = np.full((3, 3, 32, 32), 0.4, np.float32)
    rows = tower.encode_frames(flat)
    unit = backbones.load("open_clip", {"open_clip": clip}).encode_frames(flat)  # a flat frame needs no resizing
    assert rows == pytest.approx(unit @ head["weight"].numpy().T.astype(float) + 5.0, abs=2e-3)
    assert vbench.aesthetic_quality(Sample("a", "", None, flat, rows)).value == pytest.approx(rows.mean() / 10)
    with pytest.raises(UserError, match="MODEL:FILE:HEAD"):
        backbones.load("laion", {"laion": str(tmp_path / "head.pth")})


def tiny_viclip() -> dict[str, torch.Tensor]:
    """The layout of ViCLIP with one block a tower, 128 wide, for 4 frames of 32x32."""
    torch.manual_seed(0)

    def block(tower: str, width: int) -> dict[str, torch.Tensor]:
        shapes = {"attn.in_proj_weight": (3 * width, width), "attn.out_proj.weight": (width, width)}
        shapes |= {"mlp.c_fc.weight": (4 * width, width), "mlp.c_proj.weight": (width, 4 * width)}
        shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
        shapes |= {f"ln_{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
        return {f"{tower}.transformer.resblocks.0.{name}": 0.1 * torch.randn(shape) for name, shape in shapes.items()}

    vision = {"class_embedding": (128,), "positional_embedding": (5, 128), "temporal_positional_embedding": (1, 4, 128)}
    vision |= {"conv1.weight": (128, 3, 1, 16, 16), "proj": (128, 6)}
    vision |= {f"{norm}.{part}": (128,) for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")}
    text = {"token_embedding.weight": (49408, 64), "positional_embedding": (32, 64), "text_projection": (64, 6)}
    text |= {f"ln_final.{part}": (64,) for part in ("weight", "bias")}
    state = {f"vision_encoder.{name}": torch.randn(shape) for name, shape in vision.items()}
    state |= {f"text_encoder.{name}": torch.randn(shape) for name, shape in text.items()}
    return state | block("vision_encoder", 128) | block("text_encoder", 64) | {"temp": torch.tensor(0.01)}


def test_viclip_attends_over_all_patches_of_all_frames(tmp_path: Path) -> None:
    state = tiny_viclip()
    torch.save({"model": state}, tmp_path / "viclip.pth")
    tower = backbones.load("viclip", {"viclip": str(tmp_path / "viclip.pth")})
    frames = np.random.default_rng(1).random((9, 3, 32, 32), dtype=np.float32)
    assert np.array_equal(vbench.middles(9, 4), [0, 2, 4, 7]) and np.array_equal(vbench.middles(2, 4), [0, 1, 1, 1])

    own = {name.removeprefix("vision_encoder."): tensor.double() for name, tensor in state.items()}
    inner = {name.removeprefix("transformer.resblocks.0."): tensor for name, tensor in own.items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * inner[f"{name}.weight"] + inner[f"{name}.bias"]

    mean, std = (torch.tensor(part).reshape(3, 1, 1).double() for part in (video.CLIP_MEAN, video.CLIP_STD))
    tokens = [own["class_embedding"] + own["positional_embedding"][0]]
    for time, place in enumerate((0, 2, 4, 7)):
        image = (torch.from_numpy(frames[place]).double() - mean) / std
        for patch, (row, column) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
            part = (image[:, row : row + 16, column : column + 16] * own["conv1.weight"][:, :, 0]).sum((1, 2, 3))
            tokens.append(part + own["positional_embedding"][patch + 1] + own["temporal_positional_embedding"][0, time])
    x = norm(torch.stack(tokens), "ln_pre")
    query, keys, value = (norm(x, "ln_1") @ inner["attn.in_proj_weight"].T + inner["attn.in_proj_bias"]).split(128, -1)
    heads = []
    for start in (0, 64):
        part = slice(start, start + 64)
        heads.append((query[:, part] @ keys[:, part].T / 8).softmax(-1) @ value[:, part])
    x = x + torch.cat(heads, -1) @ inner["attn.out_proj.weight"].T + inner["attn.out_proj.bias"]
    hidden = norm(x, "ln_2") @ inner["mlp.c_fc.weight"].T + inner["mlp.c_fc.bias"]
    x = x + (hidden * (1.702 * hidden).sigmoid()) @ inner["mlp.c_proj.weight"].T + inner["mlp.c_proj.bias"]
    wanted = norm(x[0], "ln_post") @ own["proj"]
    assert tower.encode_frames(frames)[0] == pytest.approx((wanted / wanted.norm()).numpy(), abs=1e-5)
    words = tower.encode_text("a red ball")
    assert words is not None and words.shape == (6,) and np.linalg.norm(words) == pytest.approx(1)
    assert not np.allclose(words, tower.encode_text("a blue ball"))


def tiny_umt() -> dict[str, torch.Tensor]:
    """The layout of UMT with one block, 128 wide, for 16 frames of 32x32."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (128, 3, 1, 16, 16),
        "patch_embed.proj.bias": (128,),
    }
    shapes |= {"pos_embed": (1, 64, 128), "blocks.0.attn.qkv.weight": (384, 128)}
    shapes |= {f"blocks.0.attn.{name}_bias": (128,) for name in "qv"}
    for name, out, into in (("attn.proj", 128, 128), ("mlp.fc1", 512, 128), ("mlp.fc2", 128, 512)):
        shapes |= {f"blocks.0.{name}.weight": (out, into), f"blocks.0.{name}.bias": (out,)}
    for name in ("blocks.0.norm1", "blocks.0.norm2", "fc_norm"):
        shapes |= {f"{name}.weight": (128,), f"{name}.bias": (128,)}
    shapes |= {"head.weight": (400, 128), "head.bias": (400,)}
    return {name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}


def test_umt_is_its_published_layout_and_sees_actions_in_the_middles_of_sixteen_parts(tmp_path: Path) -> None:
    state = tiny_umt()
    torch.save(state, tmp_path / "umt.pth")
    tower = backbones.load("umt", {"umt": str(tmp_path / "umt.pth")})
    own = {name.removeprefix("blocks.0."): tensor.double() for name, tensor in state.items()}
    flat = np.random.default_rng(1).random((20, 3, 1, 1), dtype=np.float32) * np.ones((1, 1, 36, 36), np.float32)
    mean, std = (torch.tensor(part).double() for part in (video.IMAGENET_MEAN, video.IMAGENET_STD))
    colours = (torch.from_numpy(flat[vbench.middles(20, 16), :, 0, 0]).double() - mean) / std
    patches = colours @ own["patch_embed.proj.weight"].sum((2, 3, 4)).T + own["patch_embed.proj.bias"]
    x = patches.repeat_interleave(4, 0) + own["pos_embed"][0]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (128,), own[f"{name}.weight"], own[f"{name}.bias"], 1e-6)

    query, keys, value = (norm(x, "norm1") @ own["attn.qkv.weight"].T).split(128, -1)
    query, value, heads = query + own["attn.q_bias"], value + own["attn.v_bias"], []
    for part in (slice(0, 64), slice(64, 128)):
        heads.append((query[:, part] @ keys[:, part].T / 8).softmax(-1) @ value[:, part])
    x = x + torch.cat(heads, -1) @ own["attn.proj.weight"].T + own["attn.proj.bias"]
    hidden = torch.nn.functional.gelu(norm(x, "norm2") @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"])
    x = x + hidden @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
    logits = norm(x.mean(0), "fc_norm") @ own["head.weight"].T + own["head.bias"]
    rows = tower.encode_frames(flat)
    assert rows.shape == (1, 400) and rows[0] == pytest.approx(logits.sigmoid().numpy(), abs=1e-5)
    state["blocks.0.attn.more"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not those of UMT"):
        backbones.load("umt", {"umt": str(tmp_path / "other.pth")})


def test_an_action_counts_when_it_is_among_the_likeliest_and_likely() -> None:
    archery = human_action.actions()["archery"]

    def judged(prompt: str, chance: float, better: int = 0) -> Score:
        chances = np.full(400, 0.01)
        chances[10 + archery : 10 + archery + better], chances[archery] = 0.99, chance
        return human_action.seen(Sample("a", prompt, None, FRAMES, chances[None]))

    assert [judged("A person is archery", chance).value for chance in (0.84994, 0.84996, 0.97)] == [0, 1, 1]
    assert [judged("A person is archery", 0.97, better).value for better in (4, 5)] == [1, 0]
    assert judged("A person is robot dancing", 0.97).value == 0
    assert "Kinetics-400" in (judged("a red ball", 0.97).reason or "")


def test_appearance_style_reads_the_style_alone(tmp_path: Path) -> None:
    tower = backbones.load("open_clip", {"open_clip": tiny_clip(tmp_path)})
    tools = Tools({"open_clip": tower}, {}, {})
    bench = Bench([vbench.STYLE], tools, Cache(tmp_path), tmp_path, ())
    rows = tower.encode_frames(FRAMES[:3])

    def judged(prompt: str) -> Score:
        return bench._score(vbench.STYLE, Sample("a", prompt, None, FRAMES[:3]), {"open_clip": rows})

    text = tower.encode_text("by Hokusai, in the style of Ukiyo")
    assert judged("The bund Shanghai by Hokusai, in the style of Ukiyo").value == pytest.approx((rows @ text).mean())
    assert judged("a shark, pixel art").value == judged("a cat, pixel art").value
    assert "none of VBench's styles" in (judged("pixel art of a shark").reason or "")


def test_dino_of_any_width(tmp_path: Path) -> None:
    import timm

    model = timm.models.vision_transformer.VisionTransformer(
        patch_size=32, embed_dim=64, depth=1, num_heads=1, num_classes=0
    )
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    rows = backbones.load("dino", {"dino": str(tmp_path / "dino.pth")}).encode_frames(FRAMES[:3])
    assert rows.shape == (3, 64) and np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(3))


def test_resizing_keeps_constants_centres_and_the_short_side() -> None:
    flat = np.full((2, 3, 20, 50), 0.3, np.float32)
    assert backbones.resized(flat, 16, crop=True).numpy() == pytest.approx(np.full((2, 3, 16, 16), 0.3))
    ramp = np.broadcast_to(np.linspace(0, 1, 50, dtype=np.float32), (1, 3, 20, 50))
    cropped = backbones.resized(ramp, 20, crop=True).numpy()
    assert np.array_equal(cropped, ramp[..., 15:35])


def test_the_cache_tells_backbones_and_preparations_apart_and_remembers_short_videos(
    weights: Path, tmp_path: Path
) -> None:
    given = {"i3d": str(weights / "i3d.pt")}
    store = Cache(tmp_path)
    towers = [backbones.load(name, given) for name in ("i3d", "i3d,centre", "thumbnail")]
    assert len({store.path("content", tower) for tower in towers}) == 3
    assert store.compute("content", FRAMES[:9], towers[0]).shape[0] == 0
    kept = store.load("content", towers[0])
    assert kept is not None and len(kept) == 0 and store.load("content", towers[1]) is None
