"""Prompt files: UTF-8 text with one prompt a line, or JSON lines with a `prompt` and what is known about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core import files
from core.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """A training prompt. weight: how often it is drawn, against the others of its file; tag: its kind ("counting").

    What its clips are made from, as files: start, the picture that they begin with, or the clip that they go on from,
    or, where `strength` is below 1, the clip that is edited from so much noise; keyframes, (frame, picture) in order;
    references, pictures of what they show; control, a clip that says what happens in each frame. Empty: none.
    """

    text: str
    weight: float = 1.0
    tag: str = ""
    start: str = ""
    strength: float = 1.0
    keyframes: tuple[tuple[int, str], ...] = ()
    references: tuple[str, ...] = ()
    control: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """All that are named, in order."""
        start, control = ((one,) if one else () for one in (self.start, self.control))
        return (*start, *(picture for _, picture in self.keyframes), *self.references, *control)


def read(path: Path | str) -> list[str]:
    """The prompts of a file in order, blank lines skipped. Raises: as `read_all`."""
    return [prompt.text for prompt in read_all(path)]


def read_all(path: Path | str) -> list[Prompt]:
    """The prompts of a file in order: of every line, or of the keys of its JSON lines where it ends in .jsonl.

    Keys: `prompt`, `weight`, `tag`; one of `image` and `video` (what the clips begin with), `edit` (a clip, and
    `strength`) and `keyframes` ({frame: picture}); `references` ([picture, ...]); and `control` (a clip). Paths are
    from the file's folder. Other keys are left alone, so the JSON lines of the public prompt sets are read as they are.

    Raises: UserError if the file is missing, not UTF-8 text, has no prompt, or a line that is no prompt.
    """
    path = Path(path)
    try:
        if path.suffix == ".jsonl":
            prompts = [
                _prompt(row, path, f"{path}: entry {number}")
                for number, row in enumerate(files.read_lines(path, whole=True), 1)
            ]
        else:
            lines = files.read_text(path).split("\n")
            prompts = [Prompt(line.strip()) for line in lines if line.strip()]
    except OSError as error:
        raise UserError(f"prompt file '{path}' cannot be read: {error.strerror}") from error
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
    made_from = _made_from({key: row[key] for key in _FROM if row.get(key) is not None}, path.parent, where)
    return Prompt(text.strip(), float(weight), str(tag), **made_from)


_FROM = ("image", "video", "edit", "strength", "keyframes", "references", "control")
STRENGTH = 0.6
"""Noise level from which clips are edited, where none is named."""


def _made_from(named: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """The fields of a `Prompt` beyond text, weight and tag. Raises: UserError."""

    def file(key: str, name: object) -> str:
        if not isinstance(name, str):
            raise UserError(f"{where}: a path under '{key}' is expected, seen {name!r}")
        if not (found := folder / name).is_file():
            raise UserError(f"{where}: its {key} '{found}' is not there")
        return str(found)

    starts = [key for key in ("image", "video", "edit", "keyframes") if key in named]
    if len(starts) > 1:
        raise UserError(f"{where}: one of image, video, edit and keyframes is expected, seen {' and '.join(starts)}")
    fields: dict[str, Any] = {}
    for key in starts:
        if key == "keyframes":
            fields["keyframes"] = _keyframes(named[key], file, where)
        else:
            fields["start"] = file(key, named[key])
    if "edit" in named:
        fields["strength"] = _strength(named.get("strength", STRENGTH), where)
    elif "strength" in named:
        raise UserError(f"{where}: 'strength' says how far the clip under 'edit' is changed; there is none")
    if (pictures := named.get("references")) is not None:
        if not isinstance(pictures, list) or not pictures:
            raise UserError(f"{where}: a list of paths under 'references' is expected, seen {pictures!r}")
        fields["references"] = tuple(file("references", one) for one in pictures)
    if "control" in named:
        fields["control"] = file("control", named["control"])
    return fields


def _strength(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise UserError(f"{where}: 'strength' must lie between 0 (the clip itself) and 1 (none of it), seen {value!r}")
    return float(value)


def _keyframes(value: object, file: Callable[[str, object], str], where: str) -> tuple[tuple[int, str], ...]:
    if not isinstance(value, dict) or not value or not all(frame.isdecimal() for frame in value):
        raise UserError(
            f'{where}: frames and pictures under \'keyframes\' are expected, as {{"0": "a.png"}}, seen {value!r}'
        )
    return tuple(sorted((int(frame), file("keyframes", picture)) for frame, picture in value.items()))
