"""A video as numbers and as a file; the only place where pixel ranges and layouts are converted.

Frames are float32 [time, 3, height, width] in [0, 1]. What is written is H.264 in yuv420p, visually lossless and
playable by every browser; what is read is whatever PyAV decodes, turned as its header says. Audio is not kept. No torch
here.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray
from PIL import Image

from core.errors import UserError
from core.files import replacing

CRF = 10  # x264's scale: 0 lossless, 18 usually called visually lossless; 10 leaves the probes of `eval` their edges
# Without these two flags swscale darkens every pixel by 1.3 of 255 on the way back to RGB; with them the bias is 0.03.
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
BROWSER_CODECS = ("h264", "vp8", "vp9", "av1")
# Mean and deviation of each channel, by which networks expect frames in [0, 1] to be standardised.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's
FAR = 250  # frames into a file: what lies before is not decoded any more to get there
Numbers = TypeVar("Numbers", bound=Any)  # a NumPy array or a torch tensor: only arithmetic is used


@dataclass(frozen=True)
class Video:
    """frames: float32 [time, 3, height, width] in [0, 1]; fps: frames per second."""

    frames: NDArray[np.float32]
    fps: float


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about itself. Sizes in pixels."""

    codec: str
    pixel_format: str
    width: int
    height: int
    fps: float
    num_frames: int

    @property
    def plays_in_browser(self) -> bool:
        """Chromium refuses MPEG-4 part 2 and 10-bit or 4:4:4 H.264."""
        return self.codec in BROWSER_CODECS and self.pixel_format in ("yuv420p", "yuvj420p")


def to_uint8(frames: NDArray[np.floating]) -> NDArray[np.uint8]:
    """[..., 3, height, width] in [0, 1] -> [..., height, width, 3] in 0..255, rounded, out-of-range values clipped."""
    scaled = np.clip(np.asarray(frames, dtype=np.float32), 0.0, 1.0) * 255.0
    return np.moveaxis(np.rint(scaled).astype(np.uint8), -3, -1)


def from_uint8(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[..., height, width, 3] in 0..255 -> [..., 3, height, width] float32 in [0, 1]."""
    return np.ascontiguousarray(np.moveaxis(pixels, -1, -3), dtype=np.float32) / np.float32(255.0)


def to_signed(frames: Numbers) -> Numbers:
    """[0, 1] -> [-1, 1], for arrays and tensors."""
    return frames * 2.0 - 1.0


def from_signed(frames: Numbers) -> Numbers:
    """[-1, 1] -> [0, 1], for arrays and tensors. Nothing is clipped, so that gradients pass."""
    return (frames + 1.0) * 0.5


def read(path: Path | str, start: int = 0, count: int | None = None, size: tuple[int, int] | None = None) -> Video:
    """Decode a file: all of it, or `count` frames from frame `start` on.

    Args:
        size: height and width to scale every frame to while it is decoded; None = as it is.
    Raises: UserError when the file is missing, is no video, or has no such frame.
    """
    pixels = []
    with _opened(path) as (container, stream):
        fps = _fps(stream)
        for frame in islice(_told(path, _from(container, stream, start), start), count):
            height, width = _upright(frame, size) if size else (frame.height, frame.width)
            scaled = frame.reformat(width, height, format="rgb24", interpolation=EXACT, threads=1)
            pixels.append(np.rot90(scaled.to_ndarray(), _quarter_turns(frame)))
    if not pixels:
        raise _empty(path, f"no frame from number {start} on" if start else "no frame")
    return Video(from_uint8(np.stack(pixels)), fps)


def check(path: Path | str) -> int:
    """Decode every frame and keep none. Returns: how many there are. Raises: UserError as `read`."""
    with _opened(path) as (container, stream):
        num_frames = sum(1 for _ in _told(path, container.decode(stream)))
    if num_frames == 0:
        raise _empty(path)
    return num_frames


def _empty(path: Path | str, lacking: str = "no frame") -> UserError:
    return UserError(f"{path}: the file has a video stream but {lacking}; was it cut off while being written?")


def _told(path: Path | str, frames: Iterable[VideoFrame], start: int = 0) -> Iterator[VideoFrame]:
    """Frames from number `start` on, and where decoding stops before the end, how far it came, as one line."""
    reached = start
    try:
        for frame in frames:
            yield frame
            reached += 1
    except av.error.FFmpegError as error:
        raise UserError(f"{path}: decoding stopped after {reached} frames ({_reason(error)})") from None


def _from(container: Any, stream: Any, start: int) -> Iterator[VideoFrame]:
    """Frames from number `start` on. Far in, decoding begins at the last key frame before it, where a frame's time says
    its number: at a constant rate."""
    rate = stream.average_rate
    if start < FAR or not rate or rate != stream.base_rate:
        return islice(container.decode(stream), start, None)
    first = (stream.start_time or 0) + round(start / rate / stream.time_base)
    container.seek(first, stream=stream)
    half = 0.5 / rate / stream.time_base
    return (frame for frame in container.decode(stream) if frame.pts is not None and frame.pts > first - half)


def _quarter_turns(frame: VideoFrame) -> int:
    """By how many right angles a frame is to be turned counter-clockwise, 0 to 3: a phone stores its sensor's rows, and
    in the header how it was held. Players do the same."""
    return round(frame.rotation / 90) % 4


def _upright(frame: VideoFrame, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) before and after turning: swapped when the frame lies on its side."""
    return size[::-1] if _quarter_turns(frame) % 2 else size


def write(path: Path | str, frames: NDArray[np.floating], fps: float) -> None:
    """Write frames [time, 3, height, width] in [0, 1] as H.264 mp4, whole or not at all.

    Raises: UserError for sizes that yuv420p cannot hold (odd) and for anything that is not such an array.
    """
    with replacing(path) as temporary:
        _encode(str(temporary), _checked(frames), fps)


def encode_mp4_bytes(frames: NDArray[np.floating], fps: float) -> bytes:
    """The bytes that `write` would put on disk, for embedding in a page."""
    buffer = io.BytesIO()
    _encode(buffer, _checked(frames), fps)
    return buffer.getvalue()


def probe(path: Path | str) -> VideoInfo:
    """Codec, size and length. One frame is decoded, all where the container does not know their number.

    Raises: UserError when the file is missing, is no video, or has no frame.
    """
    with _opened(path) as (container, stream):
        first = next(_told(path, container.decode(stream)), None)
        if first is None:
            raise _empty(path)
        height, width = _upright(first, (first.height, first.width))
        codec, pixel_format = stream.codec_context.name, str(stream.codec_context.pix_fmt)
        return VideoInfo(codec, pixel_format, width, height, _fps(stream), stream.frames or check(path))


def motion(path: Path | str) -> float:
    """Mean absolute change of brightness from frame to frame, in shares of black to white, seen at 64 pixels' width.

    Decodes the whole file, so it also proves that every frame can be read.
    Raises: UserError when decoding stops early or there are fewer than two frames.
    """
    previous, changes = None, []
    with _opened(path) as (container, stream):
        height = max(2, round(64 * stream.codec_context.height / max(1, stream.codec_context.width)))
        for frame in _told(path, container.decode(stream)):
            small = frame.reformat(width=64, height=height, format="gray", threads=1).to_ndarray().astype(np.int16)
            if previous is not None:
                changes.append(float(np.abs(small - previous).mean()) / 255.0)
            previous = small
    if not changes:
        raise UserError(
            f"{path}: holds {'one frame' if previous is not None else 'no frame'}; a video has at least two"
        )
    return float(np.mean(changes))


def transcode(source: Path | str, destination: Path | str) -> None:
    """Rewrite any readable video as what `write` writes, at a constant frame rate. An odd last row or column is cut."""
    video = read(source)
    height, width = video.frames.shape[-2] // 2 * 2, video.frames.shape[-1] // 2 * 2
    write(destination, video.frames[..., :height, :width], video.fps)


def sha256(path: Path | str) -> str:
    """Hex digest of a file's bytes."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def contact_sheet(clips: Sequence[NDArray[np.floating]], columns: int) -> NDArray[np.uint8]:
    """One row per clip, `columns` frames of it spread evenly over time, two white pixels between.

    Args:
        clips: each [time, 3, height, width] in [0, 1], all of one frame size.
    Returns: uint8 [height, width, 3].
    """
    rows = []
    for clip in clips:
        chosen = to_uint8(clip[np.linspace(0, len(clip) - 1, columns).round().astype(int)])
        padded = np.pad(chosen, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
        rows.append(np.concatenate(list(padded), axis=1))
    return np.concatenate(rows, axis=0)


def write_png(path: Path | str, image: NDArray[np.uint8]) -> None:
    """Write uint8 [height, width, 3] as a PNG, whole or not at all."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, "PNG")


class _opened:
    """A container and its first video stream; every way in which that fails is one UserError."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __enter__(self) -> tuple[Any, Any]:
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such video file")
        try:
            self.container = av.open(os.path.abspath(self.path))  # "10:00.mp4" alone would be of protocol "10"
        except av.error.FFmpegError as error:
            raise UserError(f"{self.path}: not a readable video ({_reason(error)})") from None
        if not self.container.streams.video:
            self.container.close()
            raise UserError(f"{self.path}: the file has no video stream")
        stream = self.container.streams.video[0]
        stream.codec_context.thread_count = 1  # short clips lose more by starting threads than they gain
        return self.container, stream

    def __exit__(self, *exception: object) -> None:
        self.container.close()


def _fps(stream: Any) -> float:
    """Frames per second; a single still picture has no rate and counts as one second."""
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else 1.0


def _reason(error: av.error.FFmpegError) -> str:
    return error.strerror or type(error).__name__


def _checked(frames: NDArray[np.floating]) -> NDArray[np.uint8]:
    """uint8 [time, height, width, 3], or a UserError that says what is wrong with the array."""
    array = np.asarray(frames)
    if array.ndim != 4 or array.shape[1] != 3 or len(array) == 0:
        raise UserError(f"frames of shape {list(array.shape)} cannot be written; expected [time, 3, height, width]")
    if array.shape[2] % 2 or array.shape[3] % 2:
        size = f"{array.shape[3]}x{array.shape[2]}"
        raise UserError(f"a video of {size} pixels cannot be written as yuv420p; width and height must be even")
    if not np.isfinite(array).all():
        raise UserError("frames hold NaN or infinity and cannot be written")
    return to_uint8(array)


def _encode(target: str | io.BytesIO, pixels: Iterable[NDArray[np.uint8]], fps: float) -> None:
    if not 0.01 <= fps <= 1000:
        raise UserError(f"fps must be from 0.01 to 1000, seen {fps}")
    images = np.asarray(pixels)
    # Faststart (index first, so that a browser can start early) reopens the file by name, which a buffer has not.
    options = {"movflags": "+faststart"} if isinstance(target, str) else {}
    with av.open(target, "w", format="mp4", options=options) as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = images.shape[2], images.shape[1], "yuv420p"
        # Without mb-tree: at small sizes x264 lets it read stale memory, and equal frames gave unequal files.
        # Chroma sits between the pixels, as `reformat` puts it; untold, readers take it for left-sited, .5 px off.
        stream.options = {"crf": str(CRF), "preset": "medium", "x264-params": "mbtree=0:chromaloc=1"}
        context = stream.codec_context
        context.thread_count = 1  # also makes the bytes independent of the machine's number of cores
        # Said in the file and used in the conversion, so that browsers show the colours we meant. 1 is BT.709.
        context.color_primaries = context.color_trc = context.colorspace = 1
        context.color_range = ColorRange.MPEG
        for image in images:
            frame = VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                interpolation=EXACT,
                threads=1,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
