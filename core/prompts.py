"""Prompt files: UTF-8 text with one prompt a line, or JSON lines with a `prompt` and what is known about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core import files
from core.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """A training prompt. weight: how often it is drawn, against the others of its file; tag: its kind ("counting").

    start: file of the picture that its clips begin with, or of the clip that they go on from; empty: none.
    """

    text: str
    weight: float = 1.0
    tag: str = ""
    start: str = ""


def read(path: Path | str) -> list[str]:
    """The prompts of a file in order, blank lines skipped. Raises: as `read_all`."""
    return [prompt.text for prompt in read_all(path)]


def read_all(path: Path | str) -> list[Prompt]:
    """The prompts of a file in order: of every line, or of the keys of its JSON lines where it ends in .jsonl.

    Keys: `prompt`, `weight`, `tag`, and `image` or `video` for what the clips begin with (a path, from the file's
    folder). Others are left alone, so the JSON lines of the public prompt sets are read as they are.

    Raises: UserError if the file is missing, not UTF-8 text, has no prompt, or a line that is no prompt.
    """
    path = Path(path)
    try:
        if path.suffix == ".jsonl":
            prompts = [
                _prompt(row, path, f"{path}: entry {number}") for number, row in enumerate(files.read_lines(path), 1)
            ]
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            prompts = [Prompt(line.strip()) for line in lines if line.strip()]
    except OSError as error:
        raise UserError(f"prompt file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"prompt file '{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not prompts:
        raise UserError(f"prompt file '{path}' is empty; write one prompt per line")
    return prompts


def mixture(words: Sequence[str]) -> list[Prompt]:
    """The prompts of several files, `FILE` or `FILE=SHARE` each; shares are of the draws, whatever the files' sizes.

    Raises: UserError as `read_all`, or for a share that is not a number above 0.
    """
    files_shares = [_share(word) for word in words]
    if len(files_shares) == 1:
        return read_all(files_shares[0][0])
    mixed = []
    for path, share in files_shares:
        prompts = read_all(path)
        scale = share / sum(prompt.weight for prompt in prompts)
        mixed += [replace(prompt, weight=prompt.weight * scale) for prompt in prompts]
    return mixed


def _share(word: str) -> tuple[str, float]:
    name, equals, number = word.rpartition("=")
    if not equals or Path(word).exists():
        return word, 1.0
    try:
        share = float(number)
    except ValueError:
        share = 0.0
    if not 0 < share < math.inf:
        raise UserError(f"prompts '{word}': the share '{number}' is not a number above 0; write FILE or FILE=2")
    return name, share


def _prompt(row: dict[str, object], path: Path, where: str) -> Prompt:
    text, weight, tag = row.get("prompt"), row.get("weight", 1.0), row.get("tag", "")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: a text under the key 'prompt' is expected, seen {text!r}")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise UserError(f"{where}: 'weight' must be a number above 0, seen {weight!r}")
    return Prompt(text.strip(), float(weight), str(tag), _start(row, path, where))


def _start(row: dict[str, object], path: Path, where: str) -> str:
    named = {key: row[key] for key in ("image", "video") if row.get(key) is not None}
    if not named:
        return ""
    (key, name), *more = named.items()
    if more or not isinstance(name, str):
        raise UserError(f"{where}: one path under 'image' or 'video' is expected, seen {named!r}")
    if not (file := path.parent / name).is_file():
        raise UserError(f"{where}: its {key} '{file}' is not there")
    return str(file)
