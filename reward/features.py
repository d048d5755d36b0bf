"""What the frozen parts see of a video, as 70 numbers that a small head can learn from a few hundred votes.

Four sources. The CLIP image tower on five frames beside the prompt's embedding: what is shown, and does it
change. The hue moments of every frame (`moments.py`): is each thing whole, lasting, of one size, and how does it move.
And what ties the two: which hues the prompt asks for, found by showing the tower one plain disc per hue, and which
motion and size it asks for, found by asking the text tower for pairs of opposite words. Last the motion tower
(`motion_tower.py`), which knows what a bounce looks like and what a spoilt clip; the others know nothing of laws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from base_model.text import SandboxClip
from reward.moments import FEATURES, SIDE, hue_colours, moments
from reward.motion_tower import NUM_FRAMES, SOLID, MotionTower, grey_grid
from reward.protocol import evenly_spaced

NUM_IMAGES = 5  # frames that the image tower sees: the tower is nine tenths of the cost
CONTRAST = 20.0  # of the softmax that picks the hues a prompt asks for
# Opposite wordings; the second is taken from the first. What is seen of the same thing stands in `_motion`.
OPPOSITES = (
    ("a {} ball moves right", "a {} ball moves left"),
    ("a {} ball moves down", "a {} ball moves up"),
    ("a {} ball falls under gravity and bounces on the floor", "a {} ball moves at constant speed without gravity"),
    ("a {} ball moves", "a {} ball stays still"),
    ("a large {} ball moves", "a small {} ball moves"),
)
FILLERS = ("red", "green", "blue", "yellow")


@dataclass(frozen=True)
class Questions:
    """What the towers answer once: hue [hue, dim], the embedding of a plain disc per hue; words [axis, dim], the
    direction from a wording to its opposite, of length 1."""

    hue: Tensor
    words: Tensor


@torch.no_grad()
def questions(clip: SandboxClip) -> Questions:
    """Show the image tower a disc of every hue, and the text tower every pair of opposites."""
    side = clip.image_size
    middle = torch.arange(side, device=clip.device) + 0.5 - side / 2
    disc = (torch.hypot(middle[:, None], middle[None]) < 0.11 * side).float()
    colours = hue_colours().to(clip.device)[:, :, None, None]
    images = 0.08 + disc * (colours - 0.08)
    hue = clip.encode_frames(images[:, None])[:, 0]
    ends = [[clip.encode_text([text.format(word) for word in FILLERS]).mean(0) for text in pair] for pair in OPPOSITES]
    return Questions(hue, F.normalize(torch.stack([first - second for first, second in ends]), dim=-1))


def features(clip: SandboxClip, asked: Questions, tower: MotionTower, frames: Tensor, prompts: Sequence[str]) -> Tensor:
    """Features [batch, feature] of frames [batch, time, 3, height, width] in [0, 1]; carries gradients to `frames`.

    A longer or shorter video is brought to NUM_FRAMES, by taking or repeating frames.
    """
    frames = frames[:, evenly_spaced(frames.shape[1], NUM_FRAMES)]
    image = clip.encode_frames(frames[:, evenly_spaced(NUM_FRAMES, NUM_IMAGES)])
    text = clip.encode_text(prompts)
    now, mass = moments(frames)
    relevance = text @ asked.hue.T
    relevance = relevance - relevance.mean(1, keepdim=True)
    wanted = (CONTRAST * relevance).softmax(1)
    amount = mass.mean(1)
    share = amount / (amount.sum(1, keepdim=True) + 0.25)
    by_hue = _by_hue(now, mass)
    motion = _motion(now, mass, share)
    parts = [
        _shown(image, text),
        torch.einsum("bhf,bh->bf", by_hue, share),
        torch.einsum("bhf,bh->bf", by_hue, wanted),
        _whole(mass, share),
        _agreement(mass, share, wanted, relevance),
        motion,
        motion[:, : len(OPPOSITES)] * (text @ asked.words.T) * 4,
        tower.features(now, mass, grey_grid(frames), prompts),
    ]
    return torch.cat(parts, 1)


def _series(values: Tensor) -> list[Tensor]:
    """Mean, least, largest over time [batch, time]."""
    return [values.mean(1), values.amin(1), values.amax(1)]


def _spread(values: Tensor) -> Tensor:
    """Standard deviation over time (dim 1) with a gradient at 0."""
    return torch.sqrt(values.var(1, correction=0) + 1e-8)


def _shown(image: Tensor, text: Tensor) -> Tensor:
    """Agreement of images and prompt, and how much the images change, [batch, 8]."""
    cosine = (image * text.unsqueeze(1)).sum(-1)
    change = 1 - (image[:, 1:] * image[:, :-1]).sum(-1)
    score = (F.normalize(image.mean(1), dim=-1) * text).sum(-1)
    return torch.stack([*_series(cosine), _spread(cosine), *_series(change), score], 1)


def _path(now: Tensor, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Velocity [batch, time - 1, hue, 2] and bend [batch, time - 2, hue, 2] in pixels of the pooled picture, and
    presence [batch, time, hue] in [0, 1]; what is not there does not move."""
    present = mass / (mass + SOLID)
    place = SIDE * now[..., [FEATURES.index("x"), FEATURES.index("y")]]
    step = place[:, 1:] - place[:, :-1]
    both = (present[:, 1:] * present[:, :-1]).unsqueeze(-1)
    return step * both, (step[:, 1:] - step[:, :-1]) * both[:, 1:] * both[:, :-1], present


def _length(vector: Tensor) -> Tensor:
    return torch.sqrt((vector * vector).sum(-1) + 1e-8)


def _by_hue(now: Tensor, mass: Tensor) -> Tensor:
    """Is the thing of each hue in one piece, lasting, even, and smooth in its motion? [batch, hue, 16]"""
    width, height = now[..., FEATURES.index("width")], now[..., FEATURES.index("height")]
    # A disc has variance area / 2 pi along both axes together with its chroma of about a half; pieces far apart more.
    torn = ((width * width + height * height) / (mass / SIDE**2 / (2 * math.pi) + 1e-3)).log1p()
    most = mass.amax(1)
    left = mass / (most.unsqueeze(1) + 0.5)
    velocity, bend, present = _path(now, mass)
    speed, bent = _length(velocity), _length(bend)
    jerk = (bent[:, 1:] - bent[:, :-1]).abs()
    loss = (left[:, 1:] - left[:, :-1]).abs()
    columns = [torn.mean(1), torn.amax(1), _spread(torn), left.mean(1), left.amin(1), _spread(left)]
    columns += [loss.amax(1), loss.mean(1), speed.mean(1), speed.amax(1), speed.amax(1) / (speed.mean(1) + 0.2)]
    columns += [bent.mean(1).log1p(), bent.amax(1).log1p(), jerk.mean(1).log1p(), most.log1p()]
    return torch.stack([*columns, _spread(now[..., FEATURES.index("lightness")])], -1)


def _whole(mass: Tensor, share: Tensor) -> Tensor:
    """How much colour there is in all, how steady, and over how many hues, [batch, 7]."""
    total = mass.sum(2)
    mean = total.mean(1)
    jump = (total[:, 1:] - total[:, :-1]).abs().amax(1) / (mean + 1)
    mixed = -(share * (share + 1e-6).log()).sum(1)
    count = torch.sigmoid(4 * (mass.amax(1) - 2 * SOLID)).sum(1)
    steady = [mean.log1p(), _spread(total) / (mean + 1), total.amin(1) / (total.amax(1) + 1)]
    return torch.stack([*steady, share.amax(1), mixed, jump, count], 1)


def _agreement(mass: Tensor, share: Tensor, wanted: Tensor, relevance: Tensor) -> Tensor:
    """How much of the colour is of the hues that the prompt asks for, and always, [batch, 5]."""
    each = torch.einsum("bth,bh->bt", mass, wanted) / (mass.sum(2) + 1)
    right = [(wanted * share).sum(1), each.amin(1), _spread(each)]
    return torch.stack([*right, 10 * (share * relevance).sum(1), (mass.amax(1) * relevance).sum(1) / 20], 1)


def _motion(now: Tensor, mass: Tensor, share: Tensor) -> Tensor:
    """Signed motion, weighted by mass, in the order of OPPOSITES (way right, way down, bend down, speed, size), then
    how much faster and how much more the end is than the beginning, [batch, 7]. Only these know the arrow of time."""
    velocity, bend, _ = _path(now, mass)
    speed = _length(velocity)
    half = speed.shape[1] // 2
    way = torch.einsum("bthc,bh->bc", velocity, share) / 4
    down = torch.einsum("bth,bh->b", bend[..., 1].clamp(-2, 2), share) / 4
    faster = ((speed[:, half:].mean(1) - speed[:, :half].mean(1)) * share).sum(1)
    total = mass.sum(2)
    more = (total[:, half:].mean(1) - total[:, :half].mean(1)) / (total.mean(1) + 1)
    size = (mass.median(1).values.clamp(min=0) * share).sum(1) / 20 - 1
    return torch.stack([way[:, 0], way[:, 1], down, (speed.mean(1) * share).sum(1), size, faster, more], 1)
