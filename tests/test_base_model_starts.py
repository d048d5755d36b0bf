"""Prompts that name pictures or a clip: what a file may say, and that the clips of both commands are made from them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_generator import Brightness

from align.ddpo import DDPO
from align.nft import NFT
from align.policy import Policy, Velocity
from align.reward_gradient import RewardGradient
from align.train import TrainConfig, train
from base_model import lora, native
from base_model.given import Request
from base_model.large import launch
from base_model.protocol import VideoSize
from base_model.sampler import Sampling, initial_noise
from base_model.starts import Starts, cover
from core import video
from core.cli import main
from core.errors import UserError
from core.prompts import Prompt, read_all

TEXTS = ("a red ball rolls", "a blue box falls")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, a clip of 12 frames, and a prompt file that names the pictures."""
    folder = tmp_path_factory.mktemp("starts")
    rng = torch.Generator().manual_seed(3)
    for name in ("a", "b"):
        picture = torch.rand(1, 3, 4, 6, generator=rng).repeat_interleave(8, 2).repeat_interleave(8, 3)
        video.write_png(folder / f"{name}.png", video.to_uint8(picture.numpy())[0])
    video.write(folder / "clip.mp4", torch.rand(12, 3, 32, 32, generator=rng).numpy(), 8.0)
    rows = [{"prompt": text, "image": f"{name}.png"} for text, name in zip(TEXTS, "ab", strict=True)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _read(folder: Path, rows: list[dict[str, Any]]) -> list[Prompt]:
    """As a prompt file with these lines gives them."""
    path = folder / "written.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_all(path)


def _nine_frames() -> native.NativeGenerator:
    return replace(native.nano(), size=VideoSize(9, 32, 32))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"image": "c.png"}, "entry 1: its image '.*c.png' is not there"),
        ({"image": 7}, "a path under 'image' is expected, seen 7"),
        ({"image": "a.png", "video": "clip.mp4"}, "one of image, video, edit and keyframes .* seen image and video"),
        ({"edit": "clip.mp4", "image": "a.png"}, "one of image, video, edit and keyframes .* seen image and edit"),
        ({"edit": "clip.mp4", "strength": 1}, "'strength' must lie between 0 .* and 1 .* seen 1"),
        ({"video": "clip.mp4", "strength": 0.5}, "'strength' says how far the clip under 'edit' is changed"),
        ({"keyframes": ["a.png"]}, "frames and pictures under 'keyframes' are expected, as .*seen .'a.png'"),
        ({"keyframes": {"first": "a.png"}}, "frames and pictures under 'keyframes'"),
        ({"keyframes": {"0": "c.png"}}, "its keyframes '.*c.png' is not there"),
        ({"references": "a.png"}, "a list of paths under 'references' is expected, seen 'a.png'"),
        ({"references": []}, "a list of paths under 'references'"),
        ({"control": "c.mp4"}, "its control '.*c.mp4' is not there"),
    ],
)
def test_a_line_names_files_that_are_there(folder: Path, tmp_path: Path, row: dict[str, Any], told: str) -> None:
    path = folder / "bad.jsonl"
    path.write_text(json.dumps({"prompt": "x"} | row) + "\n")
    with pytest.raises(UserError, match=told):
        read_all(path)


def test_prompts_without_files_start_from_nothing() -> None:
    assert Starts.of(native.nano(), [Prompt("a"), Prompt("b")]) is None


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ({}, "'a red ball rolls' is made from a first frame and 'a blue box falls' from nothing; keep prompts of each"),
        ({"video": "clip.mp4"}, "from a first frame and 'a blue box falls' from 5 first frames"),
        ({"edit": "clip.mp4"}, "from a first frame and 'a blue box falls' from a clip edited from 0.6"),
        ({"keyframes": {"0": "a.png", "8": "b.png"}}, "from keyframes 0, 8"),
        ({"image": "a.png", "references": ["b.png"]}, "from a first frame and 1 reference pictures"),
        ({"image": "prompts.jsonl"}, "prompts.jsonl"),
        ({"keyframes": {"9": "a.png"}}, "keyframe 9 lies beyond the clip, frames 0 to 8"),
        ({"keyframes": {"5": "a.png", "7": "b.png"}}, "keyframes 5 and 7 lie in one group of 4 frames"),
        ({"keyframes": {"5": "clip.mp4"}}, "clip.mp4' has 12 frames; keyframes and references are single pictures"),
        ({"prompt": TEXTS[0], "image": "b.png"}, "'a red ball rolls' is there twice, made from different files"),
    ],
)
def test_the_files_of_a_set_are_of_one_kind(folder: Path, second: dict[str, Any], told: str) -> None:
    rows = [{"prompt": TEXTS[0], "image": "a.png"}, {"prompt": TEXTS[1]} | second]
    prompts = _read(folder, rows)
    with pytest.raises(UserError, match=told):
        Starts.of(_nine_frames(), prompts)


def test_what_the_generator_cannot_take_is_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match="'nano' takes no references and no control clip; a Wan VACE does"):
        Starts.of(native.nano(), _read(folder, [{"prompt": "a", "references": ["a.png", "b.png"]}]))
    longer = replace(native.nano(), size=VideoSize(13, 32, 32))
    with pytest.raises(UserError, match="clip.mp4' has 12 frames, the clips made of it 13; set num_frames lower"):
        Starts.of(longer, _read(folder, [{"prompt": "a", "edit": "clip.mp4"}]))


def test_a_picture_is_scaled_to_cover_the_frame_and_cut() -> None:
    frames = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 3, 2, 4) / 4
    assert torch.equal(cover(frames, 2, 2), frames[..., 1:3])
    assert cover(frames, 8, 8).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(("name", "seen"), [("a.png", 1), ("clip.mp4", 5)])
def test_a_row_gives_the_cells_of_the_beginning(folder: Path, name: str, seen: int) -> None:
    generator = _nine_frames()
    starts = Starts.of(generator, [Prompt("a", start=str(folder / name))])
    assert starts is not None
    (frames, known), row = starts.frames("a"), starts.row("a")
    assert frames.shape == (1, 9, 3, 32, 32) and known.tolist() == [True] * seen + [False] * (9 - seen)
    if seen > 1:  # the end of the clip, and a group of frames is left to be drawn
        end = cover(torch.from_numpy(video.read(folder / name).frames)[7:], 32, 32)
        assert torch.equal(frames[0, :seen], end) and torch.equal(
            frames[0, seen:], end[-1:].expand(9 - seen, 3, 32, 32)
        )
    cells = 1 + (seen - 1) // generator.vae.t
    assert row["known"][:, :cells].all() and not row["known"][:, cells:].any()
    begun = generator.encode(frames[:, :seen])
    torch.testing.assert_close(row["clean"][:, :, :cells], begun, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="prompt 'b' names no picture or clip"):
        starts.row("b")


def test_a_keyframe_is_given_as_long_as_its_group_of_frames(folder: Path) -> None:
    starts = Starts.of(_nine_frames(), _read(folder, [{"prompt": "a", "keyframes": {"8": "b.png", "0": "a.png"}}]))
    assert starts is not None
    (frames, known), row = starts.frames("a"), starts.row("a")
    first, last = (cover(torch.from_numpy(video.read(folder / f"{name}.png").frames), 32, 32)[0] for name in "ab")
    assert known.tolist() == [True] + [False] * 4 + [True] * 4
    assert torch.equal(frames[0, 0], first) and all(torch.equal(frame, last) for frame in frames[0, 5:])
    assert row["known"].flatten(2).all(2).tolist() == [[True, False, True]]


def test_an_edit_begins_from_the_clip_with_noise_and_takes_the_steps_below(folder: Path) -> None:
    generator = native.nano()
    starts = Starts.of(generator, _read(folder, [{"prompt": "a", "edit": "clip.mp4", "strength": 0.7}]))
    assert starts is not None and starts.strength == 0.7
    (frames, known), row = starts.frames("a"), starts.row("a")
    clip = torch.from_numpy(video.read(folder / "clip.mp4").frames)[:5]
    assert torch.equal(frames[0], clip) and not known.any() and list(row) == ["clean"]
    parameters = lora.attach(generator.policy_module(), 2, 2)
    model = Velocity(generator)
    policy = Policy(
        generator,
        model,
        parameters,
        launch(),
        denoising_steps=6,
        guidance=1.0,
        batch=2,
        prompts_per_step=1,
        starts=starts,
    )
    levels = generator.schedule(6).sigma
    assert policy.schedule.sigma.tolist() == [0.7, *levels[levels < 0.7].tolist()]
    noise = initial_noise(generator, [1])
    condition = policy.condition(["a"])
    torch.testing.assert_close(policy.begun(condition, noise), 0.3 * generator.encode(frames) + 0.7 * noise)
    rng = [torch.Generator().manual_seed(0)]
    (path,) = policy.sample_batches(condition, noise, kind="flow", eta=0.7, window=range(1), rng=rng)
    assert torch.equal(path.before[:, 0], policy.begun(condition, noise))
    with pytest.raises(UserError, match="strength 0.7 leaves 3 of 6 denoising steps, .* too few for window 3"):
        DDPO(window=3).check(policy, Brightness())
    DDPO(window=2).check(policy, Brightness())


@pytest.mark.parametrize("algorithm", [DDPO(group_size=2, window=1), NFT(group_size=2, levels=2), RewardGradient()])
def test_a_policy_is_trained_on_edits(folder: Path, tmp_path: Path, algorithm: Any) -> None:
    prompts = _read(folder, [{"prompt": text, "edit": "clip.mp4", "strength": 0.8} for text in TEXTS])
    made = []
    for generator in (native.nano(), native.nano()):
        if made:
            config = TrainConfig(
                steps=1, prompts_per_step=2, batch=2, denoising_steps=6, learning_rate=1e-2, sample_every=0, lora_rank=2
            )
            run = train(generator, Brightness(), algorithm, prompts, config, tmp_path / "run")
            line = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])
            assert line.get("align/first_pass_ratio_error", 0.0) == 0.0
        starts = Starts.of(generator, prompts)
        assert starts is not None
        made.append(starts.complete(Request(generator, TEXTS, [1, 2], Sampling(num_steps=6))))
    assert not torch.equal(made[0], made[1])
    # Less noise leaves more of the clip.
    nearer = replace(native.nano(), name="again")
    closer = Starts.of(nearer, [replace(one, strength=0.1) for one in prompts])
    assert closer is not None
    clip = closer.frames(TEXTS[0])[0]
    again = closer.complete(Request(nearer, TEXTS, [1, 2], Sampling(num_steps=6)))
    through = nearer.decode(nearer.encode(clip))  # the untrained codec's own loss is left out
    assert (again - through).abs().mean() < (made[0] - through).abs().mean()


def test_a_policy_is_trained_on_clips_that_begin_with_the_picture(folder: Path, tmp_path: Path) -> None:
    generator = native.nano()
    config = TrainConfig(
        steps=1,
        prompts_per_step=1,
        batch=2,
        denoising_steps=4,
        guidance=2.0,
        sample_every=1,
        num_samples=2,
        lora_rank=2,
    )
    prompts = read_all(folder / "prompts.jsonl")
    run = train(generator, Brightness(), DDPO(group_size=2), prompts, config, tmp_path / "run")
    line = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["align/first_pass_ratio_error"] == 0.0
    starts = Starts.of(generator, prompts)
    assert starts is not None
    for index, text in enumerate(TEXTS):
        clip = torch.from_numpy(video.read(run.samples / f"step-000001/videos/{index:04d}.mp4").frames)
        with torch.no_grad():
            begun = generator.decode(starts.row(text)["clean"])[0, 0]
        assert clip.shape[0] == generator.size.num_frames
        assert (clip[0] - begun).abs().mean() < 0.05  # mp4
    with pytest.raises(UserError, match="prompts_sha256"):
        moved = [Prompt(TEXTS[0], start=prompts[1].start), Prompt(TEXTS[1], start=prompts[0].start)]
        train(native.nano(), Brightness(), DDPO(group_size=2), moved, config, tmp_path / "run")


def test_generate_draws_clips_that_begin_with_their_pictures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    complete = Starts.complete
    monkeypatch.setattr(Starts, "complete", lambda *asked: drawn.append(complete(*asked)) or drawn[-1])
    words = ["generate", "--model", "nano", "--prompts", str(folder / "prompts.jsonl"), "--num-steps", "2"]
    assert main([*words, "--out", str(tmp_path / "set")]) == 0
    starts = Starts.of(native.nano(), read_all(folder / "prompts.jsonl"))
    assert starts is not None
    for index, text in enumerate(TEXTS):
        assert torch.equal(drawn[0][index, :1], starts.frames(text)[0][0, :1])
    assert main([*words, "--image", str(folder / "a.png"), "--out", str(tmp_path / "other")]) == 2
    assert "the prompts name pictures or clips of their own; leave out --image" in capsys.readouterr().err
