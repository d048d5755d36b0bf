import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from core import video
from core.errors import UserError


def test_what_is_written_is_read_back_nearly_unchanged(clip, tmp_path):
    video.write(tmp_path / "a.mp4", clip, 8.0)
    back = video.read(tmp_path / "a.mp4")
    assert back.frames.dtype == np.float32 and back.frames.shape == clip.shape
    assert back.fps == 8.0
    # Chroma has half resolution, so the disc's rim is the whole error.
    assert 10 * np.log10(1 / np.mean((back.frames - clip) ** 2)) > 30
    assert np.abs(back.frames[:, :, 0, 0] - 0.9).max() < 2 / 255
    assert np.abs(back.frames[0, :, 16, 8] - [0.8, 0.2, 0.1]).max() < 4 / 255


def test_colours_have_no_bias_after_a_round_trip(tmp_path):
    colours = np.random.default_rng(0).random((24, 3, 1, 1), dtype=np.float32)
    video.write(tmp_path / "a.mp4", np.broadcast_to(colours, (24, 3, 16, 16)), 8.0)
    error = video.read(tmp_path / "a.mp4").frames.mean(axis=(2, 3)) - colours[:, :, 0, 0]
    assert abs(error.mean()) < 0.3 / 255


@pytest.mark.parametrize("fps", [8.0, 29.97, 24.0, 0.5])
def test_frame_rate_survives(clip, tmp_path, fps):
    video.write(tmp_path / "a.mp4", clip, fps)
    assert video.read(tmp_path / "a.mp4").fps == pytest.approx(fps, rel=1e-3)
    assert video.probe(tmp_path / "a.mp4").fps == pytest.approx(fps, rel=1e-3)


def test_probe_tells_what_a_browser_needs_to_know(clip, tmp_path):
    video.write(tmp_path / "a.mp4", clip, 8.0)
    info = video.probe(tmp_path / "a.mp4")
    assert (info.codec, info.pixel_format, info.width, info.height) == ("h264", "yuv420p", 48, 32)
    assert (info.num_frames, info.fps) == (9, 8.0)
    assert info.plays_in_browser


def test_the_same_frames_give_the_same_bytes(clip, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        video.write(tmp_path / name, clip, 8.0)
    assert video.sha256(tmp_path / "a.mp4") == video.sha256(tmp_path / "b.mp4")


def test_embedded_bytes_hold_the_same_frames(clip, tmp_path):
    (tmp_path / "a.mp4").write_bytes(video.encode_mp4_bytes(clip, 8.0))
    video.write(tmp_path / "b.mp4", clip, 8.0)
    np.testing.assert_array_equal(video.read(tmp_path / "a.mp4").frames, video.read(tmp_path / "b.mp4").frames)


def test_transcoding_makes_what_a_browser_plays(clip, tmp_path):
    with av.open(str(tmp_path / "old.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 48, 32, "yuv420p", 4_000_000
        for image in video.to_uint8(clip):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    assert not video.probe(tmp_path / "old.avi").plays_in_browser
    video.transcode(tmp_path / "old.avi", tmp_path / "new.mp4")
    assert video.probe(tmp_path / "new.mp4").plays_in_browser
    assert np.abs(video.read(tmp_path / "new.mp4").frames - clip).mean() < 0.02


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_video_that_a_phone_held_turned_stands_upright(clip, turned, tmp_path, degrees):
    video.write(tmp_path / "flat.mp4", clip, 8.0)
    flat, upright = tmp_path / "flat.mp4", turned(tmp_path / "flat.mp4", degrees)
    wanted = np.rot90(video.read(flat).frames, degrees // 90, axes=(2, 3))
    np.testing.assert_array_equal(video.read(upright).frames, wanted)
    assert (video.probe(upright).height, video.probe(upright).width) == wanted.shape[2:]
    assert video.probe(upright).num_frames == len(clip)
    small = np.rot90(video.read(flat, size=(16, 24)).frames, degrees // 90, axes=(2, 3))
    np.testing.assert_array_equal(video.read(upright, 2, 3, size=small.shape[2:]).frames, small[2:5])


def test_uint8_conversion_is_exact_both_ways():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(video.to_uint8(video.from_uint8(pixels)), pixels)
    assert video.from_uint8(pixels).shape == (1, 3, 16, 16)


def test_out_of_range_values_are_clipped_when_bytes_are_made():
    assert video.to_uint8(np.array([-1.0, 0.5, 2.0]).reshape(3, 1, 1)).ravel().tolist() == [0, 128, 255]


def test_signed_range_is_the_inverse_and_works_on_tensors():
    import torch

    frames = torch.rand(2, 3, 4, 4, requires_grad=True)
    assert torch.allclose(video.from_signed(video.to_signed(frames)), frames, atol=1e-6)
    assert video.to_signed(torch.tensor([0.0, 1.0])).tolist() == [-1.0, 1.0]
    video.from_signed(frames).sum().backward()
    assert frames.grad is not None and (frames.grad == 0.5).all()


def test_contact_sheet_has_a_row_per_clip_and_spans_its_time(clip, tmp_path):
    sheet = video.contact_sheet([clip, clip[::-1]], columns=3)
    assert sheet.shape == (2 * 34, 3 * 50, 3)
    np.testing.assert_array_equal(sheet[1:33, 1:49], video.to_uint8(clip)[0])
    np.testing.assert_array_equal(sheet[1:33, 101:149], video.to_uint8(clip)[-1])
    video.write_png(tmp_path / "a.png", sheet)
    np.testing.assert_array_equal(video.to_uint8(video.read(tmp_path / "a.png").frames)[0], sheet)


@pytest.mark.parametrize("fps", [24.0, 29.97])
def test_frames_far_into_a_file_are_those_of_the_whole_without_decoding_what_lies_before(tmp_path, fps):
    frames = np.random.default_rng(0).random((620, 3, 1, 1), dtype=np.float32) * np.ones((1, 1, 16, 16), np.float32)
    video.write(tmp_path / "long.mp4", frames, fps)
    whole = video.read(tmp_path / "long.mp4").frames
    decoded = []
    for start, count in ((249, 3), (250, 20), (499, 17), (500, 1), (603, 40)):
        part = video.read(tmp_path / "long.mp4", start, count).frames
        np.testing.assert_array_equal(part, whole[start : start + count])
    with pytest.raises(UserError, match="no frame from number 700 on"):
        video.read(tmp_path / "long.mp4", 700, 5)
    with video._opened(tmp_path / "long.mp4") as (container, stream):
        counted = SimpleNamespace(
            seek=container.seek, decode=lambda stream: _counting(container.decode(stream), decoded)
        )
        next(video._from(counted, stream, 600))
    assert len(decoded) <= 250  # x264 sets a key frame at least so often; 620 lie in the file


def _counting(frames, seen):
    for frame in frames:
        seen.append(frame.pts)
        yield frame


def test_missing_text_and_cut_files_are_user_errors(clip, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").touch()
    video.write(tmp_path / "whole.mp4", clip, 8.0)
    shutil.copy(tmp_path / "whole.mp4", tmp_path / "cut.mp4")
    with (tmp_path / "cut.mp4").open("r+b") as file:
        file.truncate((tmp_path / "whole.mp4").stat().st_size // 2)
    for name in ("missing.mp4", "text.mp4", "empty.mp4", "cut.mp4"):
        with pytest.raises(UserError, match=name):
            video.read(tmp_path / name)
    for name in ("missing.mp4", "text.mp4", "empty.mp4"):
        with pytest.raises(UserError, match=name):
            video.probe(tmp_path / name)


@pytest.mark.parametrize(
    ("shape", "word"),
    [((9, 3, 31, 48), "even"), ((9, 32, 48, 3), "time, 3"), ((3, 32, 48), "time, 3"), ((0, 3, 32, 48), "time, 3")],
)
def test_frames_that_cannot_be_written_leave_nothing_behind(tmp_path, shape, word):
    with pytest.raises(UserError, match=word):
        video.write(tmp_path / "a.mp4", np.zeros(shape, np.float32), 8.0)
    assert list(tmp_path.iterdir()) == []


def test_nan_frames_are_refused(clip, tmp_path):
    clip[0, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match="NaN"):
        video.write(tmp_path / "a.mp4", clip, 8.0)


def test_a_failed_rewrite_leaves_the_old_file(clip, tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    video.write(path, clip, 8.0)
    before = path.read_bytes()

    def fail(target: str, *rest: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video, "_encode", fail)
    with pytest.raises(OSError):
        video.write(path, clip, 8.0)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_name_with_a_colon_is_a_file_and_no_protocol(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video.write("10:00.mp4", clip, 8.0)
    assert video.probe("10:00.mp4").num_frames == len(video.read("10:00.mp4").frames) == 9


@pytest.mark.parametrize("fps", [0.0, float("nan"), float("inf"), 1e-4])
def test_rates_that_no_file_can_hold_are_refused(clip, tmp_path, fps):
    with pytest.raises(UserError, match="fps must be"):
        video.write(tmp_path / "a.mp4", clip, fps)
