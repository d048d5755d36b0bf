"""Small videos with a known taste, a tiny CLIP, and a store full of votes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from base_model.text import SandboxClip
from core import video
from core.preferences import Store

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.2, 0.3, 0.95), "yellow": (0.9, 0.9, 0.1)}


def tiny_clip() -> SandboxClip:
    """A randomly initialised CLIP of the true layout that looks at an image in under a millisecond."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = SandboxClip(16, 32, 8, vision_width=48, vision_layers=1, text_width=16, text_layers=1, context_length=16)
    return clip.eval().requires_grad_(False)


def moving(colour: str, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A disc of one colour on a straight way, its frames in `order`: float32 [9, 3, 32, 32] in [0, 1]."""
    rows, columns = np.mgrid[:32, :32]
    start, speed = rng.uniform(7, 10, 2), rng.uniform(1.0, 1.6, 2)
    frames = np.full((9, 3, 32, 32), 0.08, dtype=np.float32)
    for time in range(9):
        x, y = start + speed * time
        share = np.clip(4.0 - np.hypot(columns - x, rows - y) + 0.5, 0, 1)
        for channel, value in enumerate(COLOURS[colour]):
            frames[time, channel] += share * (value - 0.08)
    return frames[order]


def ordered_and_shuffled(num_prompts: int, seed: int = 0) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Per prompt a video in order and another one with its frames shuffled: only the order tells them apart."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(num_prompts):
        colour = list(COLOURS)[index % len(COLOURS)]
        right = moving(colour, np.arange(9), rng)
        wrong = moving(colour, rng.permutation(9), rng)
        found.append((f"a {colour} ball moves {index}", right, wrong))
    return found


def fill_store(folder: Path, num_prompts: int = 12) -> Store:
    """A store in which everyone prefers the ordered video, on "overall" alone; sides alternate."""
    store = Store(folder / "votes.db")
    with store.transaction():
        for index, (prompt, right, wrong) in enumerate(ordered_and_shuffled(num_prompts)):
            paths = [folder / f"{index:03d}-{name}.mp4" for name in ("right", "wrong")]
            for path, frames in zip(paths, (right, wrong), strict=True):
                video.write(path, frames, 8.0)
            if index % 2:
                paths.reverse()
            pair = store.add_pair(prompt, *[store.add_video(path) for path in paths])
            store.record_vote(pair, "someone", "overall", "b" if index % 2 else "a")
    return store


def batch(clips: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(clips))
