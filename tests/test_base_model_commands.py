"""`soralign generate`, `world` and `pretrain` in this process: what they write, how they resume, what they refuse."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import base_model
from base_model.generate import GenerateConfig
from base_model.sampler import Sampling
from core import video, videoset
from core.cli import main
from core.videoset import load_state, read

NANO = ["--model", "nano", "--num-steps", "2", "--seed", "3"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a red ball bounces\n\na blue square stays still\n", encoding="utf-8")
    return path


def _refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that must exit with status 2."""
    capsys.readouterr()
    assert main(list(words)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("soralign:")]
    assert len(lines) == 1
    return lines[0]


def test_generate_writes_a_video_set(tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    words = ["generate", "--prompts", str(prompts), "--out", str(out), "--num-per-prompt", "2", *NANO]
    assert main(words) == 0 and f"4 videos in {out}" in capsys.readouterr().out
    items = read(out)
    assert [item.prompt for item in items] == ["a red ball bounces"] * 2 + ["a blue square stays still"] * 2
    assert len({item.seed for item in items}) == 4 and {item.model for item in items} == {"nano"}
    seen = [video.read(item.video) for item in items]
    assert all(clip.frames.shape == (5, 3, 32, 32) and clip.fps == 8.0 for clip in seen)
    assert not np.allclose(seen[0].frames, seen[1].frames, atol=0.05)


def test_what_is_left_out_is_drawn_as_the_model_usually_draws(tmp_path: Path) -> None:
    words = ["generate", "--model", "nano", "--prompt", "a red ball bounces", "--num-frames", "1"]
    named = ["--num-steps", "20", "--guidance", "4", "--guidance-from", "0.5", "--guidance-to", "1"]
    for name, told in (("usual", []), ("named", named), ("none", ["--guidance", "1"])):
        assert main([*words, *told, "--out", str(tmp_path / name)]) == 0
    usual, same, none = (
        json.loads((tmp_path / name / "generate.json").read_text()) for name in ("usual", "named", "none")
    )
    assert usual == same and usual != none == usual | {"guidance": 1.0}
    frames = [video.read(read(tmp_path / name)[0].video).frames for name in ("usual", "named", "none")]
    assert np.array_equal(frames[0], frames[1]) and not np.array_equal(frames[0], frames[2])


def test_generate_goes_on_where_it_was_killed(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--prompts", str(prompts), "--num-per-prompt", "2", "--batch", "3", *NANO, "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 0
    append, written = videoset.Writer.append, []

    def killed_at_the_third(self: videoset.Writer, *args: object, **details: object) -> videoset.VideoItem:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(append(self, *args, **details))  # type: ignore[arg-type]
        return written[-1]

    with monkeypatch.context() as patch:
        patch.setattr(videoset.Writer, "append", killed_at_the_third)
        assert main([*words, str(tmp_path / "broken")]) == 130
    assert "resume" in capsys.readouterr().err
    kept = [(item.video, item.video.stat().st_mtime_ns) for item in read(tmp_path / "broken")]
    assert len(kept) == 2
    assert main([*words, str(tmp_path / "broken")]) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in kept)
    whole, broken = read(tmp_path / "whole"), read(tmp_path / "broken")
    for a, b in zip(whole, broken, strict=True):
        assert (a.id, a.prompt, a.seed) == (b.id, b.prompt, b.seed) and a.video.read_bytes() == b.video.read_bytes()


def test_generate_refuses_a_folder_of_other_videos(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    words = ["generate", "--out", str(out), *NANO]
    assert main([*words, "--prompt", "a red ball bounces"]) == 0
    manifest = (out / videoset.MANIFEST).read_bytes()
    assert "another prompt)" in _refused(capsys, *words, "--prompt", "a green ball bounces")
    assert "another seed)" in _refused(capsys, *words, "--prompt", "a red ball bounces", "--seed", "4")
    assert (out / videoset.MANIFEST).read_bytes() == manifest
    rows = manifest.replace(b'"nano"', b'"sandbox"')
    (out / videoset.MANIFEST).write_bytes(rows)
    assert "another model)" in _refused(capsys, *words, "--prompt", "a red ball bounces")


def test_generate_draws_other_sizes(tmp_path: Path) -> None:
    size = ["--num-frames", "9", "--height", "16", "--width", "48"]
    assert main(["generate", "--prompt", "x", "--out", str(tmp_path / "set"), *NANO, *size]) == 0
    assert video.read(read(tmp_path / "set")[0].video).frames.shape == (9, 3, 16, 48)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--prompt", "  "], "--prompt is empty"),
        ([], "either --prompts FILE or --prompt TEXT"),
        (["--prompt", "x", "--prompts", "p.txt"], "--prompts and --prompt both say what to show"),
        (["--prompts", "absent.txt"], "'absent.txt' cannot be read"),
        (["--prompt", "x", "--model", "nan"], "model 'nan' is unknown; did you mean 'nano'"),
        (["--prompt", "x", "--model", "."], "no model at '.'"),
        (["--prompt", "x", "--lora", "absent"], "no LoRA at 'absent'"),
        (["--prompt", "x", "--num-frames", "6"], "frames must be 4k+1"),
        (["--prompt", "x", "--height", "40"], "multiples of 16"),
        (["--prompt", "x", "--width", "-16"], "width is -16"),
        (["--prompt", "x", "--num-steps", "0"], "num_steps is 0"),
        (["--prompt", "x", "--batch", "0"], "batch is 0"),
        (["--prompt", "x", "--height", "0"], "height is 0, it must be 1 or more"),
        (["--prompt", "x", "--guidance", "nan"], "guidance is nan"),
        (["--prompt", "x", "--strength", "0.3"], "--strength is for --edit --variations; add one of these"),
        (["--prompt", "x", "--bridge", "12"], "--bridge is for --transition"),
        (["--prompt", "x", "--eta", "0.5"], "--eta is for --solver ddim, and the solver is euler"),
        (["--prompt", "x", "--gidance", "2"], "'--gidance' is unknown; did you mean '--guidance'"),
    ],
)
def test_bad_input_to_generate_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    out = tmp_path / "set"
    model = [] if "--model" in words else ["--model", "nano"]
    assert line in _refused(capsys, "generate", "--out", str(out), *model, *words)
    assert not out.exists()


def test_empty_prompt_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\n  \n")
    line = _refused(capsys, "generate", "--prompts", str(path), "--out", str(tmp_path / "set"), *NANO)
    assert "is empty; write one prompt per line" in line and not (tmp_path / "set").exists()


def test_world_writes_videos_with_their_state_and_adds_only_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "set"
    words = ["world", "--out", str(out), "--split", "heldout", "--seed", "5", "--num-videos"]
    assert main([*words, "2"]) == 0
    first = [item.video.stat().st_mtime_ns for item in read(out)]
    assert main([*words, "3"]) == 0
    items = read(out)
    assert len(items) == 3 and [item.video.stat().st_mtime_ns for item in items[:2]] == first
    state = load_state(items[0])
    assert set(state) == {"position", "velocity", "radius", "colour", "shape", "visible", "contact"}
    assert video.read(items[0].video).frames.shape == (17, 3, 64, 64)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--split", "trian"], "split 'trian' is unknown; known: train"),
        (["--num-videos", "0"], "num_videos is 0"),
        (["--noise", "1.5"], "noise is 1.5"),
    ],
)
def test_bad_input_to_world_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert line in _refused(capsys, "world", "--out", str(tmp_path / "set"), *words)
    assert not (tmp_path / "set").exists()


def test_world_refuses_a_folder_of_another_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["world", "--out", str(tmp_path / "set"), "--num-videos", "2"]
    assert main([*words, "--seed", "5"]) == 0
    assert "drawn with other options (seed)" in _refused(capsys, *words, "--seed", "6")
    assert "other options (split)" in _refused(capsys, *words, "--seed", "5", "--split", "unseen")
    assert "other options (noise)" in _refused(capsys, *words, "--seed", "5", "--noise", "0.1")
    assert "already holds other videos" in _refused(capsys, "generate", *words[1:3], *NANO, "--prompt", "x")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--part", "codex"], "codec"),
        (["--part", "transformer"], "needs a trained codec"),
        (["--steps", "0"], "steps is 0"),
        (["--noise", "-1"], "noise is -1.0"),
        (["--config", "absent.yaml"], "'absent.yaml' does not exist"),
    ],
)
def test_bad_input_to_pretrain_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert line in _refused(capsys, "pretrain", "--out", str(tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


# --- abilities --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of nine frames, another one, two pictures and a mask with a white corner, 32 x 32 all; what fits none."""
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(rng.random((9, 3, 4, 4), dtype=np.float32), 8, 2), 8, 3)
    mask = np.zeros((32, 32, 3), dtype=np.uint8)
    mask[:16, :16] = 255
    video.write(folder / "clip.mp4", smooth, 12.0)
    video.write(folder / "other.mp4", 1 - smooth, 12.0)
    video.write_png(folder / "first.png", video.to_uint8(smooth)[0])
    video.write_png(folder / "last.png", video.to_uint8(smooth)[8])
    video.write_png(folder / "mask.png", mask)
    video.write_png(folder / "black.png", np.zeros((32, 32, 3), dtype=np.uint8))
    video.write(folder / "small.mp4", np.ones((9, 3, 16, 32)), 8.0)
    video.write(folder / "short.mp4", np.ones((5, 3, 32, 32)), 8.0)
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").write_bytes(b"")
    return folder


@pytest.fixture
def files(drawn: Path, tmp_path: Path) -> dict[str, str]:
    """Those files by their names, for a test that may change them."""
    return {path.stem: shutil.copy(path, tmp_path) for path in drawn.iterdir()}


def _one(out: Path, *words: str) -> np.ndarray:
    assert main(["generate", "--out", str(out), *NANO, *words]) == 0
    return video.read(read(out)[0].video).frames


@pytest.mark.parametrize(
    ("words", "length", "kept"),
    [
        (["--image", "first"], 5, {0: ("first", 0)}),
        (["--image", "first", "--num-frames", "9"], 9, {0: ("first", 0)}),
        (
            ["--image", "first", "--end-image", "last", "--num-frames", "9"],
            9,
            {0: ("first", 0), 5: ("last", 0), 8: ("last", 0)},
        ),
        (["--video", "clip", "--extend", "3"], 12, {0: ("clip", 0), 8: ("clip", 8)}),
        (["--video", "clip", "--before", "3"], 12, {3: ("clip", 0), 11: ("clip", 8)}),
        (["--video", "clip", "--before", "2", "--extend", "2"], 13, {2: ("clip", 0), 10: ("clip", 8)}),
        (["--video", "clip", "--loop", "4"], 13, {0: ("clip", 0), 8: ("clip", 8)}),
        (["--loop", "4", "--prompt", "x"], 9, {}),
        (["--video", "clip", "--transition", "other", "--bridge", "4"], 22, {8: ("clip", 8), 13: ("other", 0)}),
        (["--video", "clip", "--inpaint", "mask"], 9, {}),
        (["--video", "clip", "--inpaint", "mask", "--edit", "--strength", "0.3"], 9, {}),
        (["--video", "clip", "--edit", "--strength", "0"], 9, {0: ("clip", 0), 8: ("clip", 8)}),
        (["--seconds", "2", "--prompt", "x"], 16, {}),
        (["--seconds", "1", "--video", "clip"], 12, {8: ("clip", 8)}),
        (["--num-frames", "1", "--prompt", "x"], 1, {}),
    ],
)
def test_every_ability_is_reached_from_the_command_line(
    tmp_path: Path, files: dict[str, str], words: list[str], length: int, kept: dict[int, tuple[str, int]]
) -> None:
    """Given frames are in the file where they belong, up to what H.264 loses."""
    frames = _one(tmp_path / "set", *[files.get(word, word) for word in words])
    assert frames.shape == (length, 3, 32, 32)
    for index, (name, source) in kept.items():
        assert np.abs(frames[index] - video.read(files[name]).frames[source]).mean() < 0.04
    assert (tmp_path / "set" / "images" / "00000.png").exists() == (length == 1)


def test_inpainting_keeps_what_the_mask_leaves_black(tmp_path: Path, files: dict[str, str]) -> None:
    frames = _one(tmp_path / "set", "--video", files["clip"], "--inpaint", files["mask"])
    error = np.abs(frames - video.read(files["clip"]).frames)
    assert error[..., 18:].mean() < 0.02 < error[..., :14, :14].mean()


def test_a_given_clip_keeps_its_pace_and_any_even_size(tmp_path: Path, files: dict[str, str]) -> None:
    clip = video.read(files["clip"]).frames
    video.write_png(tmp_path / "odd.png", video.to_uint8(clip)[0][:23, :30])
    out = tmp_path / "set"
    assert main(["generate", "--out", str(out), *NANO, "--video", files["clip"], "--extend", "1"]) == 0
    assert video.read(read(out)[0].video).fps == 12.0
    frames = _one(tmp_path / "odd", "--image", str(tmp_path / "odd.png"))
    assert frames.shape == (5, 3, 22, 30) and np.abs(frames[0] - clip[0, :, :22, :30]).mean() < 0.02
    frames = _one(tmp_path / "scaled", "--image", files["first"], "--height", "16", "--width", "48")
    assert frames.shape == (5, 3, 16, 48)


def test_videos_have_the_seeds_that_are_asked_for(tmp_path: Path) -> None:
    words = ["generate", "--prompt", "x", *NANO, "--num-per-prompt", "2"]
    assert main([*words, "--out", str(tmp_path / "drawn")]) == 0
    first, second = (item.seed for item in read(tmp_path / "drawn"))
    swapped = ["--seeds", str(second), str(first), "--out", str(tmp_path / "named")]
    assert main([*words, *swapped]) == 0
    drawn, named = ([video.read(item.video).frames for item in read(tmp_path / name)] for name in ("drawn", "named"))
    assert np.abs(drawn[0] - named[1]).max() < 0.03 and np.abs(drawn[1] - named[0]).max() < 0.03


def test_variations_share_their_first_clip(tmp_path: Path) -> None:
    words = ["generate", "--prompt", "x", *NANO, "--batch", "2", "--out"]
    assert main([*words, str(tmp_path / "varied"), "--variations", "3", "--strength", "0.2"]) == 0
    assert main([*words, str(tmp_path / "plain")]) == 0
    varied = [video.read(item.video).frames for item in read(tmp_path / "varied")]
    plain = video.read(read(tmp_path / "plain")[0].video).frames
    assert len(varied) == 3 and np.abs(varied[0] - plain).max() < 0.03
    assert len({clip.tobytes() for clip in varied}) == 3


def test_a_set_drawn_with_other_options_is_not_added_to(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--out", str(tmp_path / "set"), *NANO, "--image", files["first"]]
    assert main(words) == 0 and main(words) == 0
    assert "drawn with other options (solver)" in _refused(capsys, *words, "--solver", "heun")
    video.write_png(files["first"], np.zeros((32, 32, 3), dtype=np.uint8))
    assert "drawn with other options (image)" in _refused(capsys, *words)


def test_every_ability_of_the_chapter_is_the_last_of_five_lines_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    chapter = (Path(__file__).parent.parent / "docs" / "base_model.md").read_text(encoding="utf-8")
    example = chapter.partition("of five lines:")[2].strip("\n").split("\n\n")[0]
    lines = [line.strip() for line in example.splitlines()]
    calls = re.findall(r"`((?:tasks|sampler)\.[^`]*\([^`]*\))`", chapter.partition("### One mechanism")[0])
    sizes = re.findall(r"`size=([^`]*)`", chapter.partition("### One mechanism")[0])
    assert len(lines) == 5 and len(calls) == 12 and len(sizes) == 2
    model = dataclasses.replace(base_model.load("nano"), usual=Sampling(num_steps=1))  # type: ignore[type-var]
    monkeypatch.setattr(base_model, "load", lambda name: model)
    clip = torch.rand(1, 9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    names = {"clip": clip, "other": 1 - clip, "picture": clip[:, :1], "last": clip[:, 8:]}
    names["hole"] = torch.arange(32).expand(32, 32) < 16
    exec("\n".join(lines), names)
    for call in [*calls, *(f"{calls[0][:-1]}, size={size})" for size in sizes)]:
        made = eval(call, names)
        made = made if isinstance(made, torch.Tensor) else next(made)
        assert made.shape[0] == 1 and made.shape[2] == 3 and made.isfinite().all(), call


def test_the_chapter_names_options_that_exist() -> None:
    chapter = (Path(__file__).parent.parent / "docs" / "base_model.md").read_text(encoding="utf-8")
    commands = " ".join(re.findall(r"`([^`\n]*--[^`\n]*)`", chapter.partition("## Variants")[0]))
    named = {option.replace("-", "_") for option in re.findall(r"--([a-z][a-z-]+)", commands)}
    assert named - {"only"} <= set(GenerateConfig.__dataclass_fields__) and len(named) > 20


def test_a_prompt_beyond_the_text_limit_says_what_was_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = " ".join(["red"] * 38 + ["wildly", "today"])
    assert main(["generate", "--prompt", long, "--out", str(tmp_path / "set"), *NANO]) == 0
    told = capsys.readouterr().err
    assert "prompt 1 is longer than the 38 tokens that 'nano' reads; cut off: 'wildly today'" in told


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--image", "first", "--loop", "4"], "--image --loop is not an ability; near it are:"),
        (["--video", "clip"], "--video is not an ability; near it are: --video --before"),
        (["--end-image", "last", "--prompt", "x"], "--end-image is not an ability; near it are: --image --end-image"),
        (["--image", "clip"], "--image takes a picture"),
        (["--video", "first", "--extend", "4"], "has a single frame; give it as --image"),
        (["--image", "absent.png"], "absent.png: no such video file"),
        (["--video", "text", "--extend", "4"], "not a readable video"),
        (["--video", "empty", "--extend", "4"], "not a readable video"),
        (["--video", "clip", "--extend", "0"], "extend is 0"),
        (["--video", "clip", "--before", "99999999"], "before is 99999999, it must be 1 to 86400"),
        (["--video", "clip", "--loop", "6"], "nearest: 4 and 8"),
        (["--video", "clip", "--transition", "other", "--bridge", "3"], "groups of 4"),
        (["--video", "clip", "--transition", "small"], "sizes differ: --video 32x32, --transition 16x32"),
        (["--video", "clip", "--inpaint", "first", "--height", "16", "--num-frames", "7"], "frames must be 4k+1"),
        (["--video", "clip", "--inpaint", "black"], "the mask marks nothing"),
        (["--video", "clip", "--inpaint", "short"], "a mask of 5x32x32 does not fit a clip of 9 frames of 32x32"),
        (["--video", "clip", "--inpaint", "small"], "sizes differ: --video 32x32, --inpaint 16x32"),
        (["--image", "first", "--end-image", "last"], "5 frames cannot lead from one picture to another"),
        (["--video", "clip", "--edit", "--strength", "1.5"], "strength 1.5 is out of range"),
        (["--prompt", "x", "--seconds", "0"], "seconds is 0.0"),
        (["--prompt", "x", "--seconds", "0.01"], "--seconds 0.01 at 8 frames a second leaves no frame to draw; ask"),
        (["--video", "clip", "--seconds", "0.2"], "leaves no frame to draw beyond those that are given"),
        (["--prompt", "x", "--guidance", "1", "--guidance-from", "0.2"], "--guidance 1 is none"),
        (["--prompt", "x", "--solver", "rk4"], "solver 'rk4' is unknown; known: euler"),
        (["--prompt", "x", "--guidance-from", "0.9", "--guidance-to", "0.2"], "guidance interval 0.9 to 0.2"),
        (["--prompt", "x", "--seeds", "1", "2"], "2 --seeds for 1 videos"),
        (["--prompt", "x", "--seeds", str(2**63)], "--seeds 9223372036854775808 is no integer of 64 bits"),
        (["--prompt", "x", "--variations", "2", "--num-per-prompt", "2"], "give one of them"),
        (["--prompt", "x", "--num-frames", "6"], "nearest: 5x32x32"),
        (["--prompt", "x", "--height", "40"], "nearest: 5x32x32"),
    ],
)
def test_bad_input_to_an_ability_is_one_line_and_leaves_nothing(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    out = tmp_path / "set"
    assert line in _refused(capsys, "generate", "--out", str(out), *NANO, *[files.get(word, word) for word in words])
    assert not out.exists()
