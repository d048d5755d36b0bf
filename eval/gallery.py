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
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from core import video
from core.errors import UserError
from core.randomness import numpy_generator
from eval import svg
from eval.result import JUDGE
from eval.scene import Scene, by_gap

Frames = NDArray[np.float32]
Trails = Sequence[svg.Trail]  # one per object
SEED = 0  # of the random draw
NUM_RANDOM, NUM_EXTREME = 6, 3
SIDES = (256, 160, 96)  # pixels of the longer side, largest first; the first that fits the byte limit is taken
FILM_BYTES = 160_000
COLUMNS = 4  # videos beside each other in a film
STRIP_COLUMNS = 6
MOST_FRAMES = 128


@dataclass(frozen=True)
class Film:
    """An embedded clip: `source` and `poster` and `strip` are data URIs, `problem` says why there is none.

    `width` and `height` are those of the film in pixels, `strip` a contact sheet for paper, `paths` and `strip_paths`
    drawings to lay over film and strip.
    """

    source: str = ""
    poster: str = ""
    strip: str = ""
    width: int = 2
    height: int = 1
    paths: Markup = Markup("")
    strip_paths: Markup = Markup("")
    problem: str = ""

    @property
    def num_bytes(self) -> int:
        return len(self.source) + len(self.poster) + len(self.strip)


def at_random(scenes: Sequence[Scene]) -> list[Scene]:
    """A fair draw, in the order of the scenes."""
    chosen = numpy_generator(SEED, "report gallery").permutation(len(scenes))[:NUM_RANDOM]
    return [scenes[index] for index in sorted(chosen.tolist())]


def choose(scenes: Sequence[Scene]) -> dict[str, list[Scene]]:
    """Three draws: "random", "wins" of the last set over the first (largest first) and "losses"; they may overlap."""
    judged = [(gap, scene) for scene in by_gap(scenes, JUDGE) if (gap := scene.gap(JUDGE)) is not None]
    return {
        "random": at_random(scenes),
        "wins": [scene for gap, scene in judged[:NUM_EXTREME] if gap > 0],
        "losses": [scene for gap, scene in judged[::-1][:NUM_EXTREME] if gap < 0],
    }


def trails(track: Mapping[str, Any] | None) -> Trails:
    """Where each object of a video was seen, from a line of tracks.jsonl; none where there is no line."""
    return [one["position"] for one in track["objects"]] if track else []


def film(paths: Sequence[Path], trails: Sequence[Trails] = ()) -> Film:
    """The videos of `paths` as one film, in rows of COLUMNS; one that cannot be read makes a Film with a `problem`.

    Args:
        trails: of every video what is drawn over it; empty for none.
    """
    try:
        videos = [video.read(path) for path in paths]
        clips = _together([one.frames for one in videos])
        for side in SIDES:
            small = [_shrunk(clip, side) for clip in clips]
            joined, corners = _joined(small)
            data = video.encode_mp4_bytes(joined, videos[0].fps)
            if len(data) <= FILM_BYTES:
                break
    except (UserError, OSError, ValueError) as error:
        problem = str(error)
        for path in paths:
            problem = problem.replace(str(path), "/".join(path.parts[-3:]))  # a mailed page names no machine's folders
        return Film(problem=problem)
    columns = min(STRIP_COLUMNS, len(small[0]))
    strip = video.contact_sheet(small, columns)
    height, width = small[0].shape[2:]
    over, over_strip = [], []
    for row, (one, of_video) in enumerate(zip(videos, trails, strict=False)):
        scale = width / one.frames.shape[3], height / one.frames.shape[2]
        over.append(svg.Panel(corners[row], scale, of_video))
        for column, frame in enumerate(np.linspace(0, len(small[0]) - 1, columns).round().astype(int).tolist()):
            corner = column * (width + 2) + 1, row * (height + 2) + 1  # as core.video.contact_sheet sets them
            over_strip.append(svg.Panel(corner, scale, [trail[: frame + 1] for trail in of_video]))
    return Film(
        source=_data_uri("video/mp4", data),
        poster=_data_uri("image/png", _png(video.to_uint8(joined[:1])[0])),
        strip=_data_uri("image/png", _png(strip)),
        width=joined.shape[3],
        height=joined.shape[2],
        paths=svg.paths(over, joined.shape[3], joined.shape[2]),
        strip_paths=svg.paths(over_strip, strip.shape[1], strip.shape[0]),
    )


def _joined(clips: Sequence[Frames]) -> tuple[Frames, list[tuple[int, int]]]:
    """One clip of all, grey bars between so that two scenes are not taken for one; (x, y) of every one's corner."""
    length, _, height, width = clips[0].shape
    columns, bar = min(COLUMNS, len(clips)), max(2, width // 64 * 2)
    rows = -(-len(clips) // columns)
    size = rows * (height + bar) - bar, columns * (width + bar) - bar
    joined = np.full((length, 3, *size), 0.5, dtype=np.float32)
    corners = [(index % columns * (width + bar), index // columns * (height + bar)) for index in range(len(clips))]
    for clip, (x, y) in zip(clips, corners, strict=True):
        joined[:, :, y : y + height, x : x + width] = clip
    return joined, corners


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
