import json

import numpy as np
import pytest

from core import snapshot, video, videoset
from core.errors import UserError


def test_what_the_writer_appends_is_read_back(clip, tmp_path):
    writer = videoset.Writer(tmp_path / "set")
    written = [
        writer.append(clip, 'a "red" ball — größer', id="v0", seed=3, model="sandbox", lora="run/lora", fps=8.0),
        writer.append(clip, "", id="v1", state={"position": np.ones((9, 1, 2)), "colour": np.array(["red"])}),
    ]
    items = videoset.read(tmp_path / "set")
    assert items == written
    assert items[0].prompt == 'a "red" ball — größer' and items[0].seed == 3 and items[0].state is None
    state = videoset.load_state(items[1])
    assert state["position"].shape == (9, 1, 2) and state["colour"].tolist() == ["red"]
    assert videoset.load_state(items[0]) == {}


def test_a_killed_writer_is_reopened_where_it_stopped(clip, tmp_path):
    videoset.Writer(tmp_path).append(clip, "p", id="v0")
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('{"id": "v1", "video": "vid')  # killed in the middle of a line
    assert [item.id for item in videoset.read(tmp_path)] == ["v0"]
    again = videoset.Writer(tmp_path)
    assert [item.id for item in again.items] == ["v0"]
    again.append(clip, "p", id="v1")
    assert [item.id for item in videoset.read(tmp_path)] == ["v0", "v1"]


def test_a_failing_append_writes_no_line(clip, tmp_path):
    writer = videoset.Writer(tmp_path)
    with pytest.raises(UserError, match="even"):
        writer.append(clip[:, :, :31], "p", id="v0")
    assert writer.items == [] and not (tmp_path / "manifest.jsonl").exists()


@pytest.mark.parametrize("id", ["../v", "", "a b", ".hidden", "a/b"])
def test_ids_that_cannot_name_a_file_are_refused(clip, tmp_path, id):
    with pytest.raises(UserError, match="id"):
        videoset.Writer(tmp_path).append(clip, "p", id=id)


def test_an_id_is_used_once(clip, tmp_path):
    writer = videoset.Writer(tmp_path)
    writer.append(clip, "p", id="v0")
    with pytest.raises(UserError, match="already"):
        writer.append(clip, "p", id="v0")


def test_a_folder_without_manifest_takes_prompts_from_text_files(clip, tmp_path):
    for name in ("b", "a"):
        video.write(tmp_path / f"{name}.mp4", clip, 8.0)
    (tmp_path / "a.txt").write_text("a red ball\n")
    (tmp_path / "notes.md").write_text("not a video")
    assert [(item.id, item.prompt) for item in videoset.read(tmp_path)] == [("a", "a red ball"), ("b", "")]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ({"video": "videos/v0.mp4"}, "prompt"),
        ({"prompt": "p"}, "video"),
        ({"video": "gone.mp4", "prompt": "p"}, "missing"),
        ({"video": "../outside.mp4", "prompt": "p"}, "outside"),
        ({"video": "/etc/passwd", "prompt": "p"}, "outside"),
        ({"video": "videos/v0.mp4", "prompt": "p", "seed": "x"}, "seed"),
        ({"video": "videos/v0.mp4", "prompt": "p", "seed": 2**70}, "64 bits"),
        ({"video": "videos/v0.mp4", "prompt": "p", "fps": 0}, "fps"),
        ({"video": "videos/v0.mp4", "prompt": "p", "fps": float("inf")}, "fps"),
        ({"video": "videos/v0.mp4", "prompt": "p", "seed": True}, "seed"),
        ({"video": "videos/v0.mp4", "prompt": "p", "model": {"name": "m"}}, "'model' must be text or left out"),
        ({"video": "videos/v0.mp4", "prompt": "p", "state": 5}, "'state' must be text or left out"),
        ({"video": "videos/v0.mp4", "prompt": "half a letter: \ud800"}, "'prompt' must be text"),
        ({"video": "videos/v0.mp4", "prompt": "p", "id": ["v1"]}, "'id' must be text or an integer"),
        ({"video": "videos/v0.mp4", "prompt": "p", "id": "v0"}, "twice"),
        (["list"], "object"),
    ],
)
def test_a_bad_manifest_line_is_named(clip, tmp_path, line, word):
    (tmp_path / "outside.mp4").touch()
    videoset.Writer(tmp_path / "set").append(clip, "p", id="v0")
    with (tmp_path / "set/manifest.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=word):
        videoset.read(tmp_path / "set")


def test_an_id_may_be_any_number(clip, tmp_path):
    video.write(tmp_path / "a.mp4", clip, 8.0)
    rows = [{"video": "a.mp4", "prompt": "p", "id": number} for number in (0, 1)] + [{"video": "a.mp4", "prompt": "p"}]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [item.id for item in videoset.read(tmp_path)] == ["0", "1", "a"]


def test_broken_json_before_the_last_line_is_an_error_not_a_gap(clip, tmp_path):
    videoset.Writer(tmp_path).append(clip, "p", id="v0")
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("{broken\n" + manifest.read_text())
    with pytest.raises(UserError, match="manifest.jsonl:1"):
        videoset.read(tmp_path)


@pytest.mark.parametrize("folder", [".", "..", "../set"])
def test_a_manifest_cannot_name_files_outside_however_its_folder_is_named(clip, tmp_path, monkeypatch, folder):
    (tmp_path / "set" / "inner").mkdir(parents=True)
    inside = tmp_path / "set" / ("inner" if folder == ".." else ".")
    monkeypatch.chdir(inside)
    video.write(tmp_path / "secret.mp4", clip, 8.0)
    (tmp_path / "set" / "manifest.jsonl").write_text('{"video": "../secret.mp4", "prompt": "p"}\n')
    with pytest.raises(UserError, match="outside the video set"):
        videoset.read(folder)


def test_captions_beside_videos_may_be_of_windows_but_not_of_another_encoding(clip, tmp_path):
    video.write(tmp_path / "a.mp4", clip, 8.0)
    (tmp_path / "a.txt").write_bytes("\ufeffein größerer Ball\r\n".encode())
    assert videoset.read(tmp_path)[0].prompt == "ein größerer Ball"
    (tmp_path / "a.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8"):
        videoset.read(tmp_path)


def test_a_set_has_one_version_however_its_folder_is_named(clip, tmp_path):
    (tmp_path / "other").mkdir()
    videoset.Writer(tmp_path / "set").append(clip, "p", id="v0")
    assert snapshot.take(tmp_path / "other" / ".." / "set") == snapshot.take(tmp_path / "set")


def test_empty_and_missing_folders_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no video"):
        videoset.read(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        videoset.read(tmp_path / "missing")
