"""What the motion tower is taught, by the simulator alone: words, web noise, and courses that are bent on purpose.

A clip is rendered once and kept as moments; a step mirrors some of them, bends some, and asks for the words of the
descriptive caption. So a minute or two of rendering and a few of teaching make the tower on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from base_model.world import dataset
from base_model.world.caption import caption
from base_model.world.spec import HEIGHT
from core.cli import option, required
from core.errors import UserError
from core.progress import track
from core.randomness import seed_for, torch_generator
from reward.moments import FEATURES, moments
from reward.motion_tower import GRID, PLACE, PRESENT, MotionTower, grey_grid, split

BATCH = 64  # clips rendered at once
EXAM = 1024  # clips that it is not taught on
ACROSS = FEATURES.index("x")
MIRRORED = {"left": "right", "right": "left"}
SHAKE = 0.0015  # of a frame's side: a codec's noise in a centroid, which is no fault
STRENGTH = 6.0  # of the last two answers beside the words


@dataclass(frozen=True)
class Lessons:
    """Teach the motion tower on clips of the simulator; minutes on one core."""

    out: str = required("file for the weights (.safetensors)")
    num_clips: int = option(16384, "clips that are rendered")
    steps: int = option(6000, "optimizer steps")
    batch: int = option(96, "clips a step")
    learning_rate: float = option(2e-3, "of AdamW; falls to zero over the second half")
    noise: float = option(0.25, "share of clips that web noise spoils")
    seed: int = option(0, "decides clips, weights and steps")

    def __post_init__(self) -> None:
        for name in ("num_clips", "steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, seen {getattr(self, name)}")
        if not (self.learning_rate > 0 and 0 <= self.noise <= 1):
            raise UserError(
                f"learning_rate must be above 0 and noise in [0, 1], seen {self.learning_rate} and {self.noise}"
            )


@dataclass(frozen=True)
class Pool:
    """Clips as the tower sees them: now, mass and grey as `MotionTower.forward` takes them; said and mirrored
    [clip, word], the words of the caption and of that of the mirror image; whole [clip], 1 without web noise."""

    now: Tensor
    mass: Tensor
    grey: Tensor
    said: Tensor
    mirrored: Tensor
    whole: Tensor
    words: tuple[str, ...]


def teach(lessons: Lessons) -> MotionTower:
    """A tower taught from nothing."""
    pool = render(seed_for(lessons.seed, "motion clips"), lessons.num_clips, lessons.noise)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(lessons.seed, "motion tower"))
        tower = MotionTower(pool.words)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=lessons.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 100, max(0.02, 2 * (1 - step / lessons.steps)))
    )
    rng = torch_generator(lessons.seed, "motion lessons")
    for _ in track(range(lessons.steps), "teaching the motion tower"):
        rows = torch.randint(len(pool.now), (lessons.batch,), generator=rng)
        optimizer.zero_grad()
        loss(tower, pool, rows, rng).backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        rate.step()
    return tower.eval().requires_grad_(False)


@torch.no_grad()
def examined(tower: MotionTower, lessons: Lessons) -> tuple[float, float]:
    """Losses of words and of faults, as `losses`, on EXAM clips that `lessons` does not teach."""
    pool = render(seed_for(lessons.seed, "motion exam"), EXAM, lessons.noise, tower.words)
    words, faults = losses(tower, pool, torch.arange(EXAM), torch_generator(lessons.seed, "motion exam"))
    return float(words), float(faults)


def render(seed: int, num_clips: int, noise: float, words: Sequence[str] = ()) -> Pool:
    """Clips of the training split, one and two objects, as moments.

    Args: noise: share of clips that web noise spoils. words: that are asked for; without any, all of the captions.
    """
    found: list[list[Tensor]] = [[], [], []]
    captions, whole = [], []
    for start in track(range(0, num_clips, BATCH), "clips"):
        numbers = range(start, min(start + BATCH, num_clips))
        clips = [dataset.make_clip(seed, index, most_objects=2, noise=noise) for index in numbers]
        frames = torch.stack([torch.from_numpy(clip.frames) for clip in clips])
        for part, value in zip(found, (*moments(frames), grey_grid(frames)), strict=True):
            part.append(value)
        captions += [split(caption(clip.spec)) for clip in clips]  # of what was drawn: a wrong caption is not taught
        whole += [clip.corruption in (None, "caption") for clip in clips]
    words = tuple(words) or tuple(sorted({word for text in captions for word in text}))
    mirrored = [[MIRRORED.get(word, word) for word in text] for text in captions]
    said, other = (torch.tensor([[float(w in text) for w in words] for text in each]) for each in (captions, mirrored))
    now, mass, grey = (torch.cat(part) for part in found)
    return Pool(now, mass, grey, said, other, torch.tensor(whole).float(), words)


def loss(tower: MotionTower, pool: Pool, rows: Tensor, rng: torch.Generator) -> Tensor:
    """What is made small; arguments as for `losses`."""
    words, faults = losses(tower, pool, rows, rng)
    return words + STRENGTH * faults


def losses(tower: MotionTower, pool: Pool, rows: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the words where the course is still theirs, in nats a clip; and of web noise and of how lawful
    the bent course is, in nats an answer.

    Args: rows: of the pool; half of them are shown as in a mirror.
    """
    turned = torch.rand(len(rows), generator=rng) < 0.5
    now = pool.now[rows]
    side = torch.ones(len(FEATURES)).index_fill(0, torch.tensor(ACROSS), -1.0)
    now = torch.where(turned[:, None, None, None], now * side, now)
    grey = pool.grey[rows]
    grey = torch.where(turned[:, None], grey.unflatten(1, (GRID, GRID)).flip(2).flatten(1), grey)
    now, mass, lawful = bent(now, pool.mass[rows], rng)
    place = now[..., PLACE]
    now = torch.cat([now[..., :1], place + SHAKE * torch.randn(place.shape, generator=rng), now[..., 3:]], -1)
    mass = mass * (1 + 0.03 * torch.randn(mass.shape, generator=rng))
    answers = tower(now, mass, grey)
    said = torch.where(turned[:, None], pool.mirrored[rows], pool.said[rows])
    whole = pool.whole[rows]
    words = F.binary_cross_entropy_with_logits(answers[:, :-2], said, reduction="none").sum(1)
    faults = F.binary_cross_entropy_with_logits(answers[:, -2:], torch.stack([whole, lawful], 1))
    return (words * lawful * (0.3 + 0.7 * whole)).mean(), faults


def bent(now: Tensor, mass: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Courses of which two ninths are warped or stopped in time, two ninths pushed aside and two ninths faded.

    Returns: now, mass, and how lawful each course still is, [batch] in (0, 1]: a half where something is a pixel away
        from where it was, or a quarter fuller or fainter in its logarithm.
    """
    batch, time = mass.shape[:2]
    kind = 9 * torch.rand(batch, 1, generator=rng)
    clock = torch.where(kind < 2, _clock(batch, time, rng), torch.arange(time).float())
    new, heavy = _at(now, clock), _at(mass, clock)
    push = _push(batch, time, rng) / HEIGHT * ((kind >= 2) & (kind < 4)).unsqueeze(-1)
    fade = (-_even(batch, 0, 1.5, rng) * _wave(batch, time, rng).abs() * ((kind >= 4) & (kind < 6))).exp()
    heavy = heavy * fade.unsqueeze(-1)
    size = fade.sqrt()[..., None, None]  # a thing of half the mass is smaller by the root of it
    new = torch.cat([new[..., :1] * size, new[..., 1:3] + push.unsqueeze(2), new[..., 3:5] * size, new[..., 5:]], -1)
    thing = (mass.amax(1, keepdim=True) > PRESENT).float()
    moved = HEIGHT * ((new - now)[..., PLACE].norm(dim=-1) * thing * (mass > 1)).amax((1, 2))
    faded = ((heavy.log1p() - mass.log1p()).abs() * thing).amax((1, 2))
    return new, heavy, 1 / (1 + moved.square() + (4 * faded).square())


def _even(batch: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(batch, 1, generator=rng)


def _wave(batch: int, time: int, rng: torch.Generator) -> Tensor:
    """Smooth noise over time, [batch, time], about 1 where it is largest."""
    level = torch.randn(batch, 1, 4, generator=rng)
    return F.interpolate(level, time, mode="linear", align_corners=True).squeeze(1)


def _clock(batch: int, time: int, rng: torch.Generator) -> Tensor:
    """The moment that each frame shows, [batch, time] in frames: now faster, now slower; a quarter of them stops."""
    speed = (_even(batch, 0, 1.5, rng) * _wave(batch, time, rng)).exp()
    passed = speed.cumsum(1) - speed[:, :1]
    clock = passed / passed[:, -1:] * (time - 1)
    stops = torch.rand(batch, 1, generator=rng) < 0.25
    held = torch.minimum(torch.arange(time).float().expand(batch, -1), _even(batch, 0, time, rng).floor())
    return torch.where(stops, held, clock)


def _push(batch: int, time: int, rng: torch.Generator) -> Tensor:
    """By how much everything is pushed aside, [batch, time, 2] in pixels: swaying, in one jump, or shaking."""
    sway = torch.stack([_wave(batch, time, rng), _wave(batch, time, rng)], -1)
    late = torch.arange(time) >= _even(batch, 2, time - 2, rng)
    jump = late.unsqueeze(-1) * torch.randn(batch, 1, 2, generator=rng)
    shaking = torch.randn(batch, time, 2, generator=rng)
    kind = torch.rand(batch, 1, 1, generator=rng)
    way = torch.where(kind < 0.2, shaking, torch.where(kind < 0.45, jump, sway))
    return way * _even(batch, 0, 4, rng).unsqueeze(-1)


def _at(values: Tensor, clock: Tensor) -> Tensor:
    """Values [batch, time, ...] at the moments clock [batch, time], linear between frames."""
    rows = torch.arange(len(values)).unsqueeze(1)
    low = clock.floor().long().clamp(0, values.shape[1] - 1)
    high = (low + 1).clamp(max=values.shape[1] - 1)
    share = (clock - low).reshape(*clock.shape, *[1] * (values.ndim - 2))
    return values[rows, low] + (values[rows, high] - values[rows, low]) * share
