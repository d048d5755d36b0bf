"""Own clips as training data: native sizes, order and resume, broken files, versions, LoRA on them."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from base_model.dit.pack import fill
from base_model.large import launch
from base_model.native import nano
from base_model.pretrain import PretrainConfig, clips, pretrain
from base_model.pretrain.crops import OwnCrops
from base_model.pretrain.reading import Ahead, Piece, Plan, Rejects, on_grid, pieces, read_piece, within
from base_model.tasks import random_mask
from core import snapshot, video, videoset
from core.cli import main
from core.errors import UserError
from core.randomness import torch_generator
from core.run import read_metrics

WEIGHTS = "diffusion_pytorch_model.safetensors"
SIZES = [(5, 32, 32), (9, 16, 48), (1, 32, 16), (7, 30, 34), (12, 16, 16)]


def _write(path: Path, size: tuple[int, int, int], seed: int) -> None:
    frames = np.random.default_rng(seed).random((size[0], 3, *size[1:])).astype(np.float32)
    video.write(path, frames, 8.0)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "set"
    folder.mkdir()
    for index, size in enumerate(SIZES):
        _write(folder / f"clip{index}.mp4", size, index)
        (folder / f"clip{index}.txt").write_text(f"clip number {index}\n")
    return folder


@pytest.fixture
def own(original: Path, tmp_path: Path) -> Path:
    """A set without a manifest: mp4s of five sizes, captions beside them."""
    return shutil.copytree(original, tmp_path / "set")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    model = nano()
    model.vae.save_pretrained(folder / "codec")
    model.clip.save_pretrained(folder / "clip")
    model.transformer.save_pretrained(folder / "transformer")
    return folder


def _config(parts: Path, own: Path, **changes: object) -> PretrainConfig:
    config = PretrainConfig(
        part="transformer",
        steps=4,
        warmup=1,
        batch=2,
        save_every=2,
        codec=str(parts / "codec"),
        clip=str(parts / "clip"),
        start=str(parts / "transformer"),
        videos=str(own),
        token_budget=64,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_long_video_is_cut_into_pieces_and_none_is_lost(own: Path) -> None:
    rejects = Rejects(5, 0.0)
    found = pieces(videoset.read(own), 5, rejects)
    assert [(p.item.id, p.start, p.num_frames) for p in found if p.item.id in ("clip1", "clip4")] == [
        ("clip1", 0, 5),
        ("clip1", 5, 4),
        ("clip4", 0, 5),
        ("clip4", 5, 5),
        ("clip4", 10, 2),
    ]
    whole = video.read(own / "clip4.mp4").frames
    assert np.array_equal(read_piece(found[-2], 4, 16), whole[5:10])
    last = read_piece(found[-1], 4, 16)
    assert last.shape == (5, 3, 16, 16) and np.array_equal(last[:2], whole[10:])
    assert all(np.array_equal(frame, whole[11]) for frame in last[2:])


def test_frames_are_sampled_evenly_over_the_whole_clip(own: Path) -> None:
    found = [p for p in pieces(videoset.read(own), 3, Rejects(5, 0.0), stride=2) if p.item.id in ("clip1", "clip4")]
    assert [(p.start, p.num_frames) for p in found] == [(0, 3), (6, 2), (0, 3), (6, 3)]  # of 9 and of 12 frames
    for name, sampled in (("clip1", 5), ("clip4", 6)):
        frames = np.concatenate([read_piece(p, 1, 16) for p in found if p.item.id == name])
        whole = video.read(own / f"{name}.mp4").frames
        assert len(frames) == sampled and np.array_equal(frames, whole[::2])


def test_what_is_off_the_grid_is_continued_never_cropped(own: Path) -> None:
    item = next(item for item in videoset.read(own) if item.id == "clip3")
    frames = read_piece(Piece(item, 0, 7, 30, 34), 4, 16)
    whole = video.read(item.video).frames
    assert frames.shape == (9, 3, 32, 48) and np.array_equal(frames[:7, :, :30, :34], whole)
    assert np.array_equal(frames[:7, :, :30, 47], whole[..., 33]) and np.array_equal(frames[8], frames[6])
    assert on_grid(1, 1, 1, 4, 16) == (1, 16, 16) and on_grid(17, 64, 65, 4, 16) == (17, 64, 80)


def test_frames_larger_than_asked_for_are_scaled_down_and_keep_their_aspect(own: Path) -> None:
    assert [within(*sides) for sides in ((1080, 1920, 256), (90, 40, 256), (100, 3, 10), (7, 9, 0))] == [
        (144, 256),
        (90, 40),
        (10, 1),
        (7, 9),
    ]
    _write(own / "wide.mp4", (5, 64, 96), 0)
    (piece,) = (one for one in pieces(videoset.read(own), 65, Rejects(6, 0.0), 48) if one.item.id == "wide")
    assert (piece.height, piece.width) == (32, 48)
    small = read_piece(piece, 4, 16)
    whole = video.read(own / "wide.mp4").frames
    assert small.shape == (5, 3, 32, 48) and abs(small.mean() - whole.mean()) < 2e-3
    assert small.std() < 0.8 * whole.std()  # noise is averaged, not picked from


def test_steps_are_read_ahead_in_other_threads_and_come_in_order() -> None:
    names: dict[int, str] = {}

    def load(step: int) -> int:
        names[step] = threading.current_thread().name
        return step * step

    ahead = Ahead(load, workers=2, ahead=3)
    assert [ahead[step] for step in range(5, 9)] == [25, 36, 49, 64]
    ahead.close()
    assert set(names) >= {5, 6, 7, 8, 9, 10} and min(names) == 5
    third_of_three = Ahead(load, workers=1, ahead=2, stride=3)
    assert [third_of_three[number] for number in (102, 105)] == [102**2, 105**2]
    third_of_three.close()
    assert set(names) & set(range(100, 120)) <= {102, 105, 108}
    assert all(name.startswith("clips") for name in names.values())


@pytest.mark.parametrize("budget", [0, 100])
def test_every_piece_comes_once_an_epoch_and_each_step_alone_is_known(budget: int) -> None:
    shapes = [(4, 1, 2, 2 * (1 + i % 3)) for i in range(20)]
    lengths = [10 + i for i in range(20)]
    options = {"seed": 3, "budget": budget, "batch": 4}
    plan = Plan(shapes, lengths, **options)
    steps = [plan.at(step) for step in range(60)]
    seen: list[int] = []
    ends = []
    for number, chosen in enumerate(steps):
        seen += chosen
        if len(seen) % 20 == 0 and sorted(seen[-20:]) == list(range(20)):
            ends.append(number)
    assert len(ends) >= 3 and steps[: ends[0] + 1] != steps[ends[0] + 1 : ends[1] + 1]
    assert Plan(shapes, lengths, **options).at(41) == steps[41]
    if budget:
        assert all(sum(lengths[i] for i in chosen) <= budget for chosen in steps)
    else:
        assert all(len({shapes[i] for i in chosen}) == 1 and len(chosen) <= 4 for chosen in steps)


def test_a_given_order_decides_who_is_packed_together() -> None:
    assert fill([6, 3, 4, 7], 10, [0, 1, 2, 3]) == [[0, 1], [2], [3]]
    assert fill([6, 3, 4, 7], 10) == [[3, 1], [0, 2]]


# --- broken files -----------------------------------------------------------------------------------------------------


def _break(own: Path, name: str) -> None:
    path = own / name
    path.write_bytes(path.read_bytes()[:200])


def test_a_broken_video_is_named_counted_and_skipped(
    own: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _break(own, "clip2.mp4")
    run = pretrain(_config(parts, own, max_bad=0.2), tmp_path / "run")
    assert capsys.readouterr().err.count("skipped: ") == 1
    facts = json.loads((run.folder / "transformer" / "provenance.json").read_text())
    assert facts["skipped"] == ["clip2"] and facts["num_videos"] == 5


def test_too_many_broken_videos_stop_the_run(own: Path, parts: Path, tmp_path: Path) -> None:
    _break(own, "clip2.mp4")
    _break(own, "clip0.mp4")
    with pytest.raises(UserError, match=r"2 of 5 videos cannot be read \(clip0, clip2\), more than max_bad 0.3"):
        pretrain(_config(parts, own, max_bad=0.3), tmp_path / "run")


def test_a_video_that_breaks_while_training_is_left_out_of_its_step(own: Path, parts: Path) -> None:
    part = clips.ClipsPart(_config(parts, own, max_bad=0.9), launch())
    for index in range(5):
        _break(own, f"clip{index}.mp4")
    with pytest.raises(UserError, match="5 of 5 videos"):
        for step in range(9):
            assert float(part.loss(step, step).detach()) == 0.0
    part.batches.close()


# --- training ---------------------------------------------------------------------------------------------------------


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "transformer").glob("*.safetensors")))


@pytest.mark.parametrize("change", [{"token_budget": 64, "drop_tokens": 0.3}, {"token_budget": 0}, {"lora_rank": 2}])
def test_a_stopped_run_on_own_clips_ends_as_an_unbroken_one(
    own: Path, parts: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    config = _config(parts, own, learning_rate=1e-2, **change)
    whole = pretrain(config, tmp_path / "whole")
    broken = pretrain(config, tmp_path / "broken")
    shutil.rmtree(broken.folder / "transformer")
    shutil.rmtree(broken.checkpoints()[-1])
    broken = pretrain(config, tmp_path / "broken")
    first, second = _weights(whole.folder), _weights(broken.folder)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    facts = json.loads((whole.latest() / "provenance.json").read_text())  # type: ignore[operator]
    assert facts["data"] == snapshot.take(own).hash
    plan = clips.ClipsPart(config, launch()).plan
    assert read_metrics(broken.folder)[-1]["samples"] == sum(len(plan.at(draw)) for draw in range(4))
    if "lora_rank" in change:
        assert all("lora_" in name for name in first) and any(value.any() for n, value in first.items() if "_B" in n)
        model = nano()
        from base_model import lora

        lora.load(model.policy_module(), whole.folder / "transformer")
    else:
        start = load_file(parts / "transformer" / "diffusion_pytorch_model.safetensors")
        assert any(not torch.equal(first[name], start[name].half()) for name in start)


@pytest.mark.parametrize("budget", [1000, 0])
def test_the_loss_is_the_error_of_each_clip_alone_where_nothing_is_given(own: Path, parts: Path, budget: int) -> None:
    config = _config(
        parts, own, token_budget=budget, caption_dropout_given=0.0, caption_dropout=0.0, given=1.0, shift=1.0
    )
    part = clips.ClipsPart(config, launch())
    part.network.patch_out.weight.data.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, operator]
    latents, (text, mask, pooled) = part._load(0)
    if budget:
        shapes = [(4, 1, 4, 2), (4, 2, 4, 4), (4, 3, 2, 6), (4, 3, 4, 6), (4, 4, 2, 2)]
        assert sorted(tuple(x.shape) for x in latents) == shapes and len(text) == 6
    rng = torch_generator(config.seed, "clips step", 0)
    sigma = torch.sigmoid(torch.randn(len(latents), generator=rng))
    torch.rand(2, len(latents), generator=rng)  # who is silent, who is told
    total, num = 0.0, 0
    for index, clean in enumerate(latents):
        noise = torch.randn(clean.shape, generator=rng)
        known = torch.zeros(clean.shape[1:], dtype=torch.bool)
        if clean.shape[1] > 1:
            known = random_mask(clean.shape[1:], 2, rng)  # type: ignore[arg-type]
        noisy = torch.where(known, clean, (1 - sigma[index]) * clean + sigma[index] * noise)
        row = (noisy[None], sigma[index, None], text[index, None], mask[index, None], pooled[index, None])
        with torch.no_grad():
            error = (part.network(*row, known[None])[0] - (noise - clean)).square()
        total, num = total + float((error * ~known).sum()), num + 4 * int((~known).sum())
    assert float(part.loss(0, 0).detach()) == pytest.approx(total / num, rel=1e-4)
    part.batches.close()


# --- the codec --------------------------------------------------------------------------------------------------------


def test_crops_are_of_the_clips_and_a_short_one_is_held(own: Path, parts: Path) -> None:
    for path in own.iterdir():
        if not path.name.startswith("clip0"):
            path.unlink()
    crops = OwnCrops(_config(parts, own, part="codec"), launch())
    made = crops.some(5, np.random.default_rng(0))
    whole = torch.from_numpy(video.read(own / "clip0.mp4").frames) * 2 - 1  # 5 frames of the crops' own size
    assert made.shape == (5, 17, 3, 32, 32)
    for crop in made:
        assert torch.equal(crop[:5], whole) and all(torch.equal(frame, whole[4]) for frame in crop[5:])
    crops.close()


def test_a_codec_goes_on_on_own_clips_and_a_stopped_run_ends_as_an_unbroken_one(
    own: Path, parts: Path, tmp_path: Path
) -> None:
    config = _config(parts, own, part="codec", start=str(parts / "codec"), batch=4)
    whole, broken = (pretrain(config, tmp_path / name) for name in ("whole", "broken"))
    shutil.rmtree(broken.folder / "codec")
    shutil.rmtree(broken.checkpoints()[-1])
    broken = pretrain(config, tmp_path / "broken")
    first, second = (load_file(run.folder / "codec" / WEIGHTS) for run in (whole, broken))
    before = load_file(parts / "codec" / WEIGHTS)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], before[name].half()) for name in first)
    facts = json.loads((whole.latest() / "provenance.json").read_text())  # type: ignore[operator]
    assert facts["data"] == snapshot.take(own).hash


# --- what a newcomer is told ------------------------------------------------------------------------------------------


def test_missing_captions_and_what_is_cut_off_of_long_ones_are_said() -> None:
    words = ["one", "two", "three", "four"] * 12
    prompts = {"a": "", "b": " ".join(words), "c": "a red ball", "d": ""}
    items = [videoset.VideoItem(name, Path(f"{name}.mp4"), prompt) for name, prompt in prompts.items()]
    silent, cut = clips.remarks([*items, items[0]], nano().clip)  # a video in two pieces counts once
    assert silent.startswith("2 of 4 videos have no caption (a, d)")
    assert (
        cut == f"1 of 4 captions are longer than the 38 tokens that are read; cut off of 'b': '{' '.join(words[38:])}'"
    )
    assert clips.remarks(items[2:3], nano().clip) == []


def test_a_codec_that_cannot_show_the_clips_is_named(
    own: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = clips.ClipsPart(_config(parts, own), launch())
    assert "the codec brings these clips back with" in (told := capsys.readouterr().err)
    assert f"--part codec --start {parts / 'codec'} --videos {own}" in told
    part.codec = SimpleNamespace(encode=lambda x: x, decode=lambda x: 0.99 * x, t=4, s=8)  # type: ignore[assignment]
    assert part._fidelity() == []
    part.batches.close()


def test_a_budget_below_one_clip_names_the_clip(own: Path, parts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"token_budget is 8, but 'clip3' alone \(7 frames of 30x34\) has 18 tokens"):
        pretrain(_config(parts, own, token_budget=8), tmp_path / "run")


def test_a_run_does_not_go_on_with_another_set(own: Path, parts: Path, tmp_path: Path) -> None:
    config = _config(parts, own)
    pretrain(config, tmp_path / "run")
    (own / "clip0.txt").write_text("another caption")
    with pytest.raises(UserError, match="the videos changed since this run began .*soralign data diff"):
        pretrain(config, tmp_path / "run")
    assert main(["data", "diff", str(tmp_path / "run" / "data.json"), str(own)]) == 0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"lora_rank": 4, "start": ""}, "lora_rank needs part transformer, videos"),
        ({"drop_tokens": 0.5, "token_budget": 0}, "drop_tokens needs packing"),
        ({"max_frames": 0}, "max_frames is 0"),
        ({"largest_side": -1}, "largest_side is -1"),
        ({"part": "clip"}, "videos trains the transformer or the codec"),
        ({"compile": True}, "compile needs steps of one shape"),
        ({"start": "", "variant": "window"}, "only the shipped architecture packs clips"),
    ],
)
def test_recipes_for_clips_that_cannot_run_are_refused(
    own: Path, parts: Path, tmp_path: Path, change: dict[str, object], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        pretrain(_config(parts, own, **change), tmp_path / "run")


# --- versions ---------------------------------------------------------------------------------------------------------


def test_the_hash_covers_videos_captions_and_ids_but_not_the_folder(own: Path, tmp_path: Path) -> None:
    first = snapshot.take(own)
    assert snapshot.take(shutil.copytree(own, tmp_path / "copy")).hash == first.hash == snapshot.take(own).hash
    (own / "clip1.txt").write_text("other words")
    second = snapshot.take(own)
    _write(own / "clip1.mp4", SIZES[1], 77)
    third = snapshot.take(own)
    (own / "clip1.mp4").rename(own / "clip9.mp4")
    (own / "clip1.txt").rename(own / "clip9.txt")
    fourth = snapshot.take(own)
    assert len({first.hash, second.hash, third.hash, fourth.hash}) == 4
    assert snapshot.diff(first, second) == snapshot.Difference((), (), (), (), ("clip1",))
    assert snapshot.diff(second, third) == snapshot.Difference((), (), (), ("clip1",), ())
    assert snapshot.diff(third, fourth) == snapshot.Difference((), (), (("clip1", "clip9"),), (), ())
    assert not snapshot.diff(first, first)


def test_only_changed_files_are_hashed_again(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot.take(own)
    read: list[str] = []
    digest = video.sha256
    monkeypatch.setattr(video, "sha256", lambda path: read.append(path.name) or digest(path))
    _write(own / "clip2.mp4", SIZES[2], 50)
    snapshot.take(own)
    assert read == ["clip2.mp4"]


def test_the_commands_say_what_changed(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot.take(own).save(tmp_path / "before.json")
    (own / "clip0.mp4").unlink()
    _write(own / "new.mp4", (5, 16, 16), 9)
    (own / "clip1.txt").write_text("other words")
    _break(own, "clip4.mp4")
    assert main(["data", "diff", str(tmp_path / "before.json"), str(own)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines[1:3]] == [["added", "new"], ["removed", "clip0"]]
    assert lines[3:] == ["other video   clip4", "other caption clip1"]
    assert main(["data", "diff", str(own), str(own)]) == 0 and "no difference" in capsys.readouterr().out
    assert main(["data", "hash", str(own)]) == 0 and "5 videos" in capsys.readouterr().out
    assert main(["data", "check", str(own)]) == 2
    assert "clip4.mp4" in (told := capsys.readouterr()).out and "1 of 5 videos cannot be read" in told.err
    (own / "clip4.mp4").unlink()
    assert main(["data", "check", str(own)]) == 0 and "all 4 videos can be read" in capsys.readouterr().out
    (tmp_path / "before.json").write_text("[]")
    assert main(["data", "diff", str(tmp_path / "before.json"), str(own)]) == 2
    assert "neither a video set nor a saved snapshot" in capsys.readouterr().err
