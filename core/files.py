"""Files that are whole or absent: write beside the target, then rename over it.

Lines appended to a log are the exception; there a crash can leave half a last line, which readers and reopeners drop.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import UserError


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it takes the place of `path`, on any error it goes.

    Where `path` is a link, it stays one, and what it points to is replaced.
    Raises: UserError when `path` is a folder.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the path of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last, because Pillow, NumPy and PyAV read the format from it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # the one that somebody asked for
        raise


@contextlib.contextmanager
def replacing_folder(path: Path | str) -> Iterator[Path]:
    """`replacing` for folders: yield an empty one beside `path`; on success it takes the place of `path`."""
    path = Path(os.path.realpath(path))
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}{end}") for end in ("", ".old"))
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            sync(file)
        if path.is_dir():  # aside first: at every moment one of the two is whole on disk
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.is_dir() and not path.exists():  # interrupted between the two renames
            old.rename(path)
        raise


def sync(path: Path) -> None:
    """Ask the disk to have `path` before a rename makes it visible; a power cut must not leave an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def finite_or_null(value: Any) -> Any:
    """Nested mappings, lists and numbers, with None for NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: finite_or_null(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON object as a line and flush it. NaN and infinity are refused: they are not JSON."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def drop_partial_line(path: Path) -> None:
    """Cut half a last line: a process was killed while writing it. A whole one gets the newline it lacks."""
    if not path.exists():
        return
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end == len(data):
        return
    try:
        json.loads(data[end:])
    except ValueError:
        os.truncate(path, end)
    else:
        with path.open("ab") as file:
            file.write(b"\n")


def read_text(path: Path) -> str:
    """A UTF-8 text, without the mark that Windows puts before it.

    Raises: UserError for another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def read_lines(path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    """The JSON objects of a line file.

    Args: whole: whether half a last line is an error too, as in a file that somebody hands over. In one that a process
        of ours appends to, it is left out: the process was killed there, or has not finished it.
    Raises: UserError naming file and line for anything that is not one JSON object a line.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            is_last = number == len(lines)
            if is_last and not whole:
                continue
            told = error.msg if isinstance(error, json.JSONDecodeError) else error
            advice = "one JSON object a line is expected"
            if is_last:
                advice = f"the file ends in this line, after {len(rows)} whole ones: get all of it, or delete the line"
            raise UserError(f"{path}:{number}: not JSON ({told}); {advice}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: a JSON object is expected, seen {type(row).__name__}")
        rows.append(row)
    return rows
