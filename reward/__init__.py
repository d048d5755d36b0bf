"""Judges videos, and learns to.

REWARDS maps a name to what makes the reward. A folder that `soralign reward train` wrote is loaded by its path, a
reward server by its URL, and several servers of one reward by their URLs with commas between them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from reward.protocol import Reward

REWARDS = {
    "clip": "reward.clip_score:shipped",
    "brightness": "reward.simple:Brightness",
    "motion": "reward.simple:Motion",
    "flicker": "reward.simple:Flicker",
    "compressibility": "reward.simple:Compressibility",
    "physics": "reward.simple:Physics",
}


def load(name: str) -> Reward:
    """A reward by name, a trained preference model by its folder, or a remote one by its URL.

    Raises: UserError for an unknown name (near names listed), a folder that holds no reward, or a silent server.
    """
    from core.errors import UserError
    from core.registry import resolve

    if name in REWARDS:
        return cast("Callable[[], Reward]", resolve(REWARDS, name, "reward"))()
    if name.startswith(("http://", "https://")):
        from reward.remote import RemoteReward

        return RemoteReward(name.split(","))
    if Path(name).exists():
        from reward import preference_model

        return preference_model.load(name)
    if "/" in name:
        raise UserError(f"reward {name!r} is no folder; train one with `soralign reward train --out {name}`")
    return cast("Callable[[], Reward]", resolve(REWARDS, name, "reward"))()
