"""A run folder: what was asked, what ran it, what was measured, and checkpoints that are whole or absent.

    config.yaml  environment.json  metrics.jsonl  samples/  checkpoints/step-NNNNNN/

The same command run again resumes: it finds the same config, the newest whole checkpoint, and metrics cut back to it.
One process writes a run folder, as long as it holds it open; under a launcher that is the main one. What a checkpoint
holds is the caller's matter.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from core import files
from core.errors import UserError
from core.files import atomic_write

LOCK = ".lock"  # holds the number of the process that writes
LISTING = "files.json"  # written last into a checkpoint: every file's size, so that a cut one is noticed
LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "trl",
    "open_clip_torch",
    "numpy",
    "scipy",
    "av",
)


@dataclass(frozen=True)
class Run:
    """An open run folder; make one with `Run.open`. No other process writes it while this lives."""

    folder: Path
    claim: _Claim | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        config: dict[str, Any],
        defaults: dict[str, Any] | None = None,
        *,
        free: Collection[str] = (),
        writes: bool = True,
    ) -> Run:
        """Create the folder, or open it again with the same config.

        Args:
            config: nested mappings, lists, numbers, text, paths, None; written as config.yaml.
            defaults: what a key counts as in a folder that was made before there was such a key.
            free: keys that may have another value there; config.yaml gets the new one.
            writes: False in the further processes of a launch.
        Raises: UserError naming every differing key when the folder was made with another config, or when the
            folder holds other things, or another process writes it.
        """
        folder = Path(folder)
        wanted, standard = (json.loads(json.dumps(values or {}, default=str)) for values in (config, defaults))
        path = folder / "config.yaml"
        if folder.exists() and not folder.is_dir():
            raise UserError(f"run folder {str(folder)!r} is a file; give the path of a folder")
        if folder.exists() and not path.exists() and any(child.name[0] != "." for child in folder.iterdir()):
            raise UserError(f"run folder {str(folder)!r} is neither empty nor a run (no config.yaml); choose another")
        folder.mkdir(parents=True, exist_ok=True)
        claim = _claim(folder) if writes else None
        # The config first: a process killed right after it leaves a run, not a folder we would refuse.
        if not path.exists() or _changed(path, wanted, standard, free):
            atomic_write(path, yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True))
        run = cls(folder, claim)
        if not (folder / "environment.json").exists():
            atomic_write(folder / "environment.json", json.dumps(environment(), indent=2) + "\n")
        run.samples.mkdir(exist_ok=True)
        (folder / "checkpoints").mkdir(exist_ok=True)
        for leftover in (folder / "checkpoints").glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        files.drop_partial_line(folder / "metrics.jsonl")
        return run

    @property
    def samples(self) -> Path:
        """The folder for clips made on the way."""
        return self.folder / "samples"

    def log(self, step: int, metrics: Mapping[str, float | int | str | None], samples: int) -> None:
        """Append one line to metrics.jsonl.

        Args:
            metrics: logged name -> number. NaN and infinity become null: a chart shows a gap, JSON stays JSON.
            samples: videos generated since the run began.
        """
        row: dict[str, Any] = {"step": int(step), "time": time.time(), "samples": int(samples)}
        row |= {name: _number(value) for name, value in metrics.items()}
        files.append_line(self.folder / "metrics.jsonl", row)

    def rewind(self, step: int) -> None:
        """Forget metrics after `step`. Called on resume, so that no step is logged twice."""
        path = self.folder / "metrics.jsonl"
        kept = [row for row in read_metrics(self.folder) if row["step"] <= step]
        atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))

    def save(self, step: int, write: Callable[[Path], None], keep: int = 3) -> Path:
        """Write checkpoints/step-NNNNNN, whole or not at all, and delete all but the newest `keep`.

        Args:
            write: fills the empty folder it is given. If it raises, no checkpoint appears and older ones stay.
        """
        final = self.folder / "checkpoints" / f"step-{step:06d}"
        with files.replacing_folder(final) as folder:
            write(folder)
            written = sorted(path for path in folder.rglob("*") if path.is_file())
            sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in written}
            (folder / LISTING).write_text(json.dumps(sizes, indent=2))
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)
        return final

    def checkpoints(self) -> list[Path]:
        """All checkpoint folders, oldest first, whole or not."""
        return sorted((self.folder / "checkpoints").glob("step-*"), key=step_of)

    def latest(self, tell: bool = True) -> Path | None:
        """The newest whole checkpoint; one that lost bytes is passed over with a word on stderr (`tell`)."""
        for folder in reversed(self.checkpoints()):
            damage = _damage(folder)
            if damage is None:
                return folder
            if tell:
                print(f"{folder}: {damage}; using the checkpoint before it", file=sys.stderr)
        return None


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint folder, from its name."""
    return int(checkpoint.name.removeprefix("step-"))


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; an empty list before the first one."""
    path = Path(folder) / "metrics.jsonl"
    return files.read_lines(path) if path.exists() else []


def environment() -> dict[str, Any]:
    """What ran: commit, versions, machine, command line."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "libraries": _libraries(),
        "command": sys.argv,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@functools.cache
def _libraries() -> dict[str, str]:
    """Name -> version of those installed. Read once: a process keeps the versions it has imported."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """The commit of the checkout this code lies in, with "+" when it has changes; None outside one."""
    try:
        describe = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        here = Path(__file__).parent
        return subprocess.run(describe, cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _number(value: Any) -> Any:
    """Plain Python for JSON: 0-d arrays and tensors give their item, what is not finite gives None."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of nested mappings, the keys joined by dots."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config


class _Claim:
    """A lock that is let go with the last run of this process that holds it, or by the kernel with the process."""

    def __init__(self, lock: int) -> None:
        weakref.finalize(self, os.close, lock)


_CLAIMS: weakref.WeakValueDictionary[tuple[int, int], _Claim] = weakref.WeakValueDictionary()
"""(device, inode) of a lock file -> the claim. A process that closes a file loses its lock on it, however often it had
opened the file, so each is opened once."""


def _claim(folder: Path) -> _Claim:
    """Make this process the only one that writes a run folder.

    Raises: UserError when another one writes it. Where a file system has no locks nothing is refused.
    """
    path = folder / LOCK
    if path.exists() and (held := _CLAIMS.get(_identity(path))) is not None:
        return held
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    claim = _Claim(lock)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(
                f"process {os.pread(lock, 20, 0).decode()} writes run folder {str(folder)!r}; stop it, wait for its "
                "end or choose another"
            ) from None
    else:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    _CLAIMS[_identity(lock)] = claim
    return claim


def _identity(file: Path | int) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_dev, found.st_ino


def _changed(path: Path, wanted: dict[str, Any], standard: dict[str, Any], free: Collection[str]) -> bool:
    """Whether a `free` key has another value in the config at `path`. Raises: UserError where any other key has."""
    try:
        there = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError):
        there = None
    if not isinstance(there, dict):
        raise UserError(f"{path}: not readable as YAML of a config; restore it or choose another run folder")
    old, new = dict(flat({**standard, **there})), dict(flat(wanted))
    absent = "(absent)"
    changed = [
        f"{key}: {old.get(key, absent)!r} there, {new.get(key, absent)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent) and key not in free
    ]
    if changed:
        raise UserError(
            f"run folder {str(path.parent)!r} was made with another config ({'; '.join(changed)}); "
            "repeat the old values to resume, or choose another folder"
        )
    return any(old.get(key, absent) != new.get(key, absent) for key in free)


def _damage(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be used; None when every file has the size it was saved with."""
    try:
        sizes = json.loads((checkpoint / LISTING).read_text())
    except (OSError, ValueError):
        return f"{LISTING} is missing or cut off"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} were saved"
    return None
