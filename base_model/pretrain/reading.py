"""People's own clips as training data: any size and length, read ahead in parallel, resumed to the sample.

What batch n holds depends on the seed, the set and n alone, so a stopped run goes on with the very next sample.
Nothing is cropped: a clip whose size is off the model's grid is continued by its last frame, row and column. A video
longer than `max_frames` is several pieces, one after another.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from base_model.dit.pack import buckets, fill
from core import snapshot, video, videoset
from core.errors import UserError
from core.progress import track
from core.randomness import numpy_generator
from core.videoset import VideoItem

Loaded = TypeVar("Loaded")
SNAPSHOT = "data.json"  # in the run folder: what the set held, for `soralign data diff`


class Rejects:
    """Videos that cannot be read: named once, counted, left out; beyond a share of the set they stop the run."""

    def __init__(self, num_videos: int, most: float) -> None:
        self.num_videos, self.most = num_videos, most
        self.reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, item: VideoItem, error: UserError) -> None:
        """Raises: UserError once more than the share is bad."""
        with self._lock:
            if item.id not in self.reasons:
                self.reasons[item.id] = str(error)
                print(f"skipped: {error}", file=sys.stderr)
        if len(self.reasons) > self.most * self.num_videos:
            names = ", ".join(sorted(self.reasons)[:5])
            raise UserError(
                f"{len(self.reasons)} of {self.num_videos} videos cannot be read ({names}), "
                f"more than max_bad {self.most}: mend or remove them (`soralign data check` names all) or raise max_bad"
            )


@dataclass(frozen=True)
class Piece:
    """A stretch of a video: `num_frames` frames, every `stride`-th of the file from its frame `start` on, scaled to
    height and width in reading."""

    item: VideoItem
    start: int
    num_frames: int
    height: int
    width: int
    stride: int = 1


def within(height: int, width: int, largest_side: int) -> tuple[int, int]:
    """Height and width of a frame scaled down until no side is longer than `largest_side`; 0 = as it is."""
    scale = min(1.0, largest_side / max(height, width)) if largest_side else 1.0
    return max(1, round(scale * height)), max(1, round(scale * width))


def pieces(
    items: Sequence[VideoItem], max_frames: int, rejects: Rejects, largest_side: int = 0, stride: int = 1
) -> list[Piece]:
    """All videos cut into stretches of at most `max_frames`; no video is decoded, only its header read.

    Args:
        stride: above 1 frames are sampled evenly, every `stride`-th one (ViViT, Arnab et al. 2021, section 3.2).

    Raises: UserError where too many videos cannot be opened, or none is left.
    """
    found = []
    for item in track(items, "reading headers"):
        try:
            info = video.probe(item.video)
        except UserError as error:
            rejects.add(item, error)
            continue
        sides = within(info.height, info.width, largest_side)
        for start in range(0, info.num_frames, max_frames * stride):
            length = min(max_frames, -(-(info.num_frames - start) // stride))
            found.append(Piece(item, start, length, *sides, stride))
    if not found:
        raise UserError(f"none of the {len(items)} videos can be read")
    return found


class ClipSet:
    """A folder of own clips: its version, its pieces, and what of it cannot be read.

    Raises: UserError for a folder that is no video set, or of which too much is broken.
    """

    def __init__(self, folder: str, max_frames: int, largest_side: int, max_bad: float, stride: int) -> None:
        self.folder = folder
        self.snapshot = snapshot.take(folder)
        items = videoset.read(folder)
        self.rejects = Rejects(len(items), max_bad)
        self.pieces = pieces(items, max_frames, self.rejects, largest_side, stride)

    @property
    def provenance(self) -> dict[str, object]:
        """What weights trained on the set are made from."""
        return {
            "videos": self.folder,
            "data": self.snapshot.hash,
            "num_videos": len(self.snapshot.entries),
            "skipped": sorted(self.rejects.reasons),
        }

    def begin(self, run: Path) -> None:
        """Keep what the set holds in the run folder. Raises: UserError where a run goes on with another set."""
        path = run / SNAPSHOT
        if not path.exists():
            self.snapshot.save(path)
        elif (before := json.loads(path.read_text(encoding="utf-8"))["hash"]) != self.snapshot.hash:
            raise UserError(
                f"the videos changed since this run began ({before} then, {self.snapshot.hash} now): "
                f"`soralign data diff {path} {self.folder}` shows how; undo that, or start another run"
            )


def on_grid(num_frames: int, height: int, width: int, time: int, side: int) -> tuple[int, int, int]:
    """The smallest size that holds a clip: frames time*k + 1, sides multiples of `side`."""
    return 1 + -(-(num_frames - 1) // time) * time, -(-height // side) * side, -(-width // side) * side


def read_piece(piece: Piece, time: int, side: int) -> NDArray[np.float32]:
    """Frames [T, 3, H, W] in [0, 1], continued to the grid by the last frame, row and column.

    Raises: UserError where the file cannot be decoded.
    """
    span = 1 + (piece.num_frames - 1) * piece.stride
    frames = video.read(piece.item.video, piece.start, span, (piece.height, piece.width)).frames[:: piece.stride]
    # A container may promise more frames than it holds; the plan counts on what was promised.
    wanted = on_grid(piece.num_frames, piece.height, piece.width, time, side)
    missing = [want - have for want, have in zip(wanted, (len(frames), *frames.shape[2:]), strict=True)]
    return np.pad(frames, ((0, missing[0]), (0, 0), (0, missing[1]), (0, missing[2])), mode="edge")


class Plan:
    """Which pieces each batch holds: every piece once an epoch, in an order of its own each time.

    Args:
        shapes, lengths: latent shape and number of tokens of every piece.
        budget: tokens per batch, packed; 0 = `batch` pieces of one shape instead.
    Raises: UserError where one piece is longer than the budget.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], lengths: Sequence[int], *, seed: int, budget: int, batch: int
    ) -> None:
        self.shapes, self.lengths, self.seed, self.budget, self.batch = shapes, lengths, seed, budget, batch
        self._batches: list[list[int]] = []
        self._epochs = 0
        self._lock = threading.Lock()
        self.at(0)

    def at(self, number: int) -> list[int]:
        """Pieces (by index) of a batch."""
        with self._lock:  # several threads look ahead at once
            while number >= len(self._batches):
                rng = numpy_generator(self.seed, "clips order", self._epochs)
                order = rng.permutation(len(self.lengths)).tolist()
                if self.budget:
                    groups = fill(self.lengths, self.budget, order)
                else:
                    groups = [[order[i] for i in part] for part in buckets([self.shapes[i] for i in order], self.batch)]
                self._batches += [groups[i] for i in rng.permutation(len(groups))]
                self._epochs += 1
            return self._batches[number]


class Ahead(Generic[Loaded]):
    """`load(number)` for one number after another, the next ones already under way in other threads.

    Decoding frees the interpreter, so threads are enough. Any number may be asked for first; they go on by `stride`,
    the number of processes that share them out.
    """

    def __init__(self, load: Callable[[int], Loaded], workers: int = 2, ahead: int = 4, stride: int = 1) -> None:
        self.load, self.ahead, self.stride = load, ahead, stride
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="clips")
        self._waiting: dict[int, Future[Loaded]] = {}

    def __getitem__(self, first: int) -> Loaded:
        for number in range(first, first + self.ahead * self.stride, self.stride):
            if number not in self._waiting:
                self._waiting[number] = self._pool.submit(self.load, number)
        return self._waiting.pop(first).result()

    def close(self) -> None:
        """Let the threads go; what is under way is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
