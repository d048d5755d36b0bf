"""What a video set holds, as one hash, and what differs between two: data sets have versions.

The hash covers ids, the videos' bytes and the captions; order, folder and modification times do not count. A snapshot
is kept beside what was trained on it (`data.json`), so a later state of the set can be compared with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from core import files, video, videoset
from core.errors import UserError
from core.progress import track

CACHE = ".hashes.json"  # in the set's folder: file -> [bytes, modification time, sha256]


@dataclass(frozen=True)
class Entry:
    """One video: sha256 of its bytes, and its caption."""

    id: str
    video: str
    prompt: str


@dataclass(frozen=True)
class Snapshot:
    """Entries sorted by id."""

    entries: tuple[Entry, ...]

    @property
    def hash(self) -> str:
        """16 hex digits that change with any video, caption or id."""
        text = json.dumps([[entry.id, entry.video, entry.prompt] for entry in self.entries], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def save(self, path: Path | str) -> None:
        """Write as JSON, to be read by `load`."""
        rows = {"hash": self.hash, "entries": [asdict(entry) for entry in self.entries]}
        files.atomic_write(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


@dataclass(frozen=True)
class Difference:
    """Ids by what happened to them between an older and a newer snapshot; renamed: (old id, new id)."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    new_video: tuple[str, ...]
    new_caption: tuple[str, ...]

    def __bool__(self) -> bool:
        return any((self.added, self.removed, self.renamed, self.new_video, self.new_caption))


def take(folder: Path | str) -> Snapshot:
    """Hash every video of a set. Digests are cached in the folder, so the second time only changed files are read.

    Raises: UserError for what `videoset.read` refuses.
    """
    folder = Path(folder)
    items = videoset.read(folder)
    path = folder / CACHE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    entries, digests = [], {}
    for item in track(items, f"hashing {folder.name}"):
        name, stat = Path(os.path.relpath(item.video, folder)).as_posix(), item.video.stat()
        mark = [stat.st_size, stat.st_mtime_ns]
        held = known.get(name)
        digest = held[2] if isinstance(held, list) and held[:2] == mark else video.sha256(item.video)
        digests[name] = [*mark, digest]
        entries.append(Entry(item.id, digest, item.prompt))
    if digests != known:
        try:
            files.atomic_write(path, json.dumps(digests))
        except OSError:
            pass  # a set that may only be read is hashed again next time
    return Snapshot(tuple(sorted(entries, key=lambda entry: entry.id)))


def load(path: Path | str) -> Snapshot:
    """The snapshot of a video-set folder as it is now, or one saved as a file.

    Raises: UserError for a file that is no snapshot.
    """
    if Path(path).is_dir():
        return take(path)
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return Snapshot(tuple(Entry(**row) for row in rows["entries"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is neither a video set nor a saved snapshot ({type(error).__name__})") from None


def diff(old: Snapshot, new: Snapshot) -> Difference:
    """What happened between two snapshots. A video that left under one id and came under another was renamed."""
    before, after = ({entry.id: entry for entry in one.entries} for one in (old, new))
    gone, come = [id for id in before if id not in after], [id for id in after if id not in before]
    renamed = []
    for id in list(gone):
        same = next((other for other in come if after[other].video == before[id].video), None)
        if same is not None:
            renamed.append((id, same))
            gone.remove(id)
            come.remove(same)
    both = [id for id in before if id in after]
    return Difference(
        tuple(come),
        tuple(gone),
        tuple(renamed),
        tuple(id for id in both if before[id].video != after[id].video),
        tuple(id for id in both if before[id].prompt != after[id].prompt),
    )
