"""Videos for the browser: files on disk behind opaque names, sent in ranges, never read into memory whole.

A page asks the library for a clip and gets a name that says nothing about path, model or order. Only what a page asked
for can be fetched, only after PyAV has opened it as a video; what Chromium cannot play is rewritten as H.264 first.
Without Starlette or Streamlit; `server.py` answers the requests.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import video
from core.errors import UserError

ROUTE = "/clip"


class ReplacedError(UserError):
    """The file under this name is not the one that was meant."""


@dataclass(frozen=True)
class Clip:
    """A video as a page needs it: where to fetch it, and its size in pixels, frames and frames per second."""

    url: str
    width: int
    height: int
    fps: float
    num_frames: int

    def shown(self, alt: str) -> dict[str, Any]:
        """As the player (components/player.js) takes it. Args: alt: what it is, for those who cannot see it."""
        size = {"width": self.width, "height": self.height}
        return {"url": self.url, **size, "fps": self.fps, "frames": self.num_frames, "alt": alt}


class Library:
    """The files this process is willing to send. One per process, shared by all sessions; safe between threads."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)  # so that names cannot be computed from paths, nor guessed
        self._lock = threading.Lock()
        self._clips: dict[tuple[str, int, int], Clip] = {}
        self._files: dict[str, Path] = {}
        self._digests: dict[tuple[str, int, int], str] = {}
        self._reported: set[Path] = set()
        self._rewritten: Path | None = None

    def add(self, path: Path, sha256: str | None = None) -> Clip:
        """Make a file fetchable. Asked again for an unchanged file, it costs one `stat`.

        Args: sha256: of the file that is meant.
        Raises: UserError when the file is missing or is no video, ReplacedError when it is another one.
        """
        full = os.path.realpath(path)
        try:
            stat = os.stat(full)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        version = (full, stat.st_mtime_ns, stat.st_size)
        if sha256 is not None:
            if version not in self._digests:
                self._digests[version] = video.sha256(full)
            if self._digests[version] != sha256:
                raise ReplacedError(f"{path}: the file was replaced by another under the same name (sha256 differs)")
        known = self._clips.get(version)
        if known is not None:
            return known
        info = video.probe(full)
        name = hmac.new(self._key, repr(version).encode(), hashlib.sha256).hexdigest()[:32]
        served = Path(full) if info.plays_in_browser else self._playable(Path(full), name)
        clip = Clip(f"{ROUTE}/{name}", info.width, info.height, info.fps, info.num_frames)
        with self._lock:
            self._files[name] = served
            self._clips[version] = clip
        return clip

    def find(self, name: str) -> Path | None:
        """The file behind a name; None for a name that was never given out."""
        return self._files.get(name)

    def is_news(self, path: Path) -> bool:
        """True the first time it is asked about a path: trouble is noted once, not with every look at the page."""
        with self._lock:
            is_new = path not in self._reported
            self._reported.add(path)
        return is_new

    def close(self) -> None:
        """Delete what was rewritten."""
        if self._rewritten is not None:
            shutil.rmtree(self._rewritten, ignore_errors=True)

    def _playable(self, path: Path, name: str) -> Path:
        with self._lock:
            if self._rewritten is None:
                self._rewritten = Path(tempfile.mkdtemp(prefix="soralign-clips-"))
        copy = self._rewritten / f"{name}.mp4"
        video.transcode(path, copy)
        return copy


LIBRARY = Library()
