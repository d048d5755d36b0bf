"""Features of a video, computed once, kept on disk, never served for another video, backbone or preparation.

A video is kept as the features that each backbone gives it: a row per frame, or one for the clip. For set metrics a
pool makes vectors of them. `DCT` makes one of a row per frame: its slow changes over time (cosine transform, 4 terms)
and its mean absolute step, so that order matters - a mean over frames alone would call a shuffled video perfect. A
fixed random projection keeps that vector short: a Frechet distance needs more videos than dimensions.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np

from core.files import replacing
from core.randomness import numpy_generator
from eval.protocol import Array, Backbone, Distance, Frames, Pool

VERSION = "2"
DECODE = "PyAV rgb24, bicubic chroma, upright, [0, 1]"
THUMBNAIL = 16
BLOCKS = (16, 8, 8, 8, 8)  # dims of cosine terms 0..3 and of the mean absolute step
PREPROCESSING = (
    "sandbox CLIP per frame; cosine terms 0-3 over time and mean absolute step, projected to 16+8+8+8+8 dims;"
    " standardised by the reference"
)


def thumbnail(frames: Frames) -> Array:
    """Frames averaged over a 16x16 grid, [time, 3 * 16 * 16]; a smaller frame keeps its own size."""
    rows = np.array_split(np.arange(frames.shape[2]), min(THUMBNAIL, frames.shape[2]))
    columns = np.array_split(np.arange(frames.shape[3]), min(THUMBNAIL, frames.shape[3]))
    starts = [part[0] for part in rows], [part[0] for part in columns]
    sums = np.add.reduceat(np.add.reduceat(frames, starts[0], axis=2), starts[1], axis=3)
    cells = np.outer([len(part) for part in rows], [len(part) for part in columns])
    return (sums / cells).reshape(len(frames), -1).astype(np.float64)


def clip_vector(features: Array) -> Array:
    """One vector [48] of a video's frame features [time, dim]; sees the order of the frames."""
    time = (np.arange(len(features)) + 0.5) / len(features)
    waves = np.sqrt(2.0) * np.cos(np.pi * np.arange(len(BLOCKS) - 1)[:, None] * time)
    waves[0] = 1.0
    slow = waves @ features / len(features)
    steps = np.diff(features, axis=0)
    parts = [row @ _projection(features.shape[1], k) for k, row in enumerate(slow)]
    step = np.abs(steps @ _projection(features.shape[1], len(BLOCKS) - 1)).mean(axis=0) if len(steps) else None
    parts.append(np.zeros(min(BLOCKS[-1], features.shape[1])) if step is None else step)
    return np.concatenate(parts)


def _projection(dim: int, block: int) -> Array:
    """Fixed orthonormal columns [dim, at most BLOCKS[block]]."""
    rng = numpy_generator(0, "eval/projection", dim, block)
    return np.linalg.qr(rng.standard_normal((dim, min(BLOCKS[block], dim))))[0]


def standardised(distance: Distance) -> Distance:
    """The distance after dividing every dimension by its standard deviation in the reference (mean removed)."""

    def measured(vectors: Array, reference: Array) -> float:
        centre, scale = reference.mean(axis=0), reference.std(axis=0)
        scale = np.where(scale > 1e-9, scale, 1.0)
        return distance((vectors - centre) / scale, (reference - centre) / scale)

    return measured


def spread_rows(features: Array, count: int = 8) -> Array:
    """At most `count` rows of features [rows, dim], evenly spaced: neighbouring frames say the same thing twice."""
    return features[np.linspace(0, len(features) - 1, min(count, len(features))).round().astype(int)]


DCT = Pool("dct", lambda features: clip_vector(features)[None])
CLIP = Pool("clip", lambda features: features)
EIGHT_FRAMES = Pool("8f", spread_rows)


class Cache:
    """Features by what they depend on: video bytes, decoding, backbone weights and preparation, version, dtype."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, content: str, backbone: Backbone) -> Path:
        """Where the features of the video with this sha256 lie."""
        key = json.dumps({"content": content, **protocol(backbone)}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.npz"

    def load(self, content: str, backbone: Backbone) -> Array | None:
        """What was saved [rows, dim], no rows as in `encode`; None where nothing was, or it is damaged."""
        try:
            with np.load(self.path(content, backbone), allow_pickle=False) as arrays:
                return arrays["features"].astype(np.float64)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def compute(self, content: str, frames: Frames, backbone: Backbone) -> Array:
        """Encode and save. Given back as rounded on disk, so that a resumed run has the same last digit."""
        features = encode(frames, backbone).astype(np.float32)
        with replacing(self.path(content, backbone)) as temporary:
            np.savez(temporary, allow_pickle=False, features=features)
        return features.astype(np.float64)

    def tracks_path(self, content: str) -> Path:
        """Where the reader's tracks of the video with this sha256 lie, one JSON object."""
        key = json.dumps({"content": content, "decode": DECODE, "tracks": VERSION}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"


def encode(frames: Frames, backbone: Backbone) -> Array:
    """Features [rows, dim] of one clip; no rows when it is too short or what comes out is not finite.

    One clip at a time: no batch size matters.
    """
    features = backbone.encode_frames(frames) if len(frames) >= backbone.min_frames else np.zeros((0, 0))
    return features if np.isfinite(features).all() else np.zeros((0, 0))


def protocol(backbone: Backbone) -> dict[str, str]:
    """What features depend on besides the video."""
    parts = {"decode": DECODE, "dtype": "float32", "version": VERSION}
    return parts | {"backbone": backbone.sha256, "preprocessing": backbone.preprocessing}
