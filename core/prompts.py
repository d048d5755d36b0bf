"""Prompt files: UTF-8 text, one prompt a line."""

from __future__ import annotations

from pathlib import Path

from core.errors import UserError


def read(path: Path | str) -> list[str]:
    """The prompts of a file in order, blank lines skipped.

    Raises: UserError if the file is missing, not UTF-8 text, or has no prompt.
    """
    try:
        prompts = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"prompt file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"prompt file '{path}' is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not prompts:
        raise UserError(f"prompt file '{path}' is empty; write one prompt per line")
    return prompts
