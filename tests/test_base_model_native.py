"""The native generator behind the protocol and as a diffusers pipeline: same frames both ways, plain errors."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import base_model
from base_model import flow, lora
from base_model.native import NativeGenerator, nano
from base_model.options import ModelOptions
from base_model.pipeline import SoralignPipeline, load
from base_model.protocol import VideoSize, cat, repeat, take
from base_model.sampler import generate_frames, initial_noise
from base_model.transformer import VideoTransformer
from core.errors import UserError

PROMPTS = ["a red ball bounces", "a blue square stays still"]


@pytest.fixture(scope="module")
def generator() -> NativeGenerator:
    return nano()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano model as a saved pipeline, its schedule shifted by 2."""
    folder = tmp_path_factory.mktemp("model")
    parts = nano()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0)
    SoralignPipeline(parts.vae, parts.transformer, parts.clip, scheduler).save_pretrained(folder)
    return folder


def _velocity(generator: NativeGenerator, prompts: list[str], steps: list[int], **guided: object) -> torch.Tensor:
    noise = initial_noise(generator, range(len(prompts)))
    condition = generator.encode_prompts(prompts)
    return generator.predict(noise, torch.tensor(steps), generator.schedule(4), condition, **guided)  # type: ignore[arg-type]


# --- the protocol -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_velocity_depends_on_prompt_step_and_latents(generator: NativeGenerator) -> None:
    base = _velocity(generator, PROMPTS[:1], [1])
    assert base.dtype == torch.float32 and base.shape[1:] == generator.latent_shape(generator.size)
    assert not torch.allclose(base, _velocity(generator, PROMPTS[1:], [1]))
    assert not torch.allclose(base, _velocity(generator, PROMPTS[:1], [2]))
    other = generator.predict(
        initial_noise(generator, [9]), torch.tensor([1]), generator.schedule(4), generator.encode_prompts(PROMPTS[:1])
    )
    assert not torch.allclose(base, other)


@torch.no_grad()
def test_rows_may_be_at_different_steps(generator: NativeGenerator) -> None:
    mixed = _velocity(generator, PROMPTS, [0, 3])
    assert torch.allclose(mixed[0], _velocity(generator, PROMPTS, [0, 0])[0], atol=1e-5)
    assert torch.allclose(mixed[1], _velocity(generator, PROMPTS, [3, 3])[1], atol=1e-5)


@torch.no_grad()
def test_guidance_extrapolates_from_the_unconditional_velocity(generator: NativeGenerator) -> None:
    empty = generator.unconditional(2)
    with_prompt, without = _velocity(generator, PROMPTS, [1, 1]), _velocity(generator, ["", ""], [1, 1])
    assert torch.equal(_velocity(generator, PROMPTS, [1, 1], unconditional=empty, guidance=1.0), with_prompt)
    guided = _velocity(generator, PROMPTS, [1, 1], unconditional=empty, guidance=3.0)
    assert torch.allclose(guided, without + 3.0 * (with_prompt - without), atol=1e-5)
    silent = _velocity(generator, PROMPTS, [1, 1], unconditional=empty, guidance=0.0)
    assert torch.allclose(silent, without, atol=1e-5)


def test_the_unconditional_rows_are_those_of_the_empty_prompt(generator: NativeGenerator) -> None:
    rows, one = generator.unconditional(3), generator.encode_prompts([""])
    for name, value in rows.items():
        assert value.shape[0] == 3 and all(torch.equal(row, one[name][0]) for row in value)


def test_conditions_can_be_taken_repeated_and_joined(generator: NativeGenerator) -> None:
    condition = generator.encode_prompts(PROMPTS)
    doubled = repeat(condition, 2)
    joined = cat([condition, generator.unconditional(1)])
    for name, value in condition.items():
        assert torch.equal(take(doubled, torch.tensor([0, 2]))[name], value)
        assert torch.equal(joined[name][:2], value) and len(joined[name]) == 3


def test_sizes_off_the_grid_are_user_errors(generator: NativeGenerator) -> None:
    assert generator.latent_shape(VideoSize(17, 64, 48)) == (4, 5, 8, 6)
    with pytest.raises(UserError, match=r"4 frames of 32x32.*4k\+1"):
        generator.latent_shape(VideoSize(4, 32, 32))
    with pytest.raises(UserError, match="24x32 are off the model's grid.*multiples of 16"):
        generator.latent_shape(VideoSize(5, 24, 32))


def test_the_schedule_carries_the_models_shift(generator: NativeGenerator) -> None:
    assert torch.equal(generator.schedule(5).sigma, flow.linear_schedule(5, 3.0).sigma)


def test_decoded_frames_have_gradients_back_to_the_latents(generator: NativeGenerator) -> None:
    latents = initial_noise(generator, [0]).requires_grad_()
    frames = generator.decode(latents)
    assert frames.shape == (1, 5, 3, 32, 32) and frames.dtype == torch.float32
    frames.sum().backward()
    assert latents.grad is not None and latents.grad.any()


def test_base_weights_are_frozen_and_in_evaluation_mode(generator: NativeGenerator) -> None:
    for part in (generator.vae, generator.transformer, generator.clip):
        assert not part.training and not any(value.requires_grad for value in part.parameters())


def test_all_parts_go_where_they_are_asked_to() -> None:
    there = base_model.load("nano", ModelOptions(device="meta"))
    assert isinstance(there, NativeGenerator)
    for part in (there.vae, there.transformer, there.clip):
        assert {value.device.type for value in part.parameters()} == {"meta"}
    clip = there.decode(initial_noise(there, [1]).to("meta"))
    step, condition = torch.zeros(1, dtype=torch.long, device="meta"), there.encode_prompts(PROMPTS[:1])
    velocity = there.predict(there.encode(clip), step, there.schedule(4), condition)
    assert velocity.device.type == "meta"  # nothing made on the way lay elsewhere
    with pytest.raises(UserError, match="device 'cuda:7' is not on this machine"):
        base_model.load("nano", ModelOptions(device="cuda:7"))


@torch.no_grad()
def test_bfloat16_is_the_same_model_roughly() -> None:
    low, high = nano("bfloat16"), nano("float32")
    assert low.transformer.patch_in.weight.dtype == torch.bfloat16
    a, b = _velocity(low, PROMPTS, [1, 2]), _velocity(high, PROMPTS, [1, 2])
    assert a.dtype == torch.float32 and (a - b).norm() < 0.05 * b.norm()
    frames = low.decode(initial_noise(low, [0]))
    assert frames.dtype == torch.float32 and (frames - high.decode(initial_noise(high, [0]))).abs().mean() < 0.02


def test_nano_is_always_the_same_and_leaves_global_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first, second = nano(), nano()
    assert torch.equal(torch.rand(2), expected)
    frames = [generate_frames(model, PROMPTS, seeds=[1, 2], num_steps=2) for model in (first, second)]
    assert torch.equal(*frames)


# --- as a pipeline ----------------------------------------------------------------------------------------------------


def test_a_saved_pipeline_loads_as_the_same_generator(saved: Path, generator: NativeGenerator) -> None:
    loaded = base_model.load(str(saved), ModelOptions(dtype="float32"))
    assert loaded.name == str(saved) and torch.equal(loaded.schedule(4).sigma, flow.linear_schedule(4, 2.0).sigma)
    size = VideoSize(5, 32, 32)
    twin = NativeGenerator(generator.vae, generator.transformer, generator.clip, shift=2.0)
    frames = [generate_frames(g, PROMPTS, seeds=[1, 2], num_steps=3, guidance=2.0, size=size) for g in (loaded, twin)]
    assert torch.equal(*frames)


def test_diffusers_own_door_gives_the_same_frames(saved: Path) -> None:
    pipeline = SoralignPipeline.from_pretrained(saved, low_cpu_mem_usage=False)
    called = pipeline(PROMPTS, num_frames=5, height=32, width=32, num_inference_steps=3, seed=7)
    own = load(saved, "float32")
    sampling = replace(own.usual, num_steps=3)
    generated = generate_frames(own, PROMPTS, seeds=[7, 8], sampling=sampling, size=VideoSize(5, 32, 32))
    assert torch.allclose(called, generated, atol=1e-5)  # not to the bit: memory is aligned otherwise
    one = pipeline(PROMPTS[0], num_frames=5, height=32, width=32, num_inference_steps=3, seed=7)
    assert torch.allclose(one, called[:1], atol=1e-4)


def test_diffusers_loads_our_lora_and_draws_our_sample(saved: Path, tmp_path: Path) -> None:
    aligned = load(saved, "float32")
    for value in lora.attach(aligned.policy_module(), rank=4, alpha=16):
        value.data = 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(value.numel()))
    lora.save(aligned.policy_module(), tmp_path)
    size = VideoSize(5, 32, 32)
    ours = generate_frames(aligned, PROMPTS, seeds=[3, 4], num_steps=3, guidance=2.0, size=size)
    pipeline = SoralignPipeline.from_pretrained(saved, low_cpu_mem_usage=False)
    options = {"num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 2.0, "seed": 3}
    plain = pipeline(PROMPTS, **options)
    pipeline.load_lora_weights(tmp_path)
    theirs = pipeline(PROMPTS, **options)
    assert (theirs - ours).abs().max() < 1e-5 and (theirs - plain).abs().max() > 1e-2


def test_weights_are_safetensors_and_reload_in_half_the_size(saved: Path, tmp_path: Path) -> None:
    assert (
        sorted(path.suffix for path in saved.rglob("*") if path.is_file() and path.suffix != ".json")
        == [".safetensors"] * 3
    )
    load(saved, "float32").transformer.half().save_pretrained(tmp_path)
    small = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert small < 0.6 * sum(path.stat().st_size for path in (saved / "transformer").glob("*.safetensors"))


# --- bad input --------------------------------------------------------------------------------------------------------


def test_an_unknown_model_is_named_with_near_names() -> None:
    with pytest.raises(UserError, match="model 'sandbx' is unknown; did you mean 'sandbox'.*nano"):
        base_model.load("sandbx")


def test_a_folder_that_is_no_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model at .*model_index.json"):
        base_model.load(str(tmp_path))


@pytest.mark.parametrize("dtype", ["float16", "fp32", ""])
def test_an_unknown_dtype_is_refused(saved: Path, dtype: str) -> None:
    for model in (str(saved), "nano"):
        with pytest.raises(UserError, match=f"dtype '{dtype}' is unknown; known: auto, float32, bfloat16"):
            base_model.load(model, ModelOptions(dtype=dtype))


def _copy(saved: Path, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(saved, folder / "model"))


@pytest.mark.parametrize("part", ["transformer", "vae", "clip"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "missing"])
def test_damaged_weights_are_one_line(saved: Path, tmp_path: Path, part: str, damage: str) -> None:
    folder = _copy(saved, tmp_path)
    (path,) = (folder / part).glob("*.safetensors")
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": path.read_bytes()[:1000], "garbage": b"\xff" * 5000, "empty": b""}[damage])
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        base_model.load(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"_class_name": "SoralignPipeline"}', '{"_class_name": "Nonsense"}'])
def test_a_broken_index_is_one_line(saved: Path, tmp_path: Path, text: str) -> None:
    folder = _copy(saved, tmp_path)
    (folder / "model_index.json").write_text(text)
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        base_model.load(str(folder))
    assert "\n" not in str(caught.value)


def test_parts_that_were_not_trained_together_are_refused(saved: Path, tmp_path: Path) -> None:
    folder = _copy(saved, tmp_path)
    VideoTransformer(
        in_channels=8, width=32, num_layers=1, num_heads=2, text_width=16, pooled_width=16
    ).save_pretrained(folder / "transformer")
    with pytest.raises(UserError, match="made for in_channels 8, but its codec and CLIP give 4"):
        base_model.load(str(folder))
