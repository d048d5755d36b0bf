"""Names to objects through tables one can read: {"clip": "reward.clip_score:ClipScore"}.

Nothing is imported until its name is asked for, so a heavy library costs only those who use it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

from core.errors import UserError


def unknown(name: str, known: Iterable[str], kind: str) -> UserError:
    """The error for a name that is in no table: near names first, then all of them."""
    names = sorted(known)
    folded = {candidate.casefold(): candidate for candidate in reversed(names)}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
    hint = f" did you mean {' or '.join(repr(match) for match in near)}? Known" if near else " known"
    return UserError(f"{kind} {name!r} is unknown;{hint}: {', '.join(names) or '(none)'}")


def resolve(table: dict[str, str], name: str, kind: str) -> Any:
    """The object that `table` gives for `name`; what it is, the caller knows.

    Args:
        table: name -> "module:object".
        kind: what the names stand for, as it should read in the error ("reward", "metric").
    Raises: UserError with near names and the whole list when the name is not in the table.
    """
    if name not in table:
        raise unknown(name, table, kind)
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
