"""Edits, references, control clips and keyframes of hub models: the same clips as diffusers' own pipelines for them,
and a policy that learns."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import CASES, PROMPTS, Case, seeded, wan_a14b_i2v, wan_flf2v, wan_vace
from torch import Tensor
from toy_generator import Brightness

import base_model
from align.ddpo import DDPO
from align.dpo import DPO
from align.nft import NFT
from align.ppo import PPO
from align.reward_gradient import RewardGradient
from align.train import TrainConfig, train
from base_model import lora
from base_model.hub.generator import HubGenerator
from base_model.options import ModelOptions
from base_model.protocol import cat
from base_model.sampler import begun, denoise, initial_noise, sample
from base_model.starts import Starts, contain
from core import video
from core.errors import UserError
from core.prompts import Prompt, read_all
from core.run import read_metrics

STEPS, GUIDANCE = 4, 4.0


def load(folder: Path, case: Case) -> HubGenerator:
    seeded(case.build).save_pretrained(folder)
    size = case.size
    options = ModelOptions("float32", "cpu", num_frames=size.num_frames, height=size.height, width=size.width)
    return base_model.load(str(folder), options)  # type: ignore[return-value]


def drawn(generator: HubGenerator, starts: Starts, prompts: list[str], noise: Tensor, num_steps: int) -> Tensor:
    """Latents by our deterministic sampler, made from what the prompts name."""
    condition = generator.encode_prompts(prompts) | cat([starts.row(prompt) for prompt in prompts])
    return sample(
        denoise(
            generator,
            condition,
            noise=begun(generator, condition, noise, starts.strength),
            num_steps=num_steps,
            strength=starts.strength,
            guidance=GUIDANCE,
            unconditional=generator.unconditional(len(prompts)),
        )
    ).latents


def drawn_by_wan(generator: HubGenerator, noise: Tensor, num_steps: int, **made_from: Any) -> Tensor:
    """Latents of the first prompt by the pipeline's own call, from the same noise."""
    return generator.model.pipeline(
        prompt=PROMPTS[0],
        height=16,
        width=16,
        num_frames=9,
        num_inference_steps=num_steps,
        guidance_scale=GUIDANCE,
        latents=noise,
        output_type="latent",
        **made_from,
    )[0]


def written(folder: Path, rows: list[dict[str, Any]]) -> list[Prompt]:
    """As a prompt file with these lines gives them."""
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_all(folder / "prompts.jsonl")


def picture(path: Path, height: int, width: int, seed: int) -> Tensor:
    """A picture [3, height, width], written to a file."""
    pixels = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))
    video.write_png(path, video.to_uint8(pixels[None].numpy())[0])
    return torch.from_numpy(video.read(path).frames)[0]


def learned(generator: HubGenerator, prompts: list[Prompt], algorithm: Any, out: Path) -> dict[str, float]:
    """What a training step logs; it has moved the policy, and the reference draws what the untrained model drew."""
    starts = Starts.of(generator, prompts)
    assert starts is not None
    noise = initial_noise(generator, [1, 2])
    before = drawn(generator, starts, PROMPTS, noise, STEPS)
    config = TrainConfig(
        steps=1, prompts_per_step=1, batch=2, denoising_steps=STEPS, guidance=2.0, learning_rate=1e-2, lora_rank=2,
        warmup=0, lora_targets=["to_q", "to_v"], sample_every=1, num_samples=1,
    )  # fmt: skip
    run = train(generator, Brightness(), algorithm, prompts, config, out)
    assert not torch.equal(drawn(generator, starts, PROMPTS, noise, STEPS), before)
    with lora.reference(generator.policy_module()):
        assert torch.equal(drawn(generator, starts, PROMPTS, noise, STEPS), before)
    (line,) = [row for row in read_metrics(run.folder) if row["step"] == 1]
    return line


@pytest.mark.parametrize("name", ["wan", "cogvideox", "ltx_later"])
def test_an_edit_is_that_of_the_pipelines_own_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import diffusers

    case = CASES[name]
    generator, size = load(tmp_path / "model", case), case.size
    schedule = generator.schedule(STEPS)
    strength = float(schedule.sigma[1])  # theirs counts steps: .75 of 4
    clip = torch.rand(size.num_frames, 3, size.height, size.width, generator=torch.Generator().manual_seed(0))
    video.write(tmp_path / "clip.mp4", clip.numpy(), 8.0)
    starts = Starts.of(generator, written(tmp_path, [{"prompt": PROMPTS[0], "edit": "clip.mp4", "strength": strength}]))
    assert starts is not None
    frames, noise = starts.frames(PROMPTS[0])[0], initial_noise(generator, [1])
    clean = starts.row(PROMPTS[0])["clean"]
    ours = drawn(generator, starts, PROMPTS[:1], noise, STEPS)

    parts = generator.model.pipeline.components
    common: dict[str, Any] = {"prompt": PROMPTS[0], "height": size.height, "width": size.width}
    common |= {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "output_type": "latent"} | case.call
    if name == "wan":
        names = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
        pipeline = diffusers.WanVideoToVideoPipeline(**{key: parts[key] for key in names})
        monkeypatch.setattr(f"{type(pipeline).__module__}.randn_tensor", lambda *rest, **named: noise)
        theirs = pipeline(video=frames, strength=0.75, **common)[0]
    elif name == "cogvideox":  # its call draws the clip's latents from the codec's spread, so they are given noisy
        pipeline = diffusers.CogVideoXVideoToVideoPipeline(**parts)
        pipeline.scheduler.set_timesteps(STEPS)
        mixed = pipeline.scheduler.add_noise(clean, noise, pipeline.scheduler.timesteps[1:2])
        theirs = pipeline(latents=mixed.transpose(1, 2), strength=0.75, **common)[0].transpose(1, 2)
    else:
        pipeline = generator.model.pipeline
        monkeypatch.setattr(f"{type(pipeline).__module__}.randn_tensor", lambda *rest, **named: noise)
        theirs = pipeline(latents=clean, denoise_strength=0.75, num_frames=size.num_frames, **common)[0]
    assert (ours - theirs).abs().max() <= max(case.tolerance, 1e-5)


def test_a_policy_learns_from_edits_and_its_reference_stays(tmp_path: Path) -> None:
    generator = load(tmp_path / "model", CASES["wan"])
    video.write(tmp_path / "clip.mp4", torch.rand(9, 3, 16, 16).numpy(), 8.0)
    prompts = written(tmp_path, [{"prompt": text, "edit": "clip.mp4", "strength": 0.9} for text in PROMPTS])
    line = learned(generator, prompts, DDPO(group_size=2, window=1), tmp_path / "run")
    assert line["align/first_pass_ratio_error"] == 0.0


def test_references_are_those_of_wan_vaces_own_call(tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline
    from PIL import Image

    generator = load(tmp_path / "model", Case(wan_vace))
    for index, name in enumerate("ab"):
        picture(tmp_path / f"{name}.png", 16, 16, index)
    images = [Image.open(tmp_path / f"{name}.png") for name in "ab"]
    row = {"prompt": PROMPTS[0], "references": ["a.png", "b.png"]}
    pipeline = generator.model.pipeline
    common: dict[str, Any] = {"prompt": PROMPTS[0], "height": 16, "width": 16, "num_frames": 9}
    common |= {"reference_images": images, "guidance_scale": GUIDANCE, "output_type": "latent"}

    starts = Starts.of(generator, written(tmp_path, [row]))
    assert starts is not None
    noise = initial_noise(generator, [1])
    assert noise.shape[2] == 5 and generator.encode(torch.zeros(1, 9, 3, 16, 16)).shape == noise.shape
    assert generator.decode(noise).shape == (1, 9, 3, 16, 16)
    ours = drawn(generator, starts, PROMPTS[:1], noise, STEPS)
    theirs = pipeline(latents=noise, num_inference_steps=STEPS, **common)[0]
    assert (ours - theirs).abs().max() < 1e-5
    swapped = Starts.of(generator, written(tmp_path, [row | {"references": ["b.png", "a.png"]}]))
    assert swapped is not None and not torch.equal(drawn(generator, swapped, PROMPTS[:1], noise, STEPS), ours)
    Starts.of(generator, written(tmp_path, [{"prompt": PROMPTS[0], "image": "a.png"}]))
    assert initial_noise(generator, [1]).shape[2] == 3  # no room is left for them
    starts = Starts.of(generator, written(tmp_path, [row]))
    assert starts is not None

    lora.attach(generator.policy_module(), rank=2, alpha=6, targets=["to_q", "to_v"])
    for value in lora.parameters(generator.policy_module()):
        value.data = 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(5))
    lora.save(generator.policy_module(), tmp_path / "lora")
    plain = DiffusionPipeline.from_pretrained(tmp_path / "model")
    plain.set_progress_bar_config(disable=True)
    plain.load_lora_weights(tmp_path / "lora")
    aligned = drawn(generator, starts, PROMPTS[:1], noise, STEPS)
    theirs = plain(latents=noise, num_inference_steps=STEPS, **common)[0]
    assert (aligned - theirs).abs().max() < 1e-5 and not torch.equal(aligned, ours)


@pytest.mark.parametrize("controlled", [False, True])
def test_what_is_given_reaches_wan_vaces_branch_as_in_its_own_call(tmp_path: Path, controlled: bool) -> None:
    """One step: the pipeline's own call draws given frames too, where ours leads exactly to them."""
    from PIL import Image

    generator = load(tmp_path / "model", Case(wan_vace))
    clip = torch.full((1, 9, 3, 16, 16), 0.5)
    for index, name in enumerate("abc"):
        pixels = picture(tmp_path / f"{name}.png", 16, 16, index)
        clip[0, [[0], [5, 6, 7, 8], []][index]] = pixels
    row = {"prompt": PROMPTS[0], "references": ["c.png"], "keyframes": {"0": "a.png", "8": "b.png"}}
    if controlled:  # it stands where something is made, and does not show where pictures are given
        row["control"] = "poses.mp4"
        clip[0, 1:5] = poses(tmp_path / "poses.mp4", 9)[1:5]
    starts = Starts.of(generator, written(tmp_path, [row]))
    assert starts is not None
    noise = initial_noise(generator, [1])
    ours = drawn(generator, starts, PROMPTS[:1], noise, 1)
    mask = torch.zeros_like(clip)
    mask[:, 1:5] = 1.0
    theirs = drawn_by_wan(
        generator,
        noise,
        1,
        video=clip,
        mask=mask,
        reference_images=[Image.open(tmp_path / "c.png")],
    )
    free = [0, 2]  # the reference's frame and the group between the pictures
    assert (ours - theirs)[:, :, free].abs().max() < 1e-5
    assert (ours - starts.row(PROMPTS[0])["clean"])[:, :, [1, 3]].abs().max() < 1e-5


def poses(path: Path, num_frames: int) -> Tensor:
    """A clip [num_frames, 3, 16, 16], written to a file."""
    video.write(path, torch.rand(num_frames, 3, 16, 16, generator=torch.Generator().manual_seed(7)).numpy(), 8.0)
    return torch.from_numpy(video.read(path).frames)


def test_a_control_clip_is_that_of_wan_vaces_own_call(tmp_path: Path) -> None:
    from PIL import Image

    generator = load(tmp_path / "model", Case(wan_vace))
    clip = poses(tmp_path / "poses.mp4", 11)  # longer than the clips that are made of it
    picture(tmp_path / "a.png", 16, 16, 0)
    made = []
    for references in ([], ["a.png"]):
        row = {"prompt": PROMPTS[0], "control": "poses.mp4"} | ({"references": references} if references else {})
        starts = Starts.of(generator, written(tmp_path, [row]))
        assert starts is not None
        noise = initial_noise(generator, [1])
        made.append(drawn(generator, starts, PROMPTS[:1], noise, STEPS))
        theirs = drawn_by_wan(
            generator,
            noise,
            STEPS,
            video=clip[None, :9],
            reference_images=[Image.open(tmp_path / name) for name in references] or None,
        )
        assert (made[-1] - theirs).abs().max() < 1e-5
    silent = Starts.of(generator, written(tmp_path, [{"prompt": PROMPTS[0], "references": ["a.png"]}]))
    assert silent is not None and not torch.equal(drawn(generator, silent, PROMPTS[:1], noise, STEPS), made[1])
    short = [{"prompt": PROMPTS[0], "control": "short.mp4"}]
    poses(tmp_path / "short.mp4", 5)
    with pytest.raises(UserError, match="short.mp4' has 5 frames, the clips made of it 9"):
        Starts.of(generator, written(tmp_path, short))


def test_a_control_clip_may_count_for_less_than_it_was_trained_to(tmp_path: Path) -> None:
    case = Case(wan_vace)
    load(tmp_path / "model", case)
    options = ModelOptions("float32", "cpu", num_frames=9, height=16, width=16, control_scale=0.4)
    generator: Any = base_model.load(str(tmp_path / "model"), options)
    clip = poses(tmp_path / "poses.mp4", 9)
    starts = Starts.of(generator, written(tmp_path, [{"prompt": PROMPTS[0], "control": "poses.mp4"}]))
    assert starts is not None
    noise = initial_noise(generator, [1])
    ours = drawn(generator, starts, PROMPTS[:1], noise, STEPS)
    theirs = drawn_by_wan(generator, noise, STEPS, video=clip[None], conditioning_scale=0.4)
    assert (ours - theirs).abs().max() < 1e-5
    whole = drawn_by_wan(generator, noise, STEPS, video=clip[None])
    assert (ours - whole).abs().max() > 1e-3


def test_a_policy_learns_from_control_clips_and_its_reference_stays(tmp_path: Path) -> None:
    generator = load(tmp_path / "model", Case(wan_vace))
    poses(tmp_path / "poses.mp4", 9)
    prompts = written(tmp_path, [{"prompt": text, "control": "poses.mp4"} for text in PROMPTS])
    line = learned(generator, prompts, DDPO(group_size=2, window=1), tmp_path / "run")
    assert line["align/first_pass_ratio_error"] == 0.0


@pytest.mark.parametrize("build", [wan_flf2v, wan_a14b_i2v], ids=lambda build: build.__name__)
def test_a_first_and_a_last_frame_reach_wan_as_in_its_own_call(tmp_path: Path, build: Any) -> None:
    """One step; see the test of VACE."""
    from PIL import Image

    generator = load(tmp_path / "model", Case(build))
    first, last = (picture(tmp_path / f"{name}.png", 16, 16, index) for index, name in enumerate("ab"))
    starts = Starts.of(generator, written(tmp_path, [BOTH_ENDS]))
    assert starts is not None
    frames, known = starts.frames(PROMPTS[0])
    assert known.tolist() == [True, *[False] * 7, True]  # the last frame alone: its group of four is made
    assert torch.equal(frames[0, [0, 8]], torch.stack([first, last]))
    noise, row = initial_noise(generator, [1]), starts.row(PROMPTS[0])
    assert row["known"].flatten(2).all(2).tolist() == [[True, False, False]]
    ours = drawn(generator, starts, PROMPTS[:1], noise, 1)
    theirs = drawn_by_wan(
        generator,
        noise,
        1,
        image=Image.open(tmp_path / "a.png"),
        last_image=Image.open(tmp_path / "b.png"),
    )
    assert (ours - theirs)[:, :, 1:].abs().max() < 1e-5
    picture(tmp_path / "b.png", 16, 16, 9)
    other = Starts.of(generator, written(tmp_path, [BOTH_ENDS]))
    assert other is not None and not torch.equal(drawn(generator, other, PROMPTS[:1], noise, 1), ours)


BOTH_ENDS = {"prompt": PROMPTS[0], "keyframes": {"0": "a.png", "8": "b.png"}}


def test_the_model_of_first_and_last_frames_needs_both(tmp_path: Path) -> None:
    generator = load(tmp_path / "model", Case(wan_flf2v))
    picture(tmp_path / "a.png", 16, 16, 0)
    for frame, told in (("0", "from a first and a last frame: give --image and --end-image"), ("8", "a first picture")):
        starts = Starts.of(generator, written(tmp_path, [{"prompt": PROMPTS[0], "keyframes": {frame: "a.png"}}]))
        assert starts is not None
        with pytest.raises(UserError, match=told):
            starts.row(PROMPTS[0])


def test_keyframes_are_single_frames_as_in_ltxs_own_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.pipelines.ltx import pipeline_ltx_condition as own
    from PIL import Image

    generator, size = load(tmp_path / "model", CASES["ltx_later"]), (32, 32)
    for index, name in enumerate("abc"):
        picture(tmp_path / f"{name}.png", *size, index)
    noise = initial_noise(generator, [1])
    monkeypatch.setattr(
        own, "randn_tensor", lambda shape, **named: noise if shape == noise.shape else torch.zeros(shape)
    )
    monkeypatch.setattr(own, "retrieve_latents", lambda encoded, **named: encoded.latent_dist.mode())
    for keyframes in ({"0": "a.png", "5": "b.png", "7": "c.png"}, {"3": "b.png"}):  # 5 and 7 lie in one group
        starts = Starts.of(generator, written(tmp_path, [{"prompt": PROMPTS[0], "keyframes": keyframes}]))
        assert starts is not None
        assert starts.frames(PROMPTS[0])[1].nonzero()[:, 0].tolist() == [int(frame) for frame in keyframes]
        ours = drawn(generator, starts, PROMPTS[:1], noise, STEPS)
        theirs = generator.model.pipeline(
            conditions=[
                own.LTXVideoCondition(image=Image.open(tmp_path / name), frame_index=int(frame))
                for frame, name in keyframes.items()
            ],
            image_cond_noise_scale=0.0,
            prompt=PROMPTS[0],
            height=32,
            width=32,
            num_frames=9,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="latent",
        )[0]
        assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["ltx_later", pytest.param("wan_flf2v", marks=pytest.mark.slow)])
def test_a_policy_learns_from_single_frames_and_its_reference_stays(tmp_path: Path, name: str) -> None:
    case = CASES.get(name) or Case(wan_flf2v)
    generator = load(tmp_path / "model", case)
    for index, file in enumerate("ab"):
        picture(tmp_path / f"{file}.png", 16, 16, index)
    prompts = written(tmp_path, [BOTH_ENDS | {"prompt": text} for text in PROMPTS])
    line = learned(generator, prompts, DDPO(group_size=2, window=1), tmp_path / "run")
    assert line["align/first_pass_ratio_error"] == 0.0


@pytest.mark.parametrize(
    "algorithm",
    [
        DDPO(group_size=2, window=1),
        *(pytest.param(one, marks=pytest.mark.slow) for one in (PPO(group_size=2), NFT(group_size=2, levels=2))),
        *(pytest.param(one, marks=pytest.mark.slow) for one in (DPO(group_size=2), RewardGradient())),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_policy_learns_from_references_and_its_reference_stays(tmp_path: Path, algorithm: Any) -> None:
    generator = load(tmp_path / "model", Case(wan_vace))
    for index, name in enumerate("ab"):
        picture(tmp_path / f"{name}.png", 20, 12, index)
    prompts = written(tmp_path, [{"prompt": text, "references": ["a.png", "b.png"]} for text in PROMPTS])
    line = learned(generator, prompts, algorithm, tmp_path / "run")
    replays = isinstance(algorithm, DDPO | PPO)
    assert line.get("align/first_pass_ratio_error") == (0.0 if replays else None)


def test_a_reference_lies_wholly_on_white() -> None:
    wide = torch.zeros(1, 3, 2, 8)
    canvas = contain(wide, 4, 4)
    assert canvas.shape == (1, 3, 4, 4) and torch.equal(canvas[0, 0].mean(1), torch.tensor([1.0, 0.0, 1.0, 1.0]))
