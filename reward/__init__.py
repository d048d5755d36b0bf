"""Judges videos, and learns to.

REWARDS maps a name to what makes the reward. Those in HUB are made of weights, which may follow the name after a colon
as a hub id, a folder or a file ("pick-score:runs/pick"). A folder that `soralign reward train` wrote is loaded by its
path, a reward server by its URL, and several servers of one reward by their URLs with commas between them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from reward.protocol import Reward

REWARDS = {
    "clip": "reward.clip_score:shipped",
    "brightness": "reward.simple:brightness",
    "motion": "reward.simple:motion",
    "flicker": "reward.simple:flicker",
    "compressibility": "reward.simple:compressibility",
    "physics": "reward.simple:physics",
}
# name -> what makes the reward of its weights; without weights, of the authors'.
HUB = {
    "clip-score": "reward.clip_models:clip_score",
    "open-clip": "reward.clip_models:open_clip_cosine",
    "pick-score": "reward.clip_models:pick_score",
    "hps": "reward.clip_models:hps",
    "aesthetic": "reward.clip_models:aesthetic",
    "image-reward": "reward.image_reward:image_reward",
    "video-align": "reward.video_align:video_align",
}


def load(name: str) -> Reward:
    """A reward by name, a trained preference model by its folder, or a remote one by its URL.

    Raises: UserError for an unknown name (near names listed), a folder that holds no reward, or a silent server.
    """
    from core.errors import UserError
    from core.registry import resolve, unknown

    if name in REWARDS:
        return cast("Callable[[], Reward]", resolve(REWARDS, name, "reward"))()
    known, _, weights = name.partition(":")
    if known in HUB:
        if not weights and known == "open-clip":
            raise UserError("open-clip needs weights: open-clip:ARCHITECTURE/TAG, open-clip:hf-hub:ID")
        return cast("Callable[..., Reward]", resolve(HUB, known, "reward"))(*[weights] if weights else [])
    if known in REWARDS:
        raise UserError(f"reward {known!r} takes no weights, seen {name!r}")
    if name.startswith(("http://", "https://")):
        from reward.remote import RemoteReward

        return RemoteReward(name.split(","))
    if Path(name).exists():
        from reward import preference_model, vlm

        return vlm.load(name) if preference_model.kind(name) == vlm.KIND else preference_model.load(name)
    if "/" in name:
        raise UserError(f"reward {name!r} is no folder; train one with `soralign reward train --out {name}`")
    raise unknown(name, [*REWARDS, *HUB], "reward")
