"""Same-seed pairs for the report: which ones are shown, and each as one small embedded film.

A gallery of the best is an advertisement, so three fair draws stand side by side: at random by a stated seed, the
biggest wins, and the biggest losses. Base and aligned are joined into one film, left and right; two players would
drift apart, one cannot. What cannot be decoded becomes a note in its place. Large videos are shrunk, so that a page
stays small enough to be mailed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core import video
from core.errors import UserError
from core.randomness import numpy_generator
from core.videoset import VideoItem

Frames = NDArray[np.float32]
NUM_RANDOM, NUM_EXTREME = 6, 3
SIDES = (256, 160, 96)  # pixels of the longer side, largest first; the first that fits the byte limit is taken
FILM_BYTES = 160_000
STRIP_COLUMNS = 6
MOST_FRAMES = 128
JUDGE = "gold"


@dataclass(frozen=True)
class Pair:
    """Videos of one prompt and seed from two models, each with the numbers measured on it."""

    prompt: str
    seed: int | None
    base: VideoItem
    aligned: VideoItem
    base_scores: Mapping[str, Any]
    aligned_scores: Mapping[str, Any]

    @property
    def gain(self) -> float | None:
        """By how much the judge prefers the aligned video; None where one of the two was not judged."""
        before, after = self.base_scores.get(JUDGE), self.aligned_scores.get(JUDGE)
        return after - before if isinstance(before, int | float) and isinstance(after, int | float) else None


@dataclass(frozen=True)
class Film:
    """An embedded clip: `source` and `poster` and `strip` are data URIs, `problem` says why there is none.

    `width` and `height` are those of the film in pixels, `strip` a contact sheet for paper.
    """

    source: str = ""
    poster: str = ""
    strip: str = ""
    width: int = 2
    height: int = 1
    problem: str = ""

    @property
    def num_bytes(self) -> int:
        return len(self.source) + len(self.poster) + len(self.strip)


def match(
    base: Sequence[VideoItem],
    aligned: Sequence[VideoItem],
    base_scores: Mapping[str, Mapping[str, Any]],
    aligned_scores: Mapping[str, Mapping[str, Any]],
) -> list[Pair]:
    """Pairs of one prompt and seed in the order of `base`; without seeds the id decides.

    Args:
        base_scores, aligned_scores: video id -> what was measured on it.
    """

    def key(item: VideoItem) -> tuple[str, str]:
        return item.prompt, item.id if item.seed is None else str(item.seed)

    partners = {key(item): item for item in aligned}
    return [
        Pair(item.prompt, item.seed, item, other, base_scores.get(item.id, {}), aligned_scores.get(other.id, {}))
        for item in base
        if (other := partners.get(key(item))) is not None
    ]


def choose(pairs: Sequence[Pair], seed: int) -> dict[str, list[Pair]]:
    """Three draws: "random", "wins" (largest first) and "losses" (largest first); a pair may be in two of them."""
    rng = numpy_generator(seed, "report gallery")
    drawn = sorted(rng.permutation(len(pairs))[:NUM_RANDOM].tolist())
    gains = sorted(((pair.gain, pair) for pair in pairs if pair.gain is not None), key=lambda entry: -entry[0])
    return {
        "random": [pairs[index] for index in drawn],
        "wins": [pair for gain, pair in gains[:NUM_EXTREME] if gain > 0],
        "losses": [pair for gain, pair in gains[::-1][:NUM_EXTREME] if gain < 0],
    }


def film(paths: Sequence[Path]) -> Film:
    """The videos of `paths` side by side as one film; one that cannot be read makes a Film with a `problem`."""
    try:
        videos = [video.read(path) for path in paths]
        clips = _together([one.frames for one in videos])
        for side in SIDES:
            small = [_shrunk(clip, side) for clip in clips]
            joined = _side_by_side(small)
            data = video.encode_mp4_bytes(joined, videos[0].fps)
            if len(data) <= FILM_BYTES:
                break
    except (UserError, OSError, ValueError) as error:
        problem = str(error)
        for path in paths:
            problem = problem.replace(str(path), "/".join(path.parts[-3:]))  # a mailed page names no machine's folders
        return Film(problem=problem)
    strip = video.contact_sheet(small, min(STRIP_COLUMNS, len(small[0])))
    return Film(
        source=_data_uri("video/mp4", data),
        poster=_data_uri("image/png", _png(video.to_uint8(joined[:1])[0])),
        strip=_data_uri("image/png", _png(strip)),
        width=joined.shape[3],
        height=joined.shape[2],
    )


def _side_by_side(clips: Sequence[Frames]) -> Frames:
    """One wide clip with a grey bar between, so that two scenes are not taken for one."""
    length, _, height, width = clips[0].shape
    bar = np.full((length, 3, height, max(2, width // 64 * 2)), 0.5, dtype=np.float32)
    return np.concatenate([part for clip in clips for part in (bar, clip)][1:], axis=3)


def _together(clips: Sequence[Frames]) -> list[Frames]:
    """Clips of one length and size: shorter ones hold their last frame, larger ones shrink to the smallest."""
    length = min(MOST_FRAMES, max(len(clip) for clip in clips))
    height, width = min(clip.shape[2:] for clip in clips)
    same = [clip[np.minimum(np.arange(length), len(clip) - 1)] for clip in clips]
    return [clip if clip.shape[2:] == (height, width) else _resized(clip, height, width) for clip in same]


def _shrunk(clip: Frames, side: int) -> Frames:
    """The longer side at most `side` pixels, both even; small clips keep every pixel."""
    height, width = clip.shape[2:]
    factor = min(1.0, side / max(height, width))
    target = (max(2, round(height * factor) // 2 * 2), max(2, round(width * factor) // 2 * 2))
    return clip if target == (height, width) else _resized(clip, *target)


def _resized(clip: Frames, height: int, width: int) -> Frames:
    images = [
        Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS) for image in video.to_uint8(clip)
    ]
    return video.from_uint8(np.stack([np.asarray(image) for image in images]))


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
