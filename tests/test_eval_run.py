"""An evaluation survives what a folder can hold, repeats nothing, and gives the same numbers in any order."""

import functools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import processes
import pytest
from toy_backbone import ToyBackbone

from base_model.world import dataset
from core import cli, stats, video, videoset
from core.errors import UserError
from eval import entries, result, run, select
from eval.result import SetFeatures

FAST = ("physics_pass_rate", "physics/inertia", "flicker", "clip_sim", "diversity", "fvd", "mmd")


@functools.cache
def true_set(seed: int, order: tuple[int, ...]) -> dict[str, bytes]:
    """Files of a set of true clips, two seeds a prompt, by their names."""
    clips = {index: dataset.make_clip(seed, index, style="descriptive") for index in range(max(order) + 1)}
    with tempfile.TemporaryDirectory() as folder:
        writer = videoset.Writer(folder)
        for index in order:
            prompt = clips[index // 2 * 2].prompt
            writer.append(clips[index].frames, prompt, id=f"v{index}", seed=index % 2, state=clips[index].state)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def write_set(folder: Path, count: int = 6, *, seed: int = 3, order: Sequence[int] = ()) -> Path:
    """`count` true clips; drawn and encoded once for all tests."""
    for name, content in true_set(seed, tuple(order) or tuple(range(count))).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def measure(folder: Path, metrics=FAST, **options) -> run.Results:
    options = {"backbone": ToyBackbone(), "num_controls": 0} | options
    return run.evaluate(folder, metrics, **options)


def test_results_hold_what_the_contract_says(tmp_path: Path) -> None:
    base, real = write_set(tmp_path / "base"), write_set(tmp_path / "real", seed=9)
    measure(base, ("all",), reference=real, num_controls=2)
    content = result.read_results(base)
    keys = {"value", "interval", "n", "unit", "higher_is_better", "version", "backbone", "backbone_sha256"}
    for name, entry in content["metrics"].items():
        assert keys | {"preprocessing", "reason"} <= entry.keys(), name
        assert (entry["value"] is None) == (entry["reason"] is not None), name
        if entry["interval"] is not None:
            assert entry["interval"][0] <= entry["value"] <= entry["interval"][1], name
    provenance = content["provenance"]
    assert provenance["num_videos"] == 6 and provenance["reference"] == str(real) and provenance["libraries"]
    assert "frozen" in content["controls"]["flicker"]["flagged"] and content["metrics"]["flicker"]["flagged"]
    assert set(content["controls"]["mmd[sandbox,dct]"]) == {
        "real",
        "frozen",
        "shuffled",
        "reversed",
        "noise",
        "blur",
        "flagged",
    }
    rows = result.read_samples(base)
    assert [row["id"] for row in rows] == [f"v{i}" for i in range(6)]
    assert all(row["flicker"] is not None and isinstance(row["reasons"], dict) for row in rows)
    assert all(row["physics/velocity"] is not None or row["reasons"]["physics/velocity"] for row in rows)


def test_numbers_do_not_depend_on_the_order_of_the_set(tmp_path: Path) -> None:
    real = write_set(tmp_path / "real", seed=9)
    one = measure(write_set(tmp_path / "one"), reference=real).metrics
    two = measure(write_set(tmp_path / "two", order=[5, 2, 0, 3, 1, 4]), reference=real).metrics
    for name in one:
        assert one[name]["value"] == pytest.approx(two[name]["value"], rel=1e-6, abs=1e-9), name
        assert one[name]["n"] == two[name]["n"]


def test_a_run_repeats_nothing_and_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, real = write_set(tmp_path / "base"), write_set(tmp_path / "real", seed=9)
    first, tower = measure(base, reference=real).metrics, ToyBackbone()
    samples = (base / "samples.jsonl").read_bytes()
    monkeypatch.setattr(video, "read", lambda path: pytest.fail(f"{path} was decoded again"))
    assert measure(base, reference=real, backbone=tower).metrics == first
    assert (base / "samples.jsonl").read_bytes() == samples and tower.num_encoded == 0


def test_each_video_is_decoded_once_for_all_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, count, read = write_set(tmp_path / "base"), [], video.read
    monkeypatch.setattr(video, "read", lambda path: (count.append(path), read(path))[1])
    measure(base, ("all",))
    assert len(count) == len(set(count)) == 6


def test_a_killed_run_resumes_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_set(tmp_path / "base")
    whole = measure(base, out=tmp_path / "whole").metrics
    seen, read = [], video.read

    def dies(path: Path) -> video.Video:
        seen.append(path)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(video, "read", dies)
    with pytest.raises(KeyboardInterrupt):
        measure(base, out=tmp_path / "out")
    with (tmp_path / "out" / "samples.jsonl").open("a") as file:
        file.write('{"id": "v3", "prom')  # killed while writing
    assert measure(base, out=tmp_path / "out").metrics == whole
    assert len(seen) == 4 + 3


def test_a_changed_video_prompt_or_backbone_is_measured_again(tmp_path: Path) -> None:
    base = write_set(tmp_path / "base")
    before = {row["id"]: row for row in result.read_samples(base)} if measure(base) else {}
    video.write(base / "videos" / "v0.mp4", np.zeros((17, 3, 64, 64), np.float32), 8.0)
    lines = (base / "manifest.jsonl").read_text().replace('"id": "v1"', '"id": "v1"', 1).splitlines()
    changed = json.loads(lines[1]) | {"prompt": "a blue square rests without moving"}
    (base / "manifest.jsonl").write_text("\n".join([lines[0], json.dumps(changed), *lines[2:]]) + "\n")
    measure(base)
    after = {row["id"]: row for row in result.read_samples(base)}
    assert after["v0"]["flicker"] == 1 and after["v0"]["physics_pass_rate"] == 0 < before["v0"]["physics_pass_rate"]
    assert after["v1"]["clip_sim[sandbox]"] != before["v1"]["clip_sim[sandbox]"]
    assert after["v2"] == before["v2"] | {
        "diversity": after["v2"]["diversity"],
        "diversity[sandbox]": after["v2"]["diversity[sandbox]"],
    }
    measure(base, backbone=ToyBackbone(seed=1))
    assert result.read_samples(base)[2]["clip_sim[sandbox]"] != after["v2"]["clip_sim[sandbox]"]


def test_one_corrupt_file_is_named_counted_and_fails_what_it_can_fail(tmp_path: Path) -> None:
    base, real = write_set(tmp_path / "base"), write_set(tmp_path / "real", seed=9)
    good = measure(base, reference=real, out=tmp_path / "good").metrics
    (base / "videos" / "v2.mp4").write_bytes(b"not a video")
    results = measure(base, reference=real)
    assert [failure["id"] for failure in results.failures] == ["v2"] and "v2.mp4" in results.failures[0]["error"]
    assert any("1 of 6" in warning for warning in results.warnings)
    assert results.metrics["physics_pass_rate"]["n"] == 6  # a failure is not a pass
    assert results.metrics["physics_pass_rate"]["value"] < good["physics_pass_rate"]["value"]
    assert results.metrics["flicker"]["n"] == 5 and results.metrics["flicker"]["num_failed"] == 1
    assert results.metrics["fvd[sandbox,dct]"]["n"] == 5


def test_a_broken_ground_truth_costs_what_needs_it_only(tmp_path: Path) -> None:
    base = write_set(tmp_path / "base", 3)
    (base / "state" / "v1.npz").write_bytes(b"junk")
    results = run.evaluate(base, ["physics/velocity", "flicker"])
    assert not results.failures and results.metrics["flicker"]["n"] == 3
    reasons = {row["id"]: row["reasons"].get("physics/velocity", "") for row in result.read_samples(base)}
    assert "v1.npz: not a readable .npz" in reasons["v1"] and "not a readable" not in reasons["v0"]


def test_odd_videos_survive_together(tmp_path: Path) -> None:
    writer = videoset.Writer(tmp_path / "odd")
    clip = dataset.make_clip(3, 0)
    writer.append(clip.frames, clip.prompt, id="whole")
    writer.append(clip.frames, clip.prompt, id="copy")
    writer.append(clip.frames[:1], clip.prompt, id="still")
    writer.append(clip.frames[:9], clip.prompt, id="short")
    writer.append(np.repeat(clip.frames, 2, axis=3)[:, :, :48], clip.prompt, id="wide")
    writer.append(clip.frames, "", id="unprompted")
    write_raw(tmp_path / "odd", "odd.mkv", video.to_uint8(clip.frames[:, :, :63, :61]), "rgb24", "bgr0")
    write_raw(tmp_path / "odd", "grey.mkv", video.to_uint8(clip.frames)[..., 0], "gray", "gray")
    alpha = np.concatenate([video.to_uint8(clip.frames), np.full((len(clip.frames), 64, 64, 1), 9, np.uint8)], axis=3)
    write_raw(tmp_path / "odd", "alpha.mkv", alpha, "rgba", "bgra")
    results = measure(tmp_path / "odd", ("all",))
    rows = {row["id"]: row for row in result.read_samples(tmp_path / "odd")}
    assert rows["still"]["flicker"] is None and "frame" in rows["still"]["reasons"]["flicker"]
    assert "128x48" in rows["wide"]["reasons"]["physics/inertia"]
    assert rows["unprompted"]["clip_sim[sandbox]"] is None and rows["unprompted"]["flicker"] is not None
    assert any("copies" in warning for warning in results.warnings)
    assert any("no prompt" in warning for warning in results.warnings)
    assert all(rows[name]["flicker"] is not None for name in ("odd", "grey", "alpha"))
    assert "61x63" in rows["odd"]["reasons"]["physics/inertia"] and rows["grey"]["physics_pass_rate"] == 0.0
    assert rows["alpha"]["flicker"] == pytest.approx(rows["whole"]["flicker"], abs=0.01)
    assert results.metrics["flicker"]["n"] == 8


def write_raw(folder: Path, name: str, frames: np.ndarray, layout: str, stored: str) -> None:
    """A lossless video of pixels as they are, 12 frames a second, entered in the manifest under its stem."""
    with av.open(str(folder / "videos" / name), "w") as container:
        stream = container.add_stream("ffv1", rate=12)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], stored
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=layout)))
        container.mux(stream.encode())
    line = {"id": name.partition(".")[0], "video": f"videos/{name}", "prompt": dataset.make_clip(3, 0).prompt}
    with (folder / "manifest.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def test_a_share_that_every_video_has_is_not_called_certain() -> None:
    rows = [{"id": str(i), "prompt": f"p{i // 2}", "physics_pass_rate": 1.0, "reasons": {}} for i in range(24)]
    rows[0]["physics_pass_rate"] = None  # its prompt has another
    entry = entries.video_entry(select.metric("physics_pass_rate"), rows, None, 0)
    low, high = entry["interval"]
    assert low == pytest.approx(stats.wilson(12, 0, 12).low) and high == 1 == entry["value"] and entry["n"] == 23


def test_the_interval_of_a_distance_stays_where_distances_are() -> None:
    draw = np.random.default_rng(0)
    vectors = SetFeatures(tuple("abcdef"), draw.standard_normal((6, 3)) ** 3, draw.standard_normal((6, 3)))
    names = dict(zip("abcdef", "abcdef", strict=True))
    (low, high), value = (
        entries.set_entry(select.metric("fvd[sandbox,dct]"), vectors, names, None)[key] for key in ("interval", "value")
    )
    assert low == 0 < value < high


def test_one_video_gives_numbers_without_intervals(tmp_path: Path) -> None:
    metrics = measure(write_set(tmp_path / "one", 1), reference=write_set(tmp_path / "real", 2)).metrics
    assert metrics["flicker"]["value"] is not None and metrics["flicker"]["interval"] is None
    assert metrics["fvd[sandbox,dct]"]["value"] is None and "1 video and" in metrics["fvd[sandbox,dct]"]["reason"]


def test_what_cannot_run_says_why(tmp_path: Path) -> None:
    metrics = measure(write_set(tmp_path / "base"), backbone=str(tmp_path / "nowhere")).metrics
    assert "nowhere" in metrics["clip_sim[sandbox]"]["reason"] and metrics["flicker"]["value"] is not None
    metrics = measure(tmp_path / "base").metrics
    assert "--reference" in metrics["mmd[sandbox,dct]"]["reason"]


def test_a_shared_cache_never_serves_another_set_or_backbone(tmp_path: Path) -> None:
    one, two = write_set(tmp_path / "one"), write_set(tmp_path / "two", seed=4)
    alone = measure(two, out=tmp_path / "alone").metrics
    measure(one, cache=tmp_path / "cache")
    measure(two, cache=tmp_path / "cache", backbone=ToyBackbone(seed=5), out=tmp_path / "other")
    assert measure(two, cache=tmp_path / "cache").metrics == alone
    for path in (tmp_path / "cache").glob("*.npz"):
        path.write_bytes(b"damaged")
    assert measure(two, cache=tmp_path / "cache", out=tmp_path / "again").metrics == alone


def test_the_set_of_real_clips_is_close_to_itself_and_far_from_noise(tmp_path: Path) -> None:
    real, other = write_set(tmp_path / "real", 12), write_set(tmp_path / "other", 12, seed=8)
    writer, rng = videoset.Writer(tmp_path / "noise"), np.random.default_rng(0)
    for index in range(12):
        writer.append(rng.random((17, 3, 64, 64), dtype=np.float32), f"prompt {index}", id=f"n{index}")
    near = measure(other, ("fvd", "mmd"), reference=real).metrics
    far = measure(tmp_path / "noise", ("fvd", "mmd"), reference=real).metrics
    assert far["fvd[sandbox,dct]"]["value"] > near["fvd[sandbox,dct]"]["value"]
    assert far["mmd[sandbox,dct]"]["value"] > 3 * abs(near["mmd[sandbox,dct]"]["value"])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_set(tmp_path / "base", 2)
    words = ["eval", str(base), "--metrics", "flicker,motion,attributes", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert "flicker" in capsys.readouterr().out and (tmp_path / "out" / "results.json").exists()
    assert cli.main(["eval", str(base), "--metrics", "fliker"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert cli.main(["eval", str(tmp_path / "none")]) == 2
    (tmp_path / "empty").mkdir()
    assert cli.main(["eval", str(tmp_path / "empty")]) == 2
    assert "holds no video" in capsys.readouterr().err
    for word in ("--out", "--cache"):
        assert cli.main(["eval", str(base), "--metrics", "flicker", word, str(base / "manifest.jsonl")]) == 2
        assert "is a file; give a folder" in capsys.readouterr().err
    (base / "videos" / "v1.mp4").write_bytes(b"")
    assert cli.main([*words, "--strict", "--metrics", "flicker,motion,diversity"]) == 2
    told = capsys.readouterr()
    assert "1 of the videos failed (v1)" in told.err
    assert f"failed: {base / 'videos' / 'v1.mp4'}: not a readable video" in told.out
    assert (
        "diversity, diversity[sandbox]: no other video of the prompt has its size" in told.out
    )  # whatever the width of the terminal


def test_an_unknown_metric_writes_nothing(tmp_path: Path) -> None:
    base = write_set(tmp_path / "base", 1)
    with pytest.raises(UserError):
        measure(base, ("fvdd",), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paired_metrics_see_the_real_video_of_the_same_prompt_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_set(tmp_path / "base")
    real = write_set(tmp_path / "real")  # the same prompts and seeds
    count, read = [], video.read
    monkeypatch.setattr(video, "read", lambda path: (count.append(Path(path)), read(path))[1])
    metrics = measure(base, ("physics_iq", "fvd"), reference=real, cache=tmp_path / "cache").metrics
    assert metrics["physics_iq/mse"]["value"] == 0 and metrics["physics_iq/spatial"]["value"] == 1
    assert len(count) == 12  # each video and its partner once; the features of the real ones were taken along
    video.write(real / "videos" / "v0.mp4", np.zeros((17, 3, 64, 64), np.float32), 8.0)
    changed = measure(base, ("physics_iq",), reference=real, cache=tmp_path / "cache").metrics
    assert changed["physics_iq/mse"]["value"] > 0 and len(count) == 14  # only the pair that changed


def test_named_weights_that_are_not_there_give_a_row_that_says_so(tmp_path: Path) -> None:
    base, real = write_set(tmp_path / "base", 3), write_set(tmp_path / "real", 3, seed=9)
    wanted = ("fvd[i3d,16f,224,bilinear]", "vbench/dynamic_degree", "clip_sim[open_clip]", "flicker")
    metrics = measure(base, wanted, reference=real, weights={"i3d": str(tmp_path / "none.pt")}).metrics
    assert "none.pt" in metrics["fvd[i3d,16f,224,bilinear]"]["reason"]
    assert "--weights raft=" in metrics["vbench/dynamic_degree"]["reason"]
    assert "--weights open_clip=" in metrics["clip_sim[open_clip]"]["reason"] and metrics["flicker"]["value"]


def test_videos_too_short_for_a_backbone_are_counted_not_hidden(tmp_path: Path) -> None:
    tower = ToyBackbone()
    tower.min_frames = 12
    writer = videoset.Writer(tmp_path / "mixed")
    for index in range(6):
        clip = dataset.make_clip(3, index)
        writer.append(clip.frames[: 8 if index == 2 else 17], clip.prompt, id=f"v{index}")
    real = write_set(tmp_path / "real", seed=9)
    metrics = measure(tmp_path / "mixed", reference=real, backbone=tower).metrics
    assert (
        metrics["mmd[sandbox,dct]"]["n"] == 5
        and "1 of 6 videos without features" in metrics["mmd[sandbox,dct]"]["warning"]
    )
    rows = {row["id"]: row for row in result.read_samples(tmp_path / "mixed")}
    assert "needs 12 frames" in rows["v2"]["reasons"]["clip_sim[sandbox]"]


def test_features_that_are_no_numbers_cost_their_own_video_only(tmp_path: Path) -> None:
    class Faulty(ToyBackbone):
        calls = 0

        def encode_frames(self, frames: np.ndarray) -> np.ndarray:
            self.calls += 1
            return super().encode_frames(frames) * (np.nan if self.calls == 3 else 1.0)

    base, real = write_set(tmp_path / "base"), write_set(tmp_path / "real", seed=9)
    metrics = measure(base, reference=real, backbone=Faulty()).metrics
    assert metrics["clip_sim[sandbox]"]["n"] == metrics["mmd[sandbox,dct]"]["n"] == 5
    assert (
        metrics["mmd[sandbox,dct]"]["value"] is not None
        and "without features" in metrics["mmd[sandbox,dct]"]["warning"]
    )
    assert "finite" in result.read_samples(base)[2]["reasons"]["clip_sim[sandbox]"]


def test_copies_are_found_by_their_features_too(tmp_path: Path) -> None:
    base, real = write_set(tmp_path / "base"), write_set(tmp_path / "real", seed=9)
    video.write(base / "videos" / "v1.mp4", video.read(base / "videos" / "v0.mp4").frames, 12.0)  # other bytes
    metrics = measure(base, ("mmd",), reference=real).metrics
    assert metrics["mmd[sandbox,dct]"]["warning"].startswith("1 of 6 videos have the features of another")


def test_tracks_are_left_for_drawing_and_survive_a_resumed_run(tmp_path: Path) -> None:
    base = write_set(tmp_path / "base", 3)
    measure(base)
    first = (base / "tracks.jsonl").read_text()
    (base / "tracks.jsonl").unlink()
    measure(base)
    assert (base / "tracks.jsonl").read_text() == first
    rows = [json.loads(line) for line in first.splitlines()]
    assert [row["id"] for row in rows] == ["v0", "v1", "v2"] and rows[0]["width"] == 64
    positions = rows[0]["objects"][0]["position"]
    assert len(positions) == 17 and any(place is not None for place in positions)


SHARD = """
import sys
from pathlib import Path
from processes import leave
from toy_backbone import ToyBackbone
from eval import run
run.evaluate(sys.argv[1], sys.argv[4].split(";"), sys.argv[2], sys.argv[3], backbone=ToyBackbone(), num_controls=2)
leave()
"""


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    base, real = write_set(tmp_path / "base", 7), write_set(tmp_path / "real", seed=9)
    (base / "videos" / "v3.mp4").write_bytes(b"broken")
    wanted = (*FAST, "warping_error", "retrieval", "physics_iq")
    one = measure(base, wanted, out=tmp_path / "one", reference=real, num_controls=2)
    (tmp_path / "shard.py").write_text(SHARD)
    processes.run(processes.TORCHRUN, tmp_path / "shard.py", base, tmp_path / "two", real, ";".join(wanted))
    two = result.read_results(tmp_path / "two")
    assert two["metrics"] == one.metrics and two["controls"] == one.controls and two["failures"] == one.failures
    assert two["provenance"]["num_processes"] == 2
    assert (tmp_path / "two" / "samples.jsonl").read_bytes() == (tmp_path / "one" / "samples.jsonl").read_bytes()
    assert not list((tmp_path / "two").glob("samples-*.jsonl"))


def test_shards_of_a_killed_run_are_taken_up_by_whoever_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_set(tmp_path / "base")
    whole = measure(base, out=tmp_path / "whole").metrics
    (tmp_path / "out").mkdir()
    lines = (tmp_path / "whole" / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "samples-0.jsonl").write_text("".join(lines[::2]))
    (tmp_path / "out" / "samples-1.jsonl").write_text(lines[1] + '{"id": "v')
    count, read = [], video.read
    monkeypatch.setattr(video, "read", lambda path: (count.append(path), read(path))[1])
    again = measure(base, out=tmp_path / "out", cache=tmp_path / "whole" / "features").metrics
    assert again == whole and len(count) == 2 and not list((tmp_path / "out").glob("samples-*.jsonl"))


def test_groups_of_a_suite_get_means_of_their_own(tmp_path: Path) -> None:
    base = write_set(tmp_path / "base")
    prompts = list(dict.fromkeys(item.prompt for item in videoset.read(base)))
    groups = {prompts[0]: ("easy", "all"), prompts[1]: ("all",)}
    measured = measure(base, ("flicker",), groups=groups).metrics["flicker"]["groups"]
    rows = result.read_samples(base)
    assert measured["easy"]["n"] == 2 and measured["all"]["n"] == 4
    assert measured["easy"]["value"] == pytest.approx(np.mean([row["flicker"] for row in rows[:2]]))
