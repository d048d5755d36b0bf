"""`soralign reward` as a user meets it, and the audit's verdicts on rewards with known faults."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reward_examples import batch, fill_store, moving, ordered_and_shuffled, tiny_clip

from core import videoset
from core.cli import main
from core.preferences import Store, Vote
from reward.audit import EXPLOITS, audit, position_bias
from reward.simple import brightness, motion


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    writer = videoset.Writer(tmp_path / "videos")
    for index, (prompt, right, _) in enumerate(ordered_and_shuffled(5)):
        writer.append(right, prompt, id=f"{index}")
    return tmp_path / "videos"


def test_train_then_score_with_the_folder(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_store(tmp_path)
    clip, out = tmp_path / "clip", tmp_path / "reward"
    tiny_clip().save_pretrained(clip)
    options = ["--store", str(tmp_path / "votes.db"), "--out", str(out), "--clip", str(clip)]
    assert main(["reward", "train", *options, "--epochs", "1", "--num-heads", "1"]) == 0
    assert "held out" in capsys.readouterr().out
    assert json.loads((out / "report.json").read_text())["config"]["epochs"] == 1
    monkeypatch.setattr("reward.backbone.load_clip", tiny_clip)
    lines = tmp_path / "scores.jsonl"
    assert main(["reward", "score", str(videos), "--reward", str(out), "--out", str(lines)]) == 0
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["id"] for row in rows] == list("01234")
    assert all(row["total"] == row["parts"]["overall"] and row["heads"] == [row["total"]] for row in rows)


def test_score_prints_one_line_a_video(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reward", "score", str(videos), "--reward", "brightness"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and 0 < json.loads(lines[0])["total"] < 1
    assert "5 of 5 videos scored" in last


def test_audit_says_what_a_reward_pays_for(videos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "audit.json"
    assert main(["reward", "audit", str(videos), "--reward", "brightness", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "brightness pays for:" in told and "noise" in told.splitlines()[-2]
    assert {row["exploit"] for row in json.loads(out.read_text())["findings"]} == set(EXPLOITS)


def test_audit_without_a_vote_on_a_screen_is_json_all_the_same(
    videos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = Store(tmp_path / "votes.db")
    a, b = (store.add_video(videos / f"videos/{index}.mp4") for index in range(2))
    store.record_vote(store.add_pair("p", a, b), "someone", "overall", "a")
    words = ["audit", str(videos), "--reward", "motion", "--num-videos", "2", "--store", str(tmp_path / "votes.db")]
    assert main(["reward", *words, "--out", str(tmp_path / "found.json")]) == 0
    assert "votes for the left side: none was given on a screen" in capsys.readouterr().out
    assert "NaN" not in (tmp_path / "found.json").read_text()


def test_audit_knows_the_faults_of_brightness_and_motion() -> None:
    rng = np.random.default_rng(0)
    clips = batch([moving(colour, np.arange(9), rng) for colour in ("red", "green", "blue", "yellow") * 3])
    prompts = [f"prompt {index}" for index in range(len(clips))]
    bright = {finding.exploit: finding.verdict for finding in audit(brightness(), [(clips, prompts)]).exploits}
    assert bright["noise"] == bright["bright"] == "pays" and bright["blank"] == bright["vanishing"] == "resists"
    assert bright["reversed"] == bright["shuffled"] == "blind"
    found = audit(motion(), [(clips, prompts)])
    moved = {finding.exploit: finding.verdict for finding in found.exploits + found.formats}
    assert moved["noise"] == moved["shuffled"] == "pays" and moved["frozen"] == moved["half frozen"] == "resists"
    assert moved["half rate"] == "pays" and moved["coarser"] == "blind"
    assert found.motion_correlation == pytest.approx(1.0)
    assert found.motion_quarters == sorted(found.motion_quarters) and abs(sum(found.motion_quarters)) < 1e-6
    assert set(found.paid) <= set(EXPLOITS)


def test_brightness_is_blind_to_formats() -> None:
    rng = np.random.default_rng(0)
    clips = batch([moving(colour, np.arange(9), rng) for colour in ("red", "green", "blue", "yellow")])
    found = audit(brightness(), [(clips, ["x"] * 4)])
    assert {one.verdict for one in found.formats if one.exploit != "shorter"} == {"blind"}


def test_position_bias_counts_the_left_side_of_votes_on_a_screen() -> None:
    def vote(choice: str, left: str | None) -> Vote:
        return Vote(1, "x", Path("a"), Path("b"), "one", "overall", choice, 0.0, left)

    votes = (
        [vote("a", "a")] * 30 + [vote("b", "a")] * 10 + [vote("tie", "b")] * 20 + [vote("a", None), vote("skip", "a")]
    )
    bias = position_bias(votes)
    assert bias.n == 60 and bias.value == pytest.approx(40 / 60) and bias.low > 0.5


def test_exploits_keep_the_shape_and_leave_the_videos_alone() -> None:
    frames = torch.rand(2, 9, 3, 16, 16)
    before = frames.clone()
    for spoil in EXPLOITS.values():
        spoilt = spoil(frames, torch.Generator().manual_seed(0))
        assert spoilt.shape == frames.shape and 0 <= float(spoilt.min()) and float(spoilt.max()) <= 1
    assert torch.equal(frames, before)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["score", "VIDEOS", "--reward", "brightnes"], "did you mean 'brightness'"),
        (["score", "VIDEOS/nothing", "--reward", "motion"], "not a folder"),
        (["score", "VIDEOS", "--reward", "VIDEOS"], "holds no reward"),
        (["audit", "VIDEOS", "--reward", "motion", "--num-videos", "1"], "at least 2"),
        (["train", "--store", "VIDEOS/none.db", "--out", "VIDEOS/out"], "does not exist"),
        (["train", "--store", "VIDEOS/manifest.jsonl", "--out", "VIDEOS/manifest.jsonl"], "is a file"),
        (["train", "--store", "VIDEOS/manifest.jsonl", "--out", "VIDEOS/x", "--clip", "VIDEOS"], "holds no CLIP"),
        (["train", "--store", "VIDEOS/manifest.jsonl", "--out", "VIDEOS/x", "--epochs", "0"], "epochs"),
        (["trian"], "did you mean 'train'"),
        (["serve", "motoin"], "did you mean 'motion'"),
        (["serve", "motion", "--host", "0.0.0.0"], "set SORALIGN_REWARD_TOKEN"),
        (["serve", "motion", "--max-batch", "0"], "at least 1"),
        (["serve", "motion", "--port", "70000"], "between 0 and 65535"),
        (["serve", "motion", "--device", "gpu"], "'gpu' cannot be used here"),
        (
            ["vlm", "--store", "VIDEOS/none.db", "--out", "VIDEOS/x", "--num-frames", "0"],
            "num_frames must be at least 1",
        ),
        (
            ["expander", "--prompts", "x", "--reward", "motion", "--out", "x", "--copy-epochs", "0"],
            "copy_epochs must be",
        ),
        (
            ["expander", "--prompts", "x", "--reward", "motion", "--out", "x", "--method", "grpo", "--batch", "6"],
            "groups",
        ),
        (["motion-tower", "--out", "VIDEOS/t.safetensors", "--num-clips", "0"], "num_clips must be at least 1"),
        (["motion-tower", "--out", "VIDEOS/t.safetensors", "--noise", "2"], "noise in [0, 1]"),
        (["motion-tower", "--out", "VIDEOS"], "is a folder"),
        (["score", "VIDEOS", "--reward", "http://127.0.0.1:9"], "no reward server answers"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    videos: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert main(["reward", *[word.replace("VIDEOS", str(videos)) for word in words]]) == 2
    told = capsys.readouterr().err
    assert line in told and told.count("\n") == 1


def test_videos_of_two_sizes_are_named(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videoset.Writer(videos).append(np.zeros((3, 3, 16, 16), dtype=np.float32), "small", id="odd")
    assert main(["reward", "score", str(videos), "--reward", "motion"]) == 2
    assert "odd.mp4 has 3 frames of 16x16" in capsys.readouterr().err


def test_a_project_of_a_store_teaches_by_its_own_votes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill_store(tmp_path)
    store = tmp_path / "votes.db"
    Store(store).add_project("other", ("overall",))
    for words in (["train"], ["vlm"]):
        options = [*words, "--store", str(store), "--out", str(tmp_path / "reward"), "--project", "other"]
        assert main(["reward", *options]) == 2
        assert "no vote to learn from among 0" in capsys.readouterr().err


def test_a_server_tells_the_free_port_that_it_took(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: ports.append(sockets[0].getsockname()[1]))
    assert main(["reward", "serve", "motion", "--port", "0"]) == 0
    assert ports[0] and f"http://127.0.0.1:{ports[0]}\n" in capsys.readouterr().out
