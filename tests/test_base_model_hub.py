"""Every family of hub models, by one table of tiny random pipelines: the same clips as diffusers' own call, exact
replay, adapters that travel, and the whole house on top with nothing but the model's name changed."""

import copy
import inspect
import io
import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tiny_pipelines import CASES, IMAGE_CASES, PROMPTS, Case, seeded
from torch import Tensor
from toy_generator import Brightness

import base_model
from base_model import flow, lora
from base_model.given import given
from base_model.hub import loading
from base_model.hub.family import Beside
from base_model.hub.generator import HubGenerator
from base_model.options import ModelOptions
from base_model.protocol import VideoSize, take
from base_model.sampler import denoise, generate_frames, initial_noise, sample
from base_model.starts import Starts
from core.errors import UserError
from core.prompts import Prompt

CORE = ("wan", "ltx", "cogvideox")
FAST_IMAGES = ("wan_i2v", "ltx_i2v", "cogvideox_i2v", "hunyuan_video_i2v")
"""Families of the fast set (Wan alone where a test takes seconds); of the others only equality with diffusers and
replay are in it (HunyuanVideo 1.5 reads two thousand text tokens, which takes too long for that)."""

STEPS = 4
GUIDANCE = 4.0


@dataclass
class Family:
    """A case, saved to disk and loaded again."""

    case: Case
    folder: Path
    generator: HubGenerator

    def fresh(self) -> HubGenerator:
        """A copy that a test may change."""
        return copy.deepcopy(self.generator)

    def own_call(self, pipeline: Any, noise: Tensor, prompts: list[str] = PROMPTS, **arguments: Any) -> Tensor:
        """What the pipeline itself makes of `prompts`."""
        if self.case.one_by_one and len(prompts) > 1:
            rows = zip(prompts, noise.split(1), strict=True)
            return torch.cat([self.own_call(pipeline, row, [prompt], **arguments) for prompt, row in rows])
        size = self.case.size
        common = {self.case.frames: size.num_frames, "height": size.height, "width": size.width}
        return pipeline(
            prompt=prompts[0] if self.case.one_by_one else prompts,
            num_inference_steps=STEPS,
            **self.case.to_pipeline(noise),
            **({self.case.guidance: GUIDANCE} if self.case.guidance else {}),
            **common | self.case.call | arguments,
        )[0]


def options(case: Case) -> ModelOptions:
    size = case.size
    return ModelOptions("float32", "cpu", num_frames=size.num_frames, height=size.height, width=size.width)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made: dict[str, Family] = {}

    def family(name: str) -> Family:
        if name not in made:
            case, folder = CASES[name], tmp_path_factory.mktemp(name)
            seeded(case.build).save_pretrained(folder)
            made[name] = Family(case, folder, base_model.load(str(folder), options(case)))  # type: ignore[arg-type]
        return made[name]

    yield family


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow) if name in ("hunyuan_video_1_5", "cogvideox_5b") else name
        for name in CASES
    ]
)
def every_family(families: Any, request: pytest.FixtureRequest) -> Family:
    return families(request.param)


@pytest.fixture(params=[name if name in CORE else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def family(families: Any, request: pytest.FixtureRequest) -> Family:
    return families(request.param)


@pytest.fixture(params=[name if name == "wan" else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def trainable(families: Any, request: pytest.FixtureRequest) -> Family:
    return families(request.param)


def clips(generator: HubGenerator, noise: Tensor) -> Tensor:
    """Latents of PROMPTS by our deterministic sampler."""
    condition, empty = generator.encode_prompts(PROMPTS), generator.unconditional(len(PROMPTS))
    return sample(
        denoise(generator, condition, noise=noise, num_steps=STEPS, guidance=GUIDANCE, unconditional=empty)
    ).latents


def randomise(generator: HubGenerator) -> None:
    """Adapters as after some training: a LoRA starts as a no-op."""
    rng = torch.Generator().manual_seed(5)
    for value in lora.parameters(generator.policy_module()):
        value.data = 0.3 * torch.randn(value.shape, generator=rng)


# --- the same clips as diffusers -------------------------------------------------------------------------------------


def test_without_noise_a_rollout_is_the_pipelines_own_call(every_family: Family) -> None:
    noise = initial_noise(every_family.generator, [1, 2])
    ours = clips(every_family.generator, noise)
    theirs = every_family.own_call(every_family.generator.model.pipeline, noise, output_type="latent")
    theirs = every_family.case.from_pipeline(theirs, tuple(noise.shape[1:]))
    assert not torch.equal(ours[0], noise[0]) and ours.isfinite().all()
    assert (ours[:, :, : theirs.shape[2]] - theirs).abs().max() <= every_family.case.tolerance


def test_the_second_expert_may_have_a_guidance_of_its_own(families: Any) -> None:
    family = families("wan_a14b")
    generator, noise = replace(family.generator, guidance_2=2.0), initial_noise(family.generator, [1, 2])
    theirs = family.own_call(generator.model.pipeline, noise, output_type="latent", guidance_scale_2=2.0)
    assert torch.equal(clips(generator, noise), theirs)
    assert not torch.equal(clips(family.generator, noise), theirs)
    step, condition, empty = torch.tensor([0, 3]), generator.encode_prompts(PROMPTS), generator.unconditional(2)
    mixed = generator.predict(noise, step, generator.schedule(STEPS), condition, empty, GUIDANCE)
    for row, guidance in enumerate((GUIDANCE, 2.0)):  # one row above the boundary, one below
        alone = family.generator.predict(noise, step, generator.schedule(STEPS), condition, empty, guidance)
        assert torch.equal(mixed[row], alone[row])
    with pytest.raises(UserError, match="guidance_2 is for models with a second expert"):
        load(families("wan").folder, guidance_2=2.0)


def test_frames_are_the_pipelines_own(family: Family) -> None:
    noise = initial_noise(family.generator, [1, 2])
    size = family.case.size
    frames = family.generator.decode(clips(family.generator, noise))
    assert frames.shape == (2, size.num_frames, 3, size.height, size.width) and frames.dtype == torch.float32
    theirs = family.own_call(family.generator.model.pipeline, noise, output_type="pt")
    assert (frames - torch.as_tensor(theirs)).abs().max() < 1e-4


def test_encode_undoes_the_scaling_of_decode(family: Family) -> None:
    generator = family.generator
    frames = torch.rand(2, *(family.case.size.num_frames, 3, family.case.size.height, family.case.size.width))
    latents = generator.encode(frames)
    assert latents.shape == (2, *generator.latent_shape(generator.size))
    seen = {}
    vae = generator.model.pipeline.vae
    original = vae.decode
    try:
        vae.decode = lambda latents, *rest, **named: seen.update(latents=latents) or original(latents, *rest, **named)
        generator.decode(latents)
    finally:
        del vae.decode
    pixels = frames.transpose(1, 2) * 2 - 1
    flat = pixels if vae.__class__.__name__ != "AutoencoderKL" else pixels.transpose(1, 2).flatten(0, 1)
    assert (seen["latents"] - vae.encode(flat).latent_dist.mode()).abs().max() < 1e-5


def test_the_usual_steps_and_guidance_are_the_pipelines_own(every_family: Family) -> None:
    generator = every_family.generator
    told = {"wan": (50, 5.0), "ltx": (50, 3.0), "hunyuan_video": (50, 6.0), "mochi": (64, 4.5), "latte": (50, 7.5)}
    name = type(generator.model).__module__.rpartition(".")[2]
    usual = (generator.usual.num_steps, generator.usual.guidance)
    assert usual == told.get(name, usual) and usual[0] >= 30 and usual[1] >= 1.0 and generator.usual.batch == 1


def test_decoding_passes_gradients_to_the_latents(family: Family) -> None:
    latents = initial_noise(family.generator, [3]).requires_grad_()
    family.generator.decode(latents).mean().backward()
    assert latents.grad is not None and latents.grad.abs().max() > 0


def test_a_prompts_row_does_not_depend_on_its_neighbours(family: Family) -> None:
    generator = family.fresh()
    generator._rows.clear()
    both = generator.encode_prompts(PROMPTS)
    generator._rows.clear()
    alone = generator.encode_prompts(PROMPTS[1:])
    assert all(torch.equal(both[name][1:], alone[name]) for name in both)
    assert any(not torch.equal(value[0], value[1]) for value in both.values())


# --- noise and replay ------------------------------------------------------------------------------------------------


def test_replayed_log_probabilities_are_those_of_sampling(every_family: Family) -> None:
    generator = every_family.generator
    kind: flow.Kind = "flow" if generator.family == "flow" else "ddim"
    condition, empty = generator.encode_prompts(PROMPTS), generator.unconditional(2)
    path = sample(
        denoise(
            generator,
            condition,
            noise=initial_noise(generator, [1, 2]),
            num_steps=STEPS,
            guidance=GUIDANCE,
            unconditional=empty,
            kind=kind,
            eta=0.7,
            rng=[torch.Generator().manual_seed(seed) for seed in (8, 9)],
        )
    )
    schedule = generator.schedule(STEPS)
    assert path.log_prob.shape == (2, STEPS - 1) and path.log_prob.isfinite().all()
    for index in (2, 0, 1):  # out of order: nothing may be kept between calls
        step = torch.full((2,), int(path.steps[index]))
        with torch.no_grad():
            velocity = generator.predict(path.before[:, index], step, schedule, condition, empty, GUIDANCE)
        mean, std = flow.transition(
            kind, path.before[:, index], velocity, *schedule.at(step), 0.7, sigma_max=schedule.sigma_max
        )
        assert torch.equal(flow.log_prob(path.after[:, index], mean, std), path.log_prob[:, index])


def test_rows_may_be_at_different_steps(family: Family) -> None:
    generator = family.generator
    schedule, latents = generator.schedule(STEPS), initial_noise(generator, [1, 2])
    condition = generator.encode_prompts(PROMPTS)
    with torch.no_grad():
        mixed = generator.predict(latents, torch.tensor([0, 3]), schedule, condition)
        for row, step in enumerate((0, 3)):
            alone = generator.predict(
                latents[row : row + 1], torch.tensor([step]), schedule, take(condition, slice(row, row + 1))
            )
            assert (mixed[row] - alone[0]).abs().max() < 1e-5 * max(1.0, float(alone.abs().max()))


def test_given_cells_come_out_as_they_were_given(family: Family) -> None:
    generator = family.generator
    noise = initial_noise(generator, [1, 2])
    clean = initial_noise(generator, [3, 4])
    cells = torch.zeros(noise.shape[2:], dtype=torch.bool)
    cells[0] = True
    condition = given(generator, generator.encode_prompts(PROMPTS), cells, clean, PROMPTS)
    result = sample(
        denoise(
            generator,
            condition,
            noise=noise,
            num_steps=STEPS,
            guidance=GUIDANCE,
            unconditional=generator.unconditional(2),
        )
    ).latents
    last = float(generator.schedule(STEPS).sigma[-1])
    assert (result[:, :, 0] - clean[:, :, 0]).abs().max() < 1e-4 + 5 * last
    other = sample(denoise(generator, generator.encode_prompts(PROMPTS), noise=noise, num_steps=STEPS)).latents
    assert not torch.allclose(result[:, :, 1:], other[:, :, 1:])


@pytest.mark.parametrize(
    "name", [name if name in FAST_IMAGES else pytest.param(name, marks=pytest.mark.slow) for name in IMAGE_CASES]
)
def test_image_to_video_sees_the_picture_as_the_pipeline_does(tmp_path: Path, name: str) -> None:
    """With channels beside the latents one step: the pipeline's own call draws the given frame too, where ours leads
    exactly to it."""
    case = IMAGE_CASES[name]
    seeded(case.build).save_pretrained(tmp_path)
    generator = load(tmp_path, case)
    size, noise = case.size, initial_noise(generator, [1])
    picture = torch.rand(1, 3, size.height, size.width, generator=torch.Generator().manual_seed(0))
    picture = (picture * 255).round() / 255
    latents = generator.encode(picture[:, None])
    pixels = Beside(picture[:, :, None].repeat(1, 1, size.num_frames, 1, 1))
    clean = torch.zeros_like(noise)
    first = generator.model.grid.padding + 1
    clean[:, :, :first] = latents[:, :, :first]
    cells = torch.zeros(noise.shape[2:], dtype=torch.bool)
    cells[:first] = True
    beside = generator.model.given == "shown"
    num_steps = 1 if beside else STEPS
    if beside:
        with pytest.raises(UserError, match="makes clips from a first picture only"):
            generator.predict(noise, torch.tensor([0]), generator.schedule(1), generator.encode_prompts(PROMPTS[:1]))
    condition, empty = generator.encode_prompts(PROMPTS[:1]), generator.unconditional(1)
    begun = given(generator, condition, cells, clean, PROMPTS[:1], pixels)
    told: list[dict[str, Any]] = []
    network = generator.model.networks["transformer"]
    listener = network.register_forward_pre_hook(lambda _, inputs, named: told.append(named), with_kwargs=True)
    ours = sample(
        denoise(generator, begun, noise=noise, num_steps=num_steps, guidance=GUIDANCE, unconditional=empty)
    ).latents
    pipeline = generator.model.pipeline
    asked = {
        "image": picture if name.startswith("cogvideox") else to_pil(picture[0]),
        "prompt": PROMPTS[0],
        "num_frames": size.num_frames,
        "height": size.height,
        "width": size.width,
        "num_inference_steps": num_steps,
        "guidance_scale": GUIDANCE,
        "output_type": "latent",
        **case.to_pipeline(noise if beside else torch.where(cells, clean, noise)),
        **case.call,
    }
    takes = inspect.signature(pipeline.__call__).parameters  # HunyuanVideo 1.5 reads sides and guidance off its parts
    count = len(told)
    theirs = pipeline(**{key: value for key, value in asked.items() if key in takes})[0]
    listener.remove()
    words = [key for key in told[0] if key.startswith("encoder_hidden_states") or key == "image_embeds"]
    for key in words:
        if (one := told[0][key]) is not None:  # the first forward has the prompt; their last row too
            assert (one - told[count][key][-1:]).abs().max() < 1e-5, key
    theirs = case.from_pipeline(theirs, tuple(noise.shape[1:]))
    assert (ours - clean)[:, :, :first].abs().max() < 1e-5
    # CogVideoX's call and TI2V-5B's draw the picture's latents from the codec's spread.
    allowed = case.tolerance or 0.1 * float(theirs.abs().max())
    assert (ours[:, :, : theirs.shape[2]] - theirs)[:, :, first:].abs().max() < allowed
    brighter = given(generator, condition, cells, clean + 3.0 * cells, PROMPTS[:1], pixels)
    unseen, plain = (
        sample(denoise(generator, one, noise=noise, num_steps=num_steps)).latents for one in (brighter, begun)
    )
    assert not torch.equal(unseen[:, :, 1:], plain[:, :, 1:])


def test_the_encoder_that_reads_prompt_and_picture_together_stays(tmp_path: Path) -> None:
    case = IMAGE_CASES["hunyuan_video_i2v"]
    seeded(case.build).save_pretrained(tmp_path)
    generator: Any = base_model.load(str(tmp_path), options(case), PROMPTS)
    assert generator.model.pipeline.text_encoder_2 is None
    cells, clean = torch.zeros(3, 2, 2, dtype=torch.bool), initial_noise(generator, [1, 2])
    cells[0] = True
    condition = generator.encode_prompts(PROMPTS)
    pictures = [Beside(torch.full((1, 3, 9, 16, 16), level)) for level in (0.3, 1.0)]
    rows = [given(generator, condition, cells, clean, PROMPTS, one)["text"] for one in pictures]
    assert not any(torch.equal(a, b) for a, b in zip([condition["text"], rows[0]], [rows[0], rows[1]], strict=True))
    cells[0, 0] = False
    with pytest.raises(UserError, match="takes a whole first picture and no part of one"):
        given(generator, condition, cells, clean, PROMPTS, pictures[0])


def to_pil(picture: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy())


# --- adapters --------------------------------------------------------------------------------------------------------


def test_a_saved_lora_gives_our_clips_in_plain_diffusers(family: Family, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    generator, noise = family.fresh(), initial_noise(family.generator, [1, 2])
    before = clips(generator, noise)
    lora.attach(generator.policy_module(), rank=2, alpha=6, targets=["to_q", "to_v"])
    assert torch.equal(clips(generator, noise), before)
    randomise(generator)
    aligned = clips(generator, noise)
    assert (aligned - before).abs().max() > 1e-3
    with lora.reference(generator.policy_module()):
        assert torch.equal(clips(generator, noise), before)

    lora.save(generator.policy_module(), tmp_path)
    again = family.fresh()
    lora.load(again.policy_module(), tmp_path)
    assert torch.equal(clips(again, noise), aligned)

    pipeline = DiffusionPipeline.from_pretrained(family.folder)
    pipeline.set_progress_bar_config(disable=True)
    load_lora(pipeline, tmp_path)
    theirs = family.own_call(pipeline, noise, output_type="latent")
    theirs = family.case.from_pipeline(theirs, tuple(noise.shape[1:]))
    assert pipeline.transformer.peft_config["default_0"].lora_alpha == 6
    assert (theirs - aligned[:, :, : theirs.shape[2]]).abs().max() < 1e-5


def load_lora(pipeline: Any, folder: Path) -> None:
    """By diffusers' own loader for the pipeline, into both experts where it has two."""
    if hasattr(pipeline, "load_lora_weights"):
        pipeline.load_lora_weights(folder)
    elif hasattr(pipeline.transformer, "load_lora_adapter"):
        pipeline.transformer.load_lora_adapter(
            folder, adapter_name="default_0", weight_name=lora.FILE_NAME, use_safetensors=True
        )
    else:
        pytest.skip(f"diffusers has no LoRA loader for {type(pipeline).__name__}; ours reads the same file")
    if getattr(pipeline, "transformer_2", None) is not None:
        second = lora.EXPERT_FILE_NAMES["transformer_2"]
        pipeline.load_lora_weights(folder, weight_name=second, load_into_transformer_2=True)


def test_merged_adapters_are_the_same_model(trainable: Family) -> None:
    generator, noise = trainable.fresh(), initial_noise(trainable.generator, [1, 2])
    lora.attach(generator.policy_module(), rank=2, alpha=6, targets=["to_q", "to_v"])
    randomise(generator)
    aligned = clips(generator, noise)
    lora.merge(generator.policy_module())
    assert not any(".lora_" in name for name, _ in generator.policy_module().named_parameters())
    assert (clips(generator, noise) - aligned).abs().max() < 1e-4


# --- quantised bases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize(
    "name", ["wan", *(pytest.param(name, marks=pytest.mark.slow) for name in ("wan_a14b", "ltx", "hunyuan_video"))]
)
def test_a_lora_trains_on_a_quantised_base_and_loads_onto_it_in_plain_diffusers(
    families: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    from diffusers import DiffusionPipeline

    if kind == "nf4":
        quantise_to_nf4_on_a_cpu(monkeypatch)
    full, noise = families(name), initial_noise(families(name).generator, [1, 2])
    generator = load(full.folder, full.case, quantize=kind)
    assert stored_bytes(generator) < 0.8 * stored_bytes(full.generator)
    before, unquantised = clips(generator, noise), clips(full.generator, noise)
    assert 0 < (before - unquantised).abs().max() < (0.02 if kind == "int8" else 0.2) * unquantised.abs().max()

    train(generator, algorithms("flow")[2], tmp_path / "run")
    aligned = clips(generator, noise)
    assert not torch.equal(aligned, before)
    with lora.reference(generator.policy_module()):
        assert torch.equal(clips(generator, noise), before)
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text())["align/first_pass_ratio_error"] == 0.0

    config = loading._quantization(kind, full.folder, torch.float32)
    pipeline = DiffusionPipeline.from_pretrained(full.folder, dtype=torch.float32, quantization_config=config)
    pipeline.set_progress_bar_config(disable=True)
    load_lora(pipeline, tmp_path / "run/checkpoints/step-000001/lora")
    theirs = full.own_call(pipeline, noise, output_type="latent")
    assert (full.case.from_pipeline(theirs, tuple(noise.shape[1:])) - aligned).abs().max() < 1e-5


def quantise_to_nf4_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers refuses, and for inference bitsandbytes would repack weights in place; its arithmetic is there."""
    quantizer = "diffusers.quantizers.bitsandbytes.bnb_quantizer.BnB4BitDiffusersQuantizer"
    monkeypatch.setattr(loading, "_check_quantize", lambda options, device: None)
    monkeypatch.setattr(f"{quantizer}.validate_environment", lambda self, *rest, **named: None)
    monkeypatch.setattr(f"{quantizer}.update_device_map", lambda self, device_map: device_map)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


def stored_bytes(generator: HubGenerator) -> int:
    """Of the denoiser's weights: a quantised tensor's own count of its bytes is that of what it stands for."""
    torch.save(generator.policy_module().state_dict(), file := io.BytesIO())
    return file.tell()


@pytest.mark.slow
def test_a_quantised_pipeline_that_was_saved_is_quantised_when_loaded(families: Any, tmp_path: Path) -> None:
    generator = load(families("wan").folder, quantize="int8")
    generator.model.pipeline.save_pretrained(tmp_path)
    noise = initial_noise(generator, [1, 2])
    assert torch.equal(clips(load(tmp_path), noise), clips(generator, noise))


def test_without_its_library_a_quantised_base_is_one_line_with_the_extras_name(
    families: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    for kind, library in (("int8", "torchao"), ("nf4", "bitsandbytes")):
        with pytest.raises(UserError, match=f"'{kind}' needs the package {library}: pip install 'soralign.quantize.'"):
            load(families("wan").folder, quantize=kind)


def test_quantised_weights_are_neither_trained_nor_replaced(
    families: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from core.cli import main

    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    words = f"--model {families('wan').folder} --prompts {tmp_path}/prompts.txt --out {tmp_path}/out --quantize int8"
    assert main(f"align ddpo {words} --reward brightness --adapter full".split()) == 2
    assert "adapter 'full' needs weights of full precision; use 'lora'" in capsys.readouterr().err
    assert main(f"generate {words} --weights {tmp_path}".split()) == 2
    assert "quantize 'int8' cannot carry other weights" in capsys.readouterr().err


# --- the house on top ------------------------------------------------------------------------------------------------


def train(
    generator: HubGenerator, algorithm: Any, out: Path, steps: int = 1, prompts: list[Any] = PROMPTS, **changed: Any
) -> None:
    from align.train import TrainConfig
    from align.train import train as loop

    config = TrainConfig(
        steps=steps,
        prompts_per_step=1,
        batch=2,
        denoising_steps=STEPS,
        guidance=2.0,
        learning_rate=1e-2,
        warmup=0,
        lora_rank=2,
        lora_alpha=4,
        lora_targets=["to_q", "to_v"],
        save_every=1,
        sample_every=0,
        **changed,
    )
    loop(generator, Brightness(), algorithm, prompts, config, out)


def algorithms(kind: str) -> list[Any]:
    from align.advantage_matching import AdvantageMatching
    from align.ddpo import DDPO
    from align.dpo import DPO
    from align.grpo import GRPO
    from align.nft import NFT
    from align.ppo import PPO
    from align.reward_gradient import RewardGradient

    if kind == "vp":
        return [DDPO(group_size=2, noise="ddim", eta=1.0), PPO(group_size=2, noise="ddim", eta=1.0), RewardGradient()]
    forward = [NFT(group_size=2, levels=1), DPO(group_size=2, levels=1), AdvantageMatching(group_size=2, levels=1)]
    return [DDPO(group_size=2), GRPO(group_size=2, window=1), PPO(group_size=2), RewardGradient(), *forward]


def test_one_step_of_every_algorithm_moves_the_policy_and_not_the_reference(trainable: Family, tmp_path: Path) -> None:
    noise = initial_noise(trainable.generator, [1, 2])
    before = clips(trainable.generator, noise)
    for algorithm in algorithms(trainable.generator.family):
        generator = trainable.fresh()
        train(generator, algorithm, tmp_path / type(algorithm).__name__)
        assert not torch.equal(clips(generator, noise), before), type(algorithm).__name__
        with lora.reference(generator.policy_module()):
            assert torch.equal(clips(generator, noise), before)


@pytest.mark.parametrize(
    "name", [name if name == "wan_i2v" else pytest.param(name, marks=pytest.mark.slow) for name in IMAGE_CASES]
)
def test_a_step_on_prompts_with_pictures_moves_what_is_drawn_and_not_what_is_given(tmp_path: Path, name: str) -> None:
    case = IMAGE_CASES[name]
    seeded(case.build).save_pretrained(tmp_path / "model")
    generator, size = load(tmp_path / "model", case), case.size
    prompts = []
    for text in PROMPTS:
        to_pil(torch.rand(3, size.height, size.width)).save(tmp_path / f"{text}.png")
        prompts.append(Prompt(text, start=str(tmp_path / f"{text}.png")))
    starts = Starts.of(generator, prompts)
    assert starts is not None
    noise, row = initial_noise(generator, [1]), starts.row(PROMPTS[0])

    def drawn() -> Tensor:
        condition = generator.encode_prompts(PROMPTS[:1]) | row
        empty = generator.unconditional(1)
        return sample(
            denoise(generator, condition, noise=noise, num_steps=2, guidance=2.0, unconditional=empty)
        ).latents

    before = drawn()
    algorithm = next(one for one in algorithms(generator.family) if type(one).__name__ == "PPO")
    train(generator, algorithm, tmp_path / "run", prompts=prompts)
    cells = row["known"][0]
    assert not torch.equal(drawn()[..., ~cells], before[..., ~cells])
    assert torch.equal(drawn()[..., cells], before[..., cells])
    with lora.reference(generator.policy_module()):
        assert torch.equal(drawn(), before)
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert line["align/first_pass_ratio_error"] == 0.0


def test_algorithms_for_flow_models_name_one_for_the_others(families: Any, tmp_path: Path) -> None:
    generator = families("cogvideox").fresh()
    for algorithm in (one for one in algorithms("flow") if type(one).__name__ in ("GRPO", "NFT", "DPO")):
        with pytest.raises(UserError, match="needs a model of family 'flow', this one is 'vp'; use ddpo"):
            train(replace(generator), algorithm, tmp_path / "run", adapter="full")


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_all_weights_of_a_model_in_half_precision_can_be_trained(
    families: Any, tmp_path: Path, precision: Literal["no", "bf16"]
) -> None:
    """They are made fp32, and what the network is given with them."""
    generator = load(families("wan").folder, dtype="bfloat16")
    before = clips(generator, noise := initial_noise(generator, [1, 2]))
    train(generator, algorithms("flow")[0], tmp_path, adapter="full", precision=precision)
    assert all(value.dtype == torch.float32 for value in generator.policy_module().parameters())
    assert (clips(generator, noise) - before).abs().max() > 0.01 * before.abs().max()
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert line["align/first_pass_ratio_error"] == 0.0


def test_a_resumed_run_is_the_unbroken_one(trainable: Family, tmp_path: Path) -> None:
    noise = initial_noise(trainable.generator, [1, 2])
    algorithm = algorithms(trainable.generator.family)[0]
    unbroken, resumed = trainable.fresh(), trainable.fresh()
    train(unbroken, algorithm, tmp_path / "unbroken", steps=2)
    train(trainable.fresh(), algorithm, tmp_path / "broken", steps=2)
    shutil.rmtree(tmp_path / "broken/checkpoints/step-000002")
    train(resumed, algorithm, tmp_path / "broken", steps=2)
    assert torch.equal(clips(resumed, noise), clips(unbroken, noise))


def test_prompts_are_encoded_once_and_the_text_encoder_goes(trainable: Family) -> None:
    generator = trainable.fresh()
    expected = clips(generator, noise := initial_noise(generator, [1, 2]))
    generator._rows.clear()
    generator.release_text_encoders(PROMPTS)
    assert all(getattr(generator.model.pipeline, name) is None for name in generator.model.text_parts)
    assert torch.equal(clips(generator, noise), expected)
    with pytest.raises(UserError, match="'another one' was not encoded before"):
        generator.encode_prompts(["another one"])


def test_text_encoders_are_gone_before_the_network_takes_their_memory(
    families: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[Any] = []
    put = loading._put

    def noted(family: Any, offload: str, device: torch.device) -> None:
        there.append(family.pipeline.text_encoder)
        put(family, offload, device)

    monkeypatch.setattr(loading, "_put", noted)
    base_model.load(str(families("wan").folder), options(CASES["wan"]), PROMPTS)
    assert there == [None]


def test_frames_come_from_the_same_call_as_for_the_sandbox(family: Family) -> None:
    frames = generate_frames(family.generator, PROMPTS, seeds=[1, 2], num_steps=2, guidance=2.0, batch=1)
    assert frames.min() >= 0 and frames.max() <= 1 and frames.std() > 0


# --- the house, with nothing but the model's name changed -------------------------------------------------------------


@pytest.mark.slow
def test_the_same_commands_run_on_every_family(family: Family, tmp_path: Path) -> None:
    from core.cli import main
    from dashboards import runs

    size = family.case.size
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    model = f"--model {family.folder} --dtype float32 --device cpu --num-frames {size.num_frames}"
    model += f" --height {size.height} --width {size.width} --prompts {tmp_path}/prompts.txt"
    noise = "--noise ddim --eta 1" if family.generator.family == "vp" else ""
    loop = "--steps 1 --prompts-per-step 1 --group-size 2 --batch 2 --denoising-steps 4 --num-samples 1 --lora-rank 2"

    def run(words: str) -> None:
        assert main(words.split()) == 0, words

    run(f"generate {model} --num-steps 2 --guidance 2 --out {tmp_path}/base")
    run(f"align ddpo {model} --reward brightness {loop} {noise} --guidance 2 --out {tmp_path}/run")
    adapters = tmp_path / "run/checkpoints/step-000001/lora"
    run(f"generate {model} --num-steps 2 --guidance 2 --lora {adapters} --out {tmp_path}/aligned")
    picture = tmp_path / "picture.png"
    to_pil(torch.rand(3, size.height, size.width)).save(picture)
    run(f"generate {model} --image {picture} --num-steps 2 --guidance 2 --out {tmp_path}/from-picture")
    for name in ("base", "aligned"):
        run(f"eval {tmp_path}/{name} --metrics flicker,motion --out {tmp_path}/eval-{name}")
    run(f"compare {tmp_path}/eval-base {tmp_path}/eval-aligned")
    run(f"reward score {tmp_path}/aligned --reward brightness")
    (shown,) = runs.find([tmp_path / "run"])  # as the dashboard finds and reads it
    rows, unread = runs.metrics(shown)
    assert "reward/total" in rows[-1] and not unread and runs.config(shown)["model"] == str(family.folder)
    for name in ("base", "aligned"):
        lines = (tmp_path / name / "manifest.jsonl").read_text().splitlines()
        assert len(lines) == 2 and all(str(family.folder) in line for line in lines)


# --- loading ---------------------------------------------------------------------------------------------------------


def load(folder: Path | str, case: Case = CASES["wan"], **changed: Any) -> HubGenerator:
    return base_model.load(str(folder), replace(options(case), **changed))  # type: ignore[return-value]


def test_sharded_weights_and_a_variant_load_as_the_plain_ones(families: Any, tmp_path: Path) -> None:
    wan = families("wan")
    noise = initial_noise(wan.generator, [1, 2])
    expected = clips(wan.generator, noise)
    for name, how in (("sharded", {"max_shard_size": "40KB"}), ("variant", {"variant": "fp16"})):
        wan.generator.model.pipeline.save_pretrained(tmp_path / name, **how)
        names = {file.name for file in (tmp_path / name / "transformer").iterdir()}
        assert "diffusion_pytorch_model.safetensors" not in names
        assert torch.equal(clips(load(tmp_path / name), noise), expected)


def test_a_network_keeps_the_name_it_had_before_diffusers_knew_it(families: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(families("wan").folder, tmp_path / "model"))
    rename(folder / "transformer", "WanTransformer3DModel", "TheAuthorsOwn", "config")
    noise = initial_noise(families("wan").generator, [1, 2])
    assert torch.equal(clips(load(folder), noise), clips(families("wan").generator, noise))


def test_in_half_precision_codecs_stay_exact_where_their_cards_have_them_so(families: Any) -> None:
    wan = load(families("wan").folder, dtype="bfloat16")
    assert next(wan.policy_module().patch_embedding.parameters()).dtype == torch.bfloat16
    latents = initial_noise(wan, [1])
    assert torch.equal(wan.decode(latents), families("wan").generator.decode(latents))
    cogvideox = load(families("cogvideox").folder, CASES["cogvideox"], dtype="bfloat16")
    assert cogvideox.model.pipeline.vae.dtype == torch.bfloat16
    assert cogvideox.decode(initial_noise(cogvideox, [1])).dtype == torch.float32


def test_a_hub_id_in_the_local_cache_needs_no_network(
    families: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--someone--tiny-wan"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("0" * 40)
    shutil.copytree(families("wan").folder, cached / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    generator = load("someone/tiny-wan")
    noise = initial_noise(generator, [1, 2])
    assert generator.name == "someone/tiny-wan"
    assert torch.equal(clips(generator, noise), clips(families("wan").generator, noise))


def test_parts_that_wait_in_cpu_memory_and_layers_that_come_one_by_one_change_nothing(families: Any) -> None:
    wan = families("wan")
    expected = generate_frames(wan.generator, PROMPTS, seeds=[1, 2], num_steps=2, guidance=2.0)
    for offload in ("model", "sequential"):
        generator = load(wan.folder, offload=offload, vae_tiling=offload == "model", attention="native")
        drawn = generate_frames(generator, PROMPTS, seeds=[1, 2], num_steps=2, guidance=2.0)
        assert torch.equal(drawn, expected), offload


@pytest.mark.parametrize("solver", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_multistep_schedulers_whole_timesteps_and_their_first_level_are_kept(
    families: Any, tmp_path: Path, solver: str
) -> None:
    import diffusers

    from base_model.hub import noise as levels

    pipeline = families("wan").fresh().model.pipeline
    pipeline.scheduler = getattr(diffusers, solver)(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    pipeline.save_pretrained(tmp_path)
    generator = load(tmp_path)
    schedule = generator.schedule(6)
    pipeline.scheduler.set_timesteps(6)
    assert 0.999 < schedule.sigma[0] < 1.0 and schedule.sigma[-1] == 0.0
    told = levels.timestep(pipeline.scheduler, "flow", schedule.sigma[:-1])
    assert torch.equal(told, pipeline.scheduler.timesteps.float())
    path = sample(
        denoise(
            generator,
            generator.encode_prompts(PROMPTS),
            noise=initial_noise(generator, [1, 2]),
            num_steps=6,
            kind="flow",
            eta=0.7,
            rng=[torch.Generator().manual_seed(seed) for seed in (8, 9)],
        )
    )
    # Unguarded, the first step's std is eta sqrt(sigma / (1 - sigma) dt), near 30 here.
    assert path.after.abs().max() < 30 and path.log_prob.isfinite().all()


BAD = {
    "a part is missing": (lambda folder: shutil.rmtree(folder / "vae"), {}, "lacks its part 'vae' \\(AutoencoderKLWan"),
    "another family": (
        lambda folder: rename(folder, "WanPipeline", "StableDiffusionPipeline"),
        {},
        "'StableDiffusionPipeline' is unknown.*WanPipeline",
    ),
    "parts of another family": (
        lambda folder: rename(folder, "WanPipeline", "LTXPipeline"),
        {},
        "says it is a LTXPipeline, but its part '(transformer|vae)' is (WanTr|AutoencoderKLW).*json is of another",
    ),
    "a part's folder of another family": (
        lambda folder: rename(folder / "transformer", "WanTransformer3DModel", "LTXVideoTransformer3DModel", "config"),
        {},
        "its part 'transformer' is WanTransformer3DModel, but that folder holds LTXVideoTransformer3DModel",
    ),
    "no weights": (
        lambda folder: weights(folder).unlink(),
        {},
        "lacks weights of its part 'transformer'; copy or down",
    ),
    "a shard": (lambda folder: shard(folder), {}, "lacks weights of its part 'transformer' \\(two.safetensors\\)"),
    "a part alone": (lambda folder: None, {"part": "transformer"}, "holds one part \\(WanTransformer3DModel\\)"),
    "frames": (lambda folder: None, {"num_frames": 10}, "10 frames: Wan makes clips of 4k \\+ 1 frames; 9 and 13"),
    "control": (lambda folder: None, {"control_scale": 0.5}, "control_scale is for models with a branch .*VACE"),
    "grid": (lambda folder: None, {"height": 24}, "24x16 is off the grid of Wan.*multiples of 16; 32x16|16x16"),
    "dtype": (lambda folder: None, {"dtype": "float16"}, "dtype 'float16' is for GPUs"),
    "unknown dtype": (lambda folder: None, {"dtype": "half"}, "dtype 'half' is unknown"),
    "device": (lambda folder: None, {"device": "cuda:7"}, "device 'cuda:7' is not on this machine; there is cpu"),
    "attention": (lambda folder: None, {"attention": "flsh"}, "attention 'flsh' cannot be used"),
    "nf4": (lambda folder: None, {"quantize": "nf4"}, "quantize 'nf4' is for GPUs; a CPU takes 'int8'"),
    "int8 by layer": (lambda folder: None, {"quantize": "int8", "offload": "sequential"}, "stay whole; use 'model'"),
    "damaged": (lambda folder: weights(folder).write_bytes(b"cut"), {}, "cannot be loaded"),
}


def rename(folder: Path, old: str, new: str, file: str = "model_index") -> None:
    path = folder / f"{file}.json"
    path.write_text(path.read_text().replace(old, new))


def weights(folder: Path) -> Path:
    return folder / "transformer/diffusion_pytorch_model.safetensors"


def shard(folder: Path) -> None:
    """As after a download that was cut short."""
    first = weights(folder).rename(folder / "transformer/one.safetensors")
    index = {"weight_map": {"a": first.name, "b": "two.safetensors"}}
    weights(folder).with_suffix(".safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_that_says_what_would_work(families: Any, tmp_path: Path, name: str) -> None:
    spoil, changed, told = BAD[name]
    folder = Path(shutil.copytree(families("wan").folder, tmp_path / "model"))
    spoil(folder)
    part = changed.get("part", "")
    with pytest.raises(UserError, match=told) as caught:
        load(folder / part, **{key: value for key, value in changed.items() if key != "part"})
    assert "\n" not in str(caught.value)


def test_a_schedule_with_a_last_level_needs_two_steps(families: Any) -> None:
    with pytest.raises(UserError, match="1 denoising steps: the schedule of LTX-Video needs 2 or more"):
        families("ltx").generator.schedule(1)


def test_latte_takes_exactly_its_frames(families: Any) -> None:
    with pytest.raises(UserError, match="15 frames: Latte makes clips of exactly 16"):
        load(families("latte").folder, CASES["latte"], num_frames=15)


def test_cogvideox_is_asked_for_the_sizes_that_it_can_make(families: Any, tmp_path: Path) -> None:
    case = IMAGE_CASES["cogvideox_i2v"]
    seeded(case.build).save_pretrained(tmp_path)
    assert load(tmp_path, case, num_frames=None, height=None, width=None).size == case.size
    with pytest.raises(UserError, match="16x32: this CogVideoX makes clips of exactly 16x16 pixels"):
        load(tmp_path, case, width=32)
    with pytest.raises(UserError, match="5 frames: CogVideoX makes clips of exactly 9 frames"):
        load(tmp_path, case, num_frames=5)
    assert families("cogvideox_1_5").generator.model.size == VideoSize(81, 768, 1360)


def test_an_attention_backend_that_would_do_nothing_or_pass_no_gradients_is_refused(
    families: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from core.cli import main

    for name in ("cogvideox", "latte", "mochi"):
        with pytest.raises(UserError, match="attention 'native' does nothing for "):
            load(families(name).folder, CASES[name], attention="native")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    words = f"align ddpo --model {families('wan').folder} --prompts {tmp_path}/prompts.txt --out {tmp_path}/out"
    assert main(f"{words} --reward brightness --attention sage".split()) == 2
    assert "attention 'sage' is for sampling only: it passes no gradients" in capsys.readouterr().err


def test_offline_a_hub_id_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="'Wan-AI/Wan2.1-T2V-1.3B-Diffusers' is a hub id, this machine is offline"):
        base_model.load("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")


def test_where_the_hub_has_no_name_it_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*asked: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("base_model.hub.loading.getproxies", dict)
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    with pytest.raises(UserError, match="this machine is offline and its cache lacks the model"):
        base_model.load("someone/something")


def test_a_misspelt_path_is_not_taken_for_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no model at 'runs/wan': runs has no folder of that name"):
        base_model.load("runs/wan")
    with pytest.raises(UserError, match="no model at '/absent/wan': there is no such folder"):
        base_model.load("/absent/wan")
    with pytest.raises(UserError, match="did you mean 'nano'.*Known: nano, sandbox, a folder, or a hub id"):
        base_model.load("nanno")


def test_a_lora_of_another_model_is_refused(families: Any, tmp_path: Path) -> None:
    generator = families("wan").fresh()
    lora.attach(generator.policy_module(), rank=2, alpha=2, targets=["to_q"])
    lora.save(generator.policy_module(), tmp_path)
    with pytest.raises(UserError, match="another model \\(WanTransformer3DModel\\): this LTXVideo.* no layer"):
        lora.load(families("ltx").fresh().policy_module(), tmp_path)
    with pytest.raises(UserError, match="no LoRA at"):  # the second expert's is not there
        lora.load(families("wan_a14b").fresh().policy_module(), tmp_path)


def test_memory_savers_are_refused_for_the_native_model() -> None:
    with pytest.raises(UserError, match="quantize 'nf4' is for hub models"):
        base_model.load("nano", ModelOptions(quantize="nf4"))


def test_a_network_that_is_told_its_guidance_takes_no_negative_prompt(
    families: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from core.cli import main

    words = f"--model {families('hunyuan_video').folder} --num-frames 9 --height 16 --width 16 --prompt ball"
    assert main(f"generate {words} --negative-prompt blur --out {tmp_path}/set".split()) == 2
    assert "--negative-prompt does nothing for HunyuanVideo" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_call_that_was_refused_may_be_corrected_in_the_same_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from core.cli import main

    case = IMAGE_CASES["wan_i2v"]
    seeded(case.build).save_pretrained(tmp_path / "model")
    to_pil(torch.rand(3, 16, 16)).save(tmp_path / "a.png")
    words = f"generate --model {tmp_path}/model --dtype float32 --num-frames 9 --height 16 --width 16 --num-steps 1"
    words += f" --prompt ball --out {tmp_path}/set"
    assert main(words.split()) == 2
    assert "makes clips from a first picture only" in capsys.readouterr().err
    assert main(f"{words} --image {tmp_path}/a.png".split()) == 0
    assert main(words.split()) == 2
    assert "already holds videos drawn with other options (image)" in capsys.readouterr().err


# --- adapters as files -----------------------------------------------------------------------------------------------


def test_lora_files_are_inspected_merged_and_extracted_again(
    families: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from core.cli import main

    wan = families("wan")
    noise = initial_noise(wan.generator, [1, 2])
    trained = wan.fresh()
    lora.attach(trained.policy_module(), rank=2, alpha=6, targets=["to_q", "to_v"])
    randomise(trained)
    lora.save(trained.policy_module(), tmp_path / "lora")
    aligned = clips(trained, noise)

    assert main(["lora", "inspect", str(tmp_path / "lora")]) == 0
    told = capsys.readouterr().out
    assert "rank 2, alpha 6" in told and "8 layers" in told and "to_q" in told
    assert "trained on a WanTransformer3DModel" in told
    with pytest.raises(UserError, match="is named to_z; endings: .*net.2, .*to_out.0"):
        lora.attach(wan.fresh().policy_module(), rank=2, alpha=2, targets=["to_z"])

    model = ["--model", str(wan.folder), "--dtype", "float32"]
    assert main(["lora", "merge", str(tmp_path / "lora"), *model, "--out", str(tmp_path / "merged")]) == 0
    merged = load(tmp_path / "merged")
    assert (clips(merged, noise) - aligned).abs().max() < 1e-4

    words = ["--model", str(wan.folder), "--rank", "2", "--out", str(tmp_path / "extracted")]
    assert main(["lora", "extract", str(tmp_path / "merged"), *words]) == 0
    assert float(capsys.readouterr().out.rsplit(" ", 1)[1].rstrip(")\n")) < 1e-3  # rank 2 was all there was
    again = wan.fresh()
    lora.load(again.policy_module(), tmp_path / "extracted")
    assert (clips(again, noise) - aligned).abs().max() < 1e-4

    for refused, told in (
        (["merge", str(tmp_path / "lora"), *model, "--out", str(tmp_path / "merged")], "exists already"),
        (["extract", str(wan.folder), "--model", str(wan.folder), "--out", str(tmp_path / "x")], "do not differ"),
        (["inspect", str(tmp_path)], "no LoRA at"),
        (["export", str(tmp_path), "--out", str(tmp_path / "x")], "a run folder has a config.yaml"),
        (["merge", str(tmp_path / "lora"), "--model", "nano", "--out", str(tmp_path / "x")], "is of another model"),
    ):
        assert main(["lora", *refused]) == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_lora_is_extracted_where_one_expert_alone_was_tuned(families: Any) -> None:
    """As after training in steps that belong to one of them."""
    base, tuned = families("wan_a14b").fresh(), families("wan_a14b").fresh()
    weight = tuned.model.pipeline.transformer.blocks[0].attn1.to_q.weight
    weight += torch.outer(torch.arange(24.0), torch.ones(24)) / 100
    noise = initial_noise(base, [1, 2])
    assert lora.extract(base.policy_module(), tuned.policy_module(), 1) < 1e-6
    assert (clips(base, noise) - clips(tuned, noise)).abs().max() < 1e-4
    second = {name: value for name, value in lora.state(base.policy_module()).items() if "_2." in name}
    assert second and not any(value.any() for name, value in second.items() if "lora_B" in name)
    with pytest.raises(UserError, match="the tuned model has 1 experts, the base 2: it is not of this base"):
        lora.extract(families("wan_a14b").fresh().policy_module(), families("wan").generator.policy_module(), 1)


def test_an_exported_lora_has_a_card_with_what_was_measured(families: Any, tmp_path: Path) -> None:
    from core.cli import main

    wan = families("wan")
    train(wan.fresh(), algorithms("flow")[0], tmp_path / "run")
    row = {"a": 0.1, "b": 0.25, "difference": 0.15, "low": 0.1, "high": 0.2, "p": 0.001, "n": 64}
    compared = {"metrics": {"motion": row | {"higher_is_better": True, "unit": "share", "method": "paired"}}}
    (tmp_path / "compare.json").write_text(json.dumps(compared))
    words = ["--out", str(tmp_path / "out"), "--compare", str(tmp_path / "compare.json")]
    assert main(["lora", "export", str(tmp_path / "run"), *words]) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert f"base_model: {wan.folder}" in card and "DDPO" in card and "brightness 1" in card and "2 prompts" in card
    assert "| motion (higher is better) | 0.1 | 0.25 | 0.15 [0.1, 0.2] | 0.001 | 64 |" in card
    assert "pipeline.load_lora_weights(FOLDER)\n```" in card
    lora.load(wan.fresh().policy_module(), tmp_path / "out")


@pytest.mark.parametrize("name", ["wan_a14b", "latte", pytest.param("hunyuan_video_1_5", marks=pytest.mark.slow)])
def test_a_card_says_how_its_pipeline_takes_the_adapters(families: Any, tmp_path: Path, name: str) -> None:
    """What it says is run."""
    from diffusers import DiffusionPipeline

    from base_model.card import loading_lines

    case, generator = families(name), families(name).fresh()
    lora.attach(generator.policy_module(), rank=2, alpha=6, targets=["to_q"])
    randomise(generator)
    noise = initial_noise(generator, [1, 2])
    aligned = clips(generator, noise)
    lora.save(generator.policy_module(), tmp_path / "lora")
    lora.merge(generator.policy_module())
    generator.model.pipeline.save_pretrained(tmp_path / "merged")
    _, metadata = lora.read(tmp_path / "lora" / lora.FILE_NAME)
    said = loading_lines(lora.network_of(metadata), len(list((tmp_path / "lora").iterdir())))
    pipeline = DiffusionPipeline.from_pretrained(case.folder)
    known = {"pipeline": pipeline, "FOLDER": tmp_path / "lora", "DIR": tmp_path / "merged"}
    exec("\n".join(said), known | {"DiffusionPipeline": DiffusionPipeline}, known)
    known["pipeline"].set_progress_bar_config(disable=True)
    theirs = case.own_call(known["pipeline"], noise, output_type="latent")
    theirs = case.case.from_pipeline(theirs, tuple(noise.shape[1:]))
    assert (theirs - aligned[:, :, : theirs.shape[2]]).abs().max() < 1e-4
