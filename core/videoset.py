"""A folder of videos with prompts: `manifest.jsonl`, one object a line, and the files it names.

A folder of videos without a manifest is a video set too; the prompt is then a same-named .txt file, else empty. The
writer can be killed at any moment: a video is on disk before its line is, so what the manifest names exists.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import files, video
from core.errors import UserError

MANIFEST = "manifest.jsonl"
SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif")


@dataclass(frozen=True)
class VideoItem:
    """One video of a set. `video` and `state` are full paths; `fps` in frames per second, None where unknown."""

    id: str
    video: Path
    prompt: str
    seed: int | None = None
    model: str | None = None
    lora: str | None = None
    fps: float | None = None
    state: Path | None = None


def read(folder: Path | str) -> list[VideoItem]:
    """The videos of a set in the order of its manifest (by name where there is none). No video is opened.

    Raises: UserError when the folder or a named file is missing, when a line is malformed, when an id repeats,
        or when there is no video at all.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"video set {str(folder)!r} is not a folder; expected one with {MANIFEST} or with videos")
    items = _from_manifest(folder) if (folder / MANIFEST).exists() else _from_files(folder)
    if not items:
        raise UserError(f"video set {str(folder)!r} holds no video; expected {MANIFEST} or {', '.join(SUFFIXES)} files")
    return items


def load_state(item: VideoItem) -> dict[str, NDArray[Any]]:
    """The ground-truth arrays that were written with a video; empty where there are none."""
    if item.state is None:
        return {}
    try:
        with np.load(item.state, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError) as error:
        raise UserError(f"{item.state}: not a readable .npz of arrays ({error})") from None


class Writer:
    """Appends videos to a set. Opened again after a kill, `.items` says what is already there."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._manifest = self.folder / MANIFEST
        files.drop_partial_line(self._manifest)
        self.items: list[VideoItem] = _from_manifest(self.folder) if self._manifest.exists() else []
        self._ids = {item.id for item in self.items}

    def append(
        self,
        frames: NDArray[np.floating],
        prompt: str,
        *,
        id: str,
        seed: int | None = None,
        model: str | None = None,
        lora: str | None = None,
        fps: float = 8.0,
        state: dict[str, NDArray[Any]] | None = None,
    ) -> VideoItem:
        """Write one video, then its line.

        Args:
            frames: [time, 3, height, width] in [0, 1].
            id: names the files, so letters, digits, dot, dash and underscore; unique in the set.
            state: ground truth, saved as state/<id>.npz.
        Raises: UserError for an id that is taken or cannot be a file name, and for what `video.write` refuses.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", id):
            raise UserError(f"video id {id!r} cannot name a file; use letters, digits, '.', '-' and '_'")
        if id in self._ids:
            raise UserError(f"video id {id!r} is already in {self.folder}; ids are unique in a set")
        row: dict[str, Any] = {"id": id, "video": f"videos/{id}.mp4", "prompt": prompt}
        row |= {"seed": seed, "model": model, "lora": lora, "fps": fps}
        video.write(self.folder / row["video"], frames, fps)
        if state is not None:
            row["state"] = f"state/{id}.npz"
            with files.replacing(self.folder / row["state"]) as temporary:
                np.savez_compressed(temporary, **state)  # type: ignore[arg-type]
        files.append_line(self._manifest, {key: value for key, value in row.items() if value is not None})
        item = _item(self.folder, row, f"{self._manifest}")
        self.items.append(item)
        self._ids.add(id)
        return item


def _from_manifest(folder: Path) -> list[VideoItem]:
    manifest = folder / MANIFEST
    items = [_item(folder, row, f"{manifest}: entry {n}") for n, row in enumerate(files.read_lines(manifest), start=1)]
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(f"{manifest}: id {item.id!r} appears twice; ids are unique in a set")
        seen.add(item.id)
    return items


def _from_files(folder: Path) -> list[VideoItem]:
    items = []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."):
        text = path.with_suffix(".txt")
        prompt = files.read_text(text).strip() if text.exists() else ""
        items.append(VideoItem(path.stem, path, prompt))
    return items


def _item(folder: Path, row: dict[str, Any], where: str) -> VideoItem:
    """One manifest line, checked: everything here may have been written by hand."""
    for key in ("video", "prompt"):
        if not _is_text(row.get(key)):
            raise UserError(f"{where}: {key!r} must be text, seen {row.get(key)!r}")
    for key in ("model", "lora", "state"):
        if row.get(key) is not None and not _is_text(row[key]):
            raise UserError(f"{where}: {key!r} must be text or left out, seen {row[key]!r}")
    id, seed, fps = row.get("id"), row.get("seed"), row.get("fps")
    if id is not None and not (_is_text(id) or type(id) is int):
        raise UserError(f"{where}: 'id' must be text or an integer, seen {id!r}")
    if seed is not None and not (type(seed) is int and -(2**63) <= seed < 2**63):
        raise UserError(f"{where}: 'seed' must be an integer of 64 bits, seen {seed!r}")
    if fps is not None and not (type(fps) in (int, float) and 0 < fps < math.inf):
        raise UserError(f"{where}: 'fps' must be a number above 0, seen {fps!r}")
    path = _inside(folder, row["video"], where)
    state = _inside(folder, row["state"], where) if row.get("state") else None
    name = path.stem if id in (None, "") else str(id)
    return VideoItem(name, path, row["prompt"], seed, row.get("model"), row.get("lora"), fps, state)


def _is_text(value: object) -> bool:
    """Whether this is text that a file can hold: JSON can name half a letter."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _inside(folder: Path, relative: str, where: str) -> Path:
    """A file of the set; a manifest from elsewhere must not make us serve other files of this machine."""
    path = Path(os.path.normpath(folder / relative))
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
        raise UserError(f"{where}: {relative!r} lies outside the video set; use a path relative to {folder}")
    if not path.is_file():
        raise UserError(f"{where}: {relative!r} is missing in {folder}")
    return path
