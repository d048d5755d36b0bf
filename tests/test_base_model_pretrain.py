"""Pretraining: the schedule's closed form, a stopped run that ends as an unbroken one, losses that fall."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pretrain_run
import processes
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import distributed
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import base_model
from base_model import tasks
from base_model.codec.frames import FrameCodec
from base_model.codec.load import load_codec
from base_model.codec.quantized import QuantizedVideoCodec
from base_model.codec.vae import Blocks, CausalVideoVAE
from base_model.dit.blocks import Block
from base_model.given import Request
from base_model.large import launch
from base_model.native import nano
from base_model.options import WEIGHTS
from base_model.pretrain import PretrainConfig, check, loop, pretrain, rate
from base_model.pretrain import clip as clip_part
from base_model.pretrain import codec as codec_part
from base_model.pretrain import transformer as transformer_part
from base_model.pretrain.part import Part, pool
from base_model.protocol import VideoSize
from base_model.sampler import Sampling, generate_frames
from base_model.text import SandboxClip
from base_model.transformer import VideoTransformer
from base_model.variants import VARIANTS, load_transformer
from base_model.world.spec import ObjectSpec, SceneSpec
from core.cli import main
from core.errors import UserError
from core.randomness import numpy_generator
from core.run import read_metrics

SMALL = PretrainConfig(
    steps=5, batch=2, warmup=2, num_clips=4, save_every=2, width=48, num_layers=2, num_heads=2, latent_channels=4
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec and a CLIP to train a transformer on."""
    folder = tmp_path_factory.mktemp("parts")
    model = nano()
    model.vae.save_pretrained(folder / "codec")
    model.clip.save_pretrained(folder / "clip")
    model.transformer.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codec and CLIP a few channels wide, as `SMALL` has the transformer: what is tested is the loop around them."""
    monkeypatch.setattr(codec_part, "CausalVideoVAE", _SmallCodec)
    monkeypatch.setattr(
        codec_part,
        "QuantizedVideoCodec",
        lambda kind, trunk_options: QuantizedVideoCodec(kind, 16, 2, trunk_options=trunk_options | _SmallCodec.sizes),
    )
    monkeypatch.setattr(codec_part.CodecPart, "_start_from_principal_components", lambda self: None)  # seconds
    small = {"dim": 16, "vision_width": 48, "vision_layers": 1, "text_width": 16, "text_layers": 1}
    monkeypatch.setattr(clip_part, "SandboxClip", lambda: SandboxClip(**small))


class _SmallCodec(CausalVideoVAE):
    sizes = {"width": 24, "encoder_blocks": "mp", "decoder_blocks": "mp"}

    def __new__(cls, **sizes: int) -> CausalVideoVAE:  # type: ignore[misc]
        return CausalVideoVAE(**sizes | cls.sizes)


def _config(part: str, parts: Path, **changes: object) -> PretrainConfig:
    return replace(SMALL, part=part, codec=str(parts / "codec"), clip=str(parts / "clip"), **changes)  # type: ignore[arg-type]


# --- schedule ---------------------------------------------------------------------------------------------------------


def test_the_rate_rises_stays_and_falls() -> None:
    config = PretrainConfig(steps=100, warmup=10, decay=0.4, learning_rate=0.5)
    expected = [0.5 * min(1.0, (step + 1) / 10, (100 - step) / 40) for step in range(100)]
    assert [rate(config, step) for step in range(100)] == pytest.approx(expected)
    assert rate(config, 0) == pytest.approx(0.05) and rate(config, 9) == rate(config, 60) == 0.5
    assert rate(config, 80) == pytest.approx(0.25) and rate(config, 99) == pytest.approx(0.0125)


def test_without_decay_the_rate_stays() -> None:
    config = PretrainConfig(steps=100, warmup=10, decay=0.0, learning_rate=0.5)
    assert rate(config, 99) == 0.5


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"warmup": 0}, "warmup is 0"),
        ({"num_clips": 0}, "num_clips is 0"),
        ({"noise": 1.2}, "noise is 1.2"),
        ({"ema_decay": -0.1}, "ema_decay is -0.1"),
        ({"temporal_factor": 3}, "temporal_factor is 3, .* must divide 16 and 32"),
        ({"part": "transformer", "num_heads": 5}, "width 48 does not divide into 5 heads"),
        ({"part": "transformer", "variant": "unet", "width": 40}, "width is 40; .* a multiple of 48"),
        ({"max_bad": 1.0}, "max_bad is 1.0, .* a share below 1"),
        ({"min_snr": -5.0}, "min_snr is -5.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, it must be a number above 0"),
        ({"shift": 0.0}, "shift is 0.0, it must be a number above 0"),
        ({"token_budget": -5}, "token_budget is -5, it must be 0 or more"),
        ({"part": "transformer"}, "needs a trained codec"),
        ({"latent_noise": 0.5}, "latent_noise is 0.5; .* give part codec and start"),
        ({"part": "codec", "hard_negatives": 3}, "hard_negatives is 3"),
        ({"start": "nowhere"}, "start is 'nowhere', which holds no config.json"),
        ({"start": str(WEIGHTS / "transformer"), "variant": "scan"}, "variant is 'scan' and start '.*'; leave one of"),
        ({"sizes": ["17x64"]}, "size '17x64' is not FRAMESxHEIGHTxWIDTH"),
        ({"sizes": ["17x32x64"]}, "smaller than the sandbox's own 17x64x64"),
        ({"families": ["dance"]}, "family 'dance' is unknown"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_it_starts(
    tmp_path: Path, change: dict[str, object], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        pretrain(replace(SMALL, **change), tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_the_shipped_recipes_can_run() -> None:
    import yaml

    folder = Path(base_model.__file__).parent / "recipes"
    seen = set()
    for path in folder.glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        values |= {
            name: float(values[name]) for name in ("learning_rate", "kl_weight") if name in values
        }  # 1e-3 is text
        config = PretrainConfig(**values)
        seen.add(config.part)
        if not config.start and config.part != "transformer":  # what they go on from is trained before them
            check(config)
    assert seen == {"codec", "clip", "transformer"}


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["codec", "clip", "transformer"])
@pytest.mark.usefixtures("small_networks")
def test_a_stopped_run_ends_as_an_unbroken_one_to_the_bit(
    part: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(part, parts, ema_decay=0.5)
    whole = pretrain(config, tmp_path / "whole")
    kind = {"codec": codec_part.CodecPart, "clip": clip_part.ClipPart, "transformer": transformer_part.TransformerPart}[
        part
    ]
    loss = kind.loss

    def stopped(self: object, step: int, draw: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return loss(self, step, draw)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, "loss", stopped)
        pretrain(config, tmp_path / "broken")
    latest = (tmp_path / "broken" / "checkpoints").glob("step-*")
    assert [path.name for path in latest] == ["step-000002"] and not (tmp_path / "broken" / part).exists()
    broken = pretrain(config, tmp_path / "broken")
    files = [run.folder / part / "diffusion_pytorch_model.safetensors" for run in (whole, broken)]
    first, second = (load_file(path) for path in files)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert all(value.dtype == torch.float16 and value.isfinite().all() for value in first.values())
    assert read_metrics(broken.folder)[-1]["step"] == 5


@pytest.mark.parametrize("kind", ["vq", "fsq", "per frame"])
@pytest.mark.usefixtures("small_networks")
def test_a_transformer_is_trained_on_any_codec_and_sampled_through_it(kind: str, parts: Path, tmp_path: Path) -> None:
    folder = str(parts / "codec")
    if kind != "per frame":
        folder = str(pretrain(_config("codec", parts, steps=1, bottleneck=kind), tmp_path / kind).folder / "codec")
    config = _config("transformer", parts, steps=2)
    run = pretrain(replace(config, codec=folder, per_frame=kind == "per frame"), tmp_path / "run")
    model = base_model.load(str(run.folder))
    assert isinstance(model.vae, FrameCodec if kind == "per frame" else QuantizedVideoCodec)
    frames = generate_frames(model, ["a red disc"], seeds=[0], num_steps=2, size=VideoSize(5, 32, 32))
    assert frames.shape == (1, 5, 3, 32, 32) and model.vae.latent_shape(5, 32, 32)[1] == (
        5 if kind == "per frame" else 2
    )
    longer = tasks.extend(Request(model, ["a red disc"], [0], Sampling(num_steps=1)), frames, 3)
    assert longer.shape[1] == 8 and torch.equal(longer[:, :5], frames)
    facts = json.loads((run.latest() / "provenance.json").read_text())  # type: ignore[operator]
    assert facts["data"] == "sandbox world" and facts["seed"] == 0


@pytest.mark.parametrize("name", ["window", "scan", "unet"])
@pytest.mark.usefixtures("small_networks")
def test_a_variant_is_trained_saved_and_sampled_from_in_the_same_loop(
    name: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"widths": (16, 32)} if name == "unet" else {"width": 32, "num_layers": 2, "num_heads": 2}
    make = VARIANTS[name]
    monkeypatch.setitem(VARIANTS, name, lambda **sizes: make(**sizes | small))
    run = pretrain(_config("transformer", parts, steps=2, variant=name), tmp_path / "run")
    frames = generate_frames(
        base_model.load(str(run.folder)), ["a red disc"], seeds=[0], num_steps=2, size=VideoSize(5, 32, 32)
    )
    assert frames.shape == (1, 5, 3, 32, 32) and frames.isfinite().all()
    pretrain(_config("transformer", parts, steps=1, start=str(run.folder / "transformer")), tmp_path / "on")


def test_the_unets_gradient_of_two_latent_frames_is_right_in_its_training_precision() -> None:
    torch.manual_seed(0)
    network = VARIANTS["unet"](in_channels=4, text_width=16, pooled_width=8, widths=(16, 32)).train()
    latents, text, pooled = torch.randn(2, 4, 2, 8, 8), torch.randn(2, 7, 16), torch.randn(2, 8)

    def gradients(dtype: torch.dtype) -> list[torch.Tensor]:
        unet = copy.deepcopy(network).to(dtype)
        sigma, mask = torch.tensor([0.3, 0.8]), torch.ones(2, 7, dtype=torch.bool)
        unet(latents.to(dtype), sigma, text.to(dtype), mask, pooled.to(dtype)).square().mean().backward()
        return [value.grad.double() for value in unet.parameters()]  # type: ignore[union-attr]

    found = gradients(transformer_part.training_dtype(network, torch.device("cpu")))
    for value, true in zip(found, gradients(torch.float64), strict=True):  # equal also because dropout is off
        torch.testing.assert_close(value, true, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("poisoned", "log_every", "save_every"), [("loss", 4, 3), ("weights", 50, 2)])
@pytest.mark.usefixtures("small_networks")
def test_a_training_that_diverged_stops_and_its_last_checkpoint_is_sound(
    poisoned: str, log_every: int, save_every: int, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", log_every)
    loss = transformer_part.TransformerPart.loss

    def diverging(self: transformer_part.TransformerPart, step: int, draw: int) -> torch.Tensor:
        value = loss(self, step, draw)
        if step < 3:
            return value
        # A finite loss may have a gradient that is none: 0 x the slope of a root at 0.
        return value * torch.nan if poisoned == "loss" else value + 0.0 * (0.0 * value).sqrt()

    monkeypatch.setattr(transformer_part.TransformerPart, "loss", diverging)
    config = _config("transformer", parts, save_every=save_every)
    with pytest.raises(UserError, match=r"no numbers any more at step 4 of 5, learning_rate is 0.002; .* lower"):
        pretrain(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{save_every:06d}"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"sizes": ["18x64x64"]}, "size '18x64x64' is off the grid: .* multiples of 16; next: 21x64x64"),
        ({"sizes": ["17x64x64", "17x64x72"]}, "next: 17x64x80"),
        ({"clip": "codec"}, "holds a CausalVideoVAE, which is no CLIP"),
        ({"start": "clip"}, "holds a SandboxClip; a denoiser is one of"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_folder(
    change: dict[str, Any], line: str, parts: Path, tmp_path: Path
) -> None:
    change = {name: value if name == "sizes" else str(parts / value) for name, value in change.items()}
    with pytest.raises(UserError, match=line):
        pretrain(replace(_config("transformer", parts, steps=1), **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_begin_leaves_what_lay_hidden_in_its_folder(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "run/.git").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a CausalVideoVAE, which is no CLIP"):
        pretrain(replace(_config("transformer", parts, steps=1), clip=str(parts / "codec")), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".git"]


def test_an_unknown_variant_and_what_is_no_transformer_are_named(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="variant 'windou' is unknown; did you mean 'window'"):
        check(_config("transformer", parts, variant="windou"))
    for text in ("", "[]", "{}"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="no transformer at"):
            load_transformer(tmp_path)
    with pytest.raises(UserError, match="holds a SandboxClip; a denoiser is one of VideoTransformer"):
        load_transformer(parts / "clip")


def test_what_is_no_codec_is_named(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds a SandboxClip, which is no codec"):
        load_codec(parts / "clip")
    with pytest.raises(UserError, match="no codec at"):
        load_codec(tmp_path)


@pytest.mark.parametrize(
    "change", [{"bottleneck": "vq"}, {"bottleneck": "fsq", "adversarial": 0.1, "pixel_loss": "l1"}]
)
@pytest.mark.usefixtures("small_networks")
def test_a_quantised_codec_resumes_with_its_codebook_and_its_judge(
    change: dict[str, object], parts: Path, tmp_path: Path
) -> None:
    config = _config("codec", parts, perceptual=str(parts / "clip"), **change)
    whole = pretrain(config, tmp_path / "whole")
    broken = pretrain(config, tmp_path / "broken")
    shutil.rmtree(broken.folder / "codec")
    shutil.rmtree(broken.checkpoints()[-1])  # step 5; step 4 is left
    broken = pretrain(config, tmp_path / "broken")
    files = [run.folder / "codec" / "diffusion_pytorch_model.safetensors" for run in (whole, broken)]
    first, second = (load_file(path) for path in files)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert any("bottleneck" in name for name in first) == (change["bottleneck"] == "vq")


@pytest.mark.usefixtures("small_networks")
def test_another_recipe_does_not_continue_the_run(parts: Path, tmp_path: Path) -> None:
    config = _config("transformer", parts, steps=1)
    pretrain(config, tmp_path / "run")
    with pytest.raises(UserError, match="learning_rate"):
        pretrain(replace(config, learning_rate=1e-4), tmp_path / "run")


@pytest.mark.usefixtures("small_networks")
def test_a_saved_codec_carries_the_statistics_that_normalise_its_latents(parts: Path, tmp_path: Path) -> None:
    config = _config("codec", parts, num_clips=6)
    run = pretrain(config, tmp_path / "run")
    codec = CausalVideoVAE.from_pretrained(run.folder / "codec", low_cpu_mem_usage=False).float().eval()
    clips = torch.stack([torch.from_numpy(pixels) for pixels, _ in pool(config, 6)]).float() / 255
    with torch.no_grad():
        latents = codec.encode(clips)
    for part in (latents[:, :, :1], latents[:, :, 1:]):
        assert part.mean(dim=(0, 2, 3, 4)).abs().max() < 0.02  # to what fp16 weights lose
        assert (part.std(dim=(0, 2, 3, 4)) - 1).abs().max() < 0.02


@pytest.mark.usefixtures("small_networks")
def test_the_moving_average_lags_behind(parts: Path, tmp_path: Path) -> None:
    """With decay 0 the saved weights are the last ones; with 1 - 1e-9 the warm-up of the average still decides."""
    last = pretrain(_config("transformer", parts, ema_decay=0.0), tmp_path / "last")
    slow = pretrain(_config("transformer", parts, ema_decay=1.0), tmp_path / "slow")
    name = "transformer/diffusion_pytorch_model.safetensors"
    state = torch.load(last.latest() / "state.pt", weights_only=True)  # type: ignore[operator]
    for key, value in load_file(last.folder / name).items():
        assert torch.equal(value, state["master"][key].half())
    assert any(not torch.equal(v, load_file(slow.folder / name)[k]) for k, v in load_file(last.folder / name).items())


def test_clips_with_cells_given_lose_their_caption_more_often_and_pictures_have_none_to_give() -> None:
    config = PretrainConfig(given=0.3, caption_dropout=0.1, caption_dropout_given=0.6)
    lengths = torch.tensor([1, 5]).repeat(4000)
    told, silent = transformer_part.shown(config, lengths.tolist(), torch.Generator().manual_seed(0))
    assert not told[lengths == 1].any() and told[lengths == 5].float().mean() == pytest.approx(0.3, abs=0.03)
    assert silent[told].float().mean() == pytest.approx(0.6, abs=0.06)
    assert silent[~told].float().mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(("sigma", "weight"), [(0.2, 0.2), (0.3, 0.45), (0.5, 0.25), (0.9, 0.01)])
@pytest.mark.usefixtures("small_networks")
def test_with_min_snr_a_clip_counts_by_its_noise_level(
    sigma: float, weight: float, parts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(transformer_part.flow, "logit_normal", lambda count, *_, **__: torch.full((count,), sigma))
    config = _config("transformer", parts, latents=str(tmp_path))
    plain, weighed = (
        transformer_part.TransformerPart(replace(config, min_snr=gamma), launch()).loss(0, 0).item()
        for gamma in (0.0, 5.0)
    )
    assert weighed == pytest.approx(weight * plain, rel=1e-5)  # min((1 - sigma)^2, 5 sigma^2)


@pytest.mark.usefixtures("small_networks")
def test_gradient_checkpointing_computes_every_block_again_and_changes_no_bit(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, forward = [0], Block.forward

    def counted(self: Block, *inputs: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        calls[-1] += 1
        return forward(self, *inputs, **options)

    monkeypatch.setattr(Block, "forward", counted)
    saved = []
    for again in (False, True):
        config = _config("transformer", parts, gradient_checkpointing=again, latents=str(tmp_path / "latents"))
        run = pretrain(config, tmp_path / str(again))
        saved.append(load_file(run.folder / "transformer" / "diffusion_pytorch_model.safetensors"))
        calls.append(0)
    assert calls[:2] == [5 * 2, 2 * 5 * 2]  # steps x blocks
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_compiled_blocks_train_as_plain_ones_do_and_a_stopped_run_goes_on(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformer_part, "fast_dtype", lambda: torch.float32)
    monkeypatch.setattr(transformer_part.TransformerPart, "SHORTER", 0.0)  # a graph for each length takes its minute
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    losses, loss = {}, transformer_part.TransformerPart.loss

    def train(name: str, *more: str) -> int:
        words = [f"--{part}={parts / part}" for part in ("codec", "clip")] + [f"--start={parts / 'transformer'}"]
        words += ["--steps=4", "--batch=2", "--warmup=1", "--num-clips=4", "--save-every=2"]
        words += [f"--latents={tmp_path / 'latents'}", f"--out={tmp_path / name}", *more]
        code = main(["pretrain", "--part=transformer", *words])
        losses[name] = [row["pretrain/loss"] for row in read_metrics(tmp_path / name)]
        return code

    def stopped(self: transformer_part.TransformerPart, step: int, draw: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return loss(self, step, draw)

    torch._dynamo.reset()
    counters.clear()
    assert train("plain") == 0 and not counters["stats"]
    assert train("whole", "--compile=true") == 0
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]  # one for all blocks
    assert losses["whole"] == pytest.approx(losses["plain"], rel=1e-4)
    with monkeypatch.context() as patch:
        patch.setattr(transformer_part.TransformerPart, "loss", stopped)
        assert train("broken", "--compile=true") == 130
    assert train("broken", "--compile=true") == 0
    assert losses["broken"] == losses["whole"] and len(losses["whole"]) == 4
    first, second = (
        load_file(tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors")
        for name in ("whole", "broken")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert isinstance(load_transformer(tmp_path / "whole" / "transformer"), VideoTransformer)


# --- many processes ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_networks")
def test_weights_that_fsdp2_cuts_are_trained_saved_whole_and_go_on(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process stands for many: accelerate would not cut on a CPU, so what it does on a GPU is done here."""
    monkeypatch.setattr(transformer_part, "fast_dtype", lambda: torch.float32)
    config = _config("transformer", parts, ema_decay=0.5, latents=str(tmp_path / "latents"))
    plain = pretrain(config, tmp_path / "plain")
    started = not distributed.is_initialized()
    if started:
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))

    def cut(part: Part, config: PretrainConfig, accelerator: Accelerator) -> torch.nn.Module:
        objective = wrapped(part, config, accelerator)
        for block in part.network.blocks:
            fully_shard(block, mesh=mesh)
        return fully_shard(objective, mesh=mesh)

    wrapped = loop._wrapped
    monkeypatch.setattr(loop, "_wrapped", cut)
    try:
        whole, broken = (pretrain(config, tmp_path / name) for name in ("whole", "broken"))
        shutil.rmtree(broken.folder / "transformer")
        shutil.rmtree(broken.checkpoints()[-1])
        broken = pretrain(config, tmp_path / "broken")
    finally:
        if started:
            distributed.destroy_process_group()
    state = torch.load(whole.latest() / "state.pt", weights_only=True)  # type: ignore[operator]
    assert not any(isinstance(value, DTensor) for value in state["master"].values())
    files = [run.folder / "transformer" / "diffusion_pytorch_model.safetensors" for run in (plain, whole, broken)]
    first, second, third = (load_file(path) for path in files)
    assert all(torch.equal(second[name], third[name]) for name in first)
    assert max(float((first[name].float() - second[name].float()).abs().max()) for name in first) < 1e-4
    assert isinstance(load_transformer(whole.folder / "transformer"), VideoTransformer)


@pytest.mark.slow
def test_two_processes_take_every_second_batch_and_average(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.run(processes.ACCELERATE, "pretrain_run.py", parts, tmp_path / "two")
    loss = transformer_part.TransformerPart.loss

    def both(self: transformer_part.TransformerPart, step: int, draw: int) -> torch.Tensor:
        return (loss(self, step, 2 * draw) + loss(self, step, 2 * draw + 1)) / 2

    monkeypatch.setattr(transformer_part.TransformerPart, "loss", both)
    monkeypatch.setattr(transformer_part, "fast_dtype", transformer_part.fast_dtype)  # which `train` sets
    pretrain_run.train(parts, tmp_path / "one")
    name = "transformer/diffusion_pytorch_model.safetensors"
    one, two = (load_file(tmp_path / count / name) for count in ("one", "two"))
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)
    rows = [read_metrics(tmp_path / count)[-1] for count in ("one", "two")]
    assert rows[0]["pretrain/loss"] == pytest.approx(rows[1]["pretrain/loss"], rel=1e-4)
    assert rows[1]["samples"] == 2 * rows[0]["samples"]


def test_a_way_of_sharing_that_the_loop_does_not_speak_is_named() -> None:
    deepspeed = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, is_fsdp2=False)
    with pytest.raises(UserError, match="not under DEEPSPEED; launch with align/launch/ddp.yaml"):
        loop._check_processes(deepspeed)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_codec_starts_as_the_principal_components_of_its_patches() -> None:
    part = codec_part.CodecPart(replace(SMALL, num_clips=24), launch())
    crops = part.crops.some(200, numpy_generator(1, "crops"))
    with torch.no_grad():
        part.network.encoder = Blocks()  # none: what the patch layers say
        mean, log_variance = part.network.encode_moments(crops)
    for latents in (mean[:, :, :1], mean[:, :, 1:]):
        flat = latents.transpose(0, 1).flatten(1)
        covariance = torch.cov(flat)
        assert covariance.diagonal() == pytest.approx(1.0, abs=0.5)  # these are other crops than the start saw
        assert (covariance - covariance.diagonal().diag()).abs().mean() < 0.1
    assert torch.allclose(log_variance, torch.tensor(-3.0))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["codec", "clip", "transformer"])
@pytest.mark.usefixtures("small_networks")
def test_the_loss_falls_on_a_few_clips(part: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 10)
    config = _config(part, parts, steps=120, batch=8, warmup=5, num_clips=8, save_every=120, learning_rate=3e-3)
    run = pretrain(config, tmp_path / "run")
    losses = [row["pretrain/loss"] for row in read_metrics(run.folder)]
    assert len(losses) == 12 and losses[-1] < 0.8 * losses[0], losses


# --- going on from trained parts --------------------------------------------------------------------------------------


def test_a_continuous_codec_gets_codes_between_its_encoder_and_decoder(parts: Path, tmp_path: Path) -> None:
    config = _config("codec", parts, start=str(parts / "codec"))
    before = load_codec(parts / "codec").state_dict()
    for kind in ("vq", "fsq"):
        codec = codec_part.begun(replace(config, bottleneck=kind))
        assert isinstance(codec, QuantizedVideoCodec) and codec.config.quantizer == kind
        assert all(torch.equal(value, before[name]) for name, value in codec.trunk.state_dict().items())
        assert all(value.requires_grad for value in codec.parameters())
    codec.save_pretrained(tmp_path)
    assert codec_part.begun(replace(config, start=str(tmp_path), bottleneck="fsq")).config.quantizer == "fsq"
    with pytest.raises(UserError, match="holds a codec of kind 'fsq', bottleneck is 'vq'"):
        codec_part.begun(replace(config, start=str(tmp_path), bottleneck="vq"))


@pytest.mark.usefixtures("small_networks")
def test_the_decoder_goes_on_alone_and_the_latents_stay(parts: Path, tmp_path: Path) -> None:
    config = _config("codec", parts, start=str(parts / "codec"), latent_noise=0.5, learning_rate=1e-2)
    run = pretrain(config, tmp_path / "run")
    before, after = (
        load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (parts / "codec", run.folder / "codec")
    )
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name].half(), after[name])}
    assert "decoder" in changed and not changed & {"encoder", "first_in", "rest_in", "moments"}


@pytest.mark.usefixtures("small_networks")
def test_the_image_tower_goes_on_alone_and_the_words_stay(parts: Path, tmp_path: Path) -> None:
    config = _config("clip", parts, start=str(parts / "clip"), hard_negatives=2, learning_rate=1e-2)
    run = pretrain(config, tmp_path / "run")
    before, after = (
        load_file(folder / "diffusion_pytorch_model.safetensors") for folder in (parts / "clip", run.folder / "clip")
    )
    changed = {name for name in before if not torch.equal(before[name].half(), after[name])}
    assert changed and all(name.startswith("clip.visual.") for name in changed)


def test_a_near_miss_differs_in_one_thing() -> None:
    rng = numpy_generator(0, "near")
    spec = SceneSpec("uniform", (ObjectSpec("red", "ball", "small"), ObjectSpec("blue", "square", "large")), "left")
    kinds = set()
    for _ in range(60):
        other = clip_part.other_word(spec, rng)
        pairs = list(zip(spec.objects, other.objects, strict=True))
        differing = [
            *(name for a, b in pairs for name in ("colour", "shape", "size") if getattr(a, name) != getattr(b, name)),
            *(["family"] if other.family != spec.family else ["direction"] if other.direction != "left" else []),
        ]
        assert len(differing) == 1, other
        kinds |= set(differing)
    assert kinds == {"colour", "shape", "size", "family", "direction"}


@pytest.mark.usefixtures("small_networks")
def test_encoded_clips_are_kept_and_those_of_another_recipe_refused(parts: Path, tmp_path: Path) -> None:
    config = _config("transformer", parts, latents=str(tmp_path / "latents"), steps=1)
    pretrain(config, tmp_path / "run")
    stored = tmp_path / "latents" / "17x64x64" / "0000.npz"
    written = stored.stat().st_mtime_ns
    pretrain(config, tmp_path / "again")
    assert stored.stat().st_mtime_ns == written
    for other in ({"noise": 0.0}, {"per_frame": True}):
        with pytest.raises(UserError, match="are of another recipe"):
            pretrain(replace(config, **other), tmp_path / "other")  # type: ignore[arg-type]
