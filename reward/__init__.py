"""Judges videos, and learns to.

REWARDS maps a name to what makes the reward; a folder that `soralign reward train` wrote is loaded by its path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from reward.protocol import Reward

REWARDS = {
    "clip": "reward.clip_score:shipped",
    "brightness": "reward.brightness:Brightness",
    "motion": "reward.motion:Motion",
}


def load(name_or_path: str) -> Reward:
    """A reward by name, or a trained preference model by its folder.

    Raises: UserError for an unknown name (near names listed) or a folder that holds no reward.
    """
    from core.errors import UserError
    from core.registry import resolve

    if name_or_path in REWARDS:
        return cast("Callable[[], Reward]", resolve(REWARDS, name_or_path, "reward"))()
    if Path(name_or_path).exists():
        from reward import preference_model

        return preference_model.load(name_or_path)
    if "/" in name_or_path:
        raise UserError(
            f"reward {name_or_path!r} is no folder; train one with `soralign reward train --out {name_or_path}`"
        )
    return cast("Callable[[], Reward]", resolve(REWARDS, name_or_path, "reward"))()
