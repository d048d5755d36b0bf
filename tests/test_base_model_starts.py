"""Prompts that name a picture or a clip: what a file may say, and that the clips of both commands begin with it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_generator import Brightness

from align.ddpo import DDPO
from align.train import TrainConfig, train
from base_model import given, native
from base_model.protocol import VideoSize
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


def _nine_frames() -> native.NativeGenerator:
    return replace(native.nano(), size=VideoSize(9, 32, 32))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"image": "c.png"}, "entry 1: its image '.*c.png' is not there"),
        ({"image": 7}, "one path under 'image' or 'video' is expected, seen"),
        ({"image": "a.png", "video": "clip.mp4"}, "one path under 'image' or 'video'"),
    ],
)
def test_a_line_names_one_file_that_is_there(folder: Path, tmp_path: Path, row: dict[str, Any], told: str) -> None:
    path = folder / "bad.jsonl"
    path.write_text(json.dumps({"prompt": "x"} | row) + "\n")
    with pytest.raises(UserError, match=told):
        read_all(path)


def test_prompts_without_files_start_from_nothing() -> None:
    assert Starts.of(native.nano(), [Prompt("a"), Prompt("b")]) is None


@pytest.mark.parametrize(
    ("starts", "told"),
    [
        (("a.png", ""), "prompt 'a blue box falls': its image or video is none, but others have"),
        (("a.png", "clip.mp4"), "'.*a.png' gives 1 frames and '.*clip.mp4' 5; keep pictures and clips"),
        (("a.png", "prompts.jsonl"), "prompts.jsonl"),
    ],
)
def test_the_files_of_a_set_are_of_one_kind(folder: Path, starts: tuple[str, str], told: str) -> None:
    prompts = [Prompt(text, start=str(folder / name) if name else "") for text, name in zip(TEXTS, starts, strict=True)]
    with pytest.raises(UserError, match=told):
        Starts.of(_nine_frames(), prompts)


def test_a_prompt_has_one_picture(folder: Path) -> None:
    twice = [Prompt("a", start=str(folder / f"{name}.png")) for name in "ab"]
    with pytest.raises(UserError, match="prompt 'a': its image or video is two"):
        Starts.of(native.nano(), twice)


def test_a_picture_is_scaled_to_cover_the_frame_and_cut() -> None:
    frames = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 3, 2, 4) / 4
    assert torch.equal(cover(frames, 2, 2), frames[..., 1:3])
    assert cover(frames, 8, 8).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(("name", "seen"), [("a.png", 1), ("clip.mp4", 5)])
def test_a_row_gives_the_cells_of_the_beginning(folder: Path, name: str, seen: int) -> None:
    generator = _nine_frames()
    starts = Starts.of(generator, [Prompt("a", start=str(folder / name))])
    assert starts is not None
    frames, row = starts.frames("a"), starts.row("a")
    size = generator.size
    assert frames.shape == (1, seen, 3, size.height, size.width)
    if seen > 1:  # the end of the clip, and a group of frames is left to be drawn
        assert torch.equal(frames, cover(torch.from_numpy(video.read(folder / name).frames)[7:], 32, 32)[None])
    cells = 1 + (seen - 1) // generator.vae.t
    assert row["known"][:, :cells].all() and not row["known"][:, cells:].any()
    torch.testing.assert_close(row["clean"][:, :, :cells], generator.encode(frames), atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="prompt 'b' has no image"):
        starts.row("b")


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
    complete = given.complete
    monkeypatch.setattr("base_model.tasks.complete", lambda *asked: drawn.append(complete(*asked)) or drawn[-1])
    words = ["generate", "--model", "nano", "--prompts", str(folder / "prompts.jsonl"), "--num-steps", "2"]
    assert main([*words, "--out", str(tmp_path / "set")]) == 0
    starts = Starts.of(native.nano(), read_all(folder / "prompts.jsonl"))
    assert starts is not None
    for index, text in enumerate(TEXTS):
        assert torch.equal(drawn[0][index, :1], starts.frames(text)[0])
    assert main([*words, "--image", str(folder / "a.png"), "--out", str(tmp_path / "other")]) == 2
    assert "the prompts name pictures or clips of their own; leave out --image" in capsys.readouterr().err
