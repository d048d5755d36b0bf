"""`soralign generate`, `world` and `pretrain` in this process: what they write, how they resume, what they refuse."""

from pathlib import Path

import numpy as np
import pytest

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
        (["--prompt", "x", "--prompts", "p.txt"], "either --prompts FILE or --prompt TEXT"),
        (["--prompts", "absent.txt"], "'absent.txt' cannot be read"),
        (["--prompt", "x", "--model", "nan"], "model 'nan' is unknown; did you mean 'nano'"),
        (["--prompt", "x", "--model", "."], "no model at '.'"),
        (["--prompt", "x", "--lora", "absent"], "no LoRA at 'absent'"),
        (["--prompt", "x", "--num-frames", "6"], "frames must be 4k+1"),
        (["--prompt", "x", "--height", "40"], "multiples of 16"),
        (["--prompt", "x", "--width", "-16"], "do not fit"),
        (["--prompt", "x", "--num-steps", "0"], "num_steps is 0"),
        (["--prompt", "x", "--batch", "0"], "batch is 0"),
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
    assert "already holds other videos" in _refused(capsys, *words, "--seed", "6")
    assert "already holds other videos" in _refused(capsys, *words, "--seed", "5", "--split", "unseen")


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
