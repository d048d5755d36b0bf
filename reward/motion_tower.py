"""A small tower that watches things move: which words fit the course of each thing, and is the course lawful?

An image tower that was taught single frames hardly knows a bounce from a throw. This one reads what `moments.py` says
of every hue over time, one token a thing. It was taught on clips of the simulator (`motion_lessons.py`): by which words
a clip is described, whether web noise spoilt it, how far its course was bent after the fact. It has met neither votes
nor the gold taste, and it knows no other world. Its weights ship, frozen, as a part of the sandbox's backbone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.files import replacing
from reward.moments import FEATURES, NUM_HUES, SIDE

WEIGHTS = Path(__file__).parent / "weights" / "motion_tower.safetensors"
NUM_FRAMES = 17
GRID = 8  # cells a side of the grey picture that shows floor, wall and rod
NUM_THINGS = 4  # hues that are looked at, the fullest ones
PRESENT = 3.0  # pixels of colour in the fullest frame from which a hue is a thing
SOLID = 1.5  # pixels of colour at which a thing counts as half there
LOWEST = -6.0  # log chance of a word below which it does not matter how wrong it is
PLACE = [FEATURES.index("x"), FEATURES.index("y")]


class MotionTower(nn.Module):
    """A query that looks at things and at the picture's grey, then says words, and whether all is whole and lawful.

    Args: words: that it knows, in the order of its answers.
    """

    def __init__(self, words: Sequence[str], width: int = 96, num_layers: int = 2) -> None:
        super().__init__()
        self.words = tuple(words)
        numbers = NUM_FRAMES * (len(FEATURES) + 1) + 2 * (NUM_FRAMES - 1) + 2 * (NUM_FRAMES - 2)
        self.thing = nn.Sequential(nn.Linear(numbers, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.hue = nn.Parameter(0.1 * torch.randn(NUM_HUES, width))
        self.grey = nn.Linear(GRID * GRID, width)
        self.query = nn.Parameter(0.1 * torch.randn(width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.answer = nn.Linear(width, len(self.words) + 2)

    def forward(self, now: Tensor, mass: Tensor, grey: Tensor) -> Tensor:
        """Answers [batch, word + 2] in logits: does each word fit; is the clip free of web noise; is its course unbent.

        Args: now [batch, NUM_FRAMES, hue, feature] and mass [batch, NUM_FRAMES, hue] of `moments`;
            grey [batch, GRID * GRID] of `grey_grid`.
        """
        most, which = mass.amax(1).topk(NUM_THINGS)
        things = self.thing(course(_chosen(now, which), _chosen(mass, which))) + self.hue[which]
        always = torch.ones(len(now), 2, dtype=torch.bool, device=now.device)
        query = self.query.expand(len(now), 1, -1)
        tokens = torch.cat([query, self.grey(grey).unsqueeze(1), things], 1)
        hidden = self.layers(tokens, src_key_padding_mask=~torch.cat([always, most > PRESENT], 1))
        return self.answer(self.norm(hidden[:, 0]))

    def features(self, now: Tensor, mass: Tensor, grey: Tensor, prompts: Sequence[str]) -> Tensor:
        """Log chances of the prompt's words (mean, and the three least), then the last two answers, [batch, 6].

        Words that it never met say nothing.
        """
        answers = self(now, mass, grey)
        said = torch.tensor([self.said(prompt) for prompt in prompts], dtype=torch.bool, device=now.device)
        chances = F.logsigmoid(answers[:, :-2]).clamp(min=LOWEST).masked_fill(~said, 0.0)
        mean = chances.sum(1, keepdim=True) / said.sum(1, keepdim=True).clamp(min=1)
        return torch.cat([mean, chances.topk(3, largest=False).values, answers[:, -2:]], 1)

    def said(self, prompt: str) -> list[bool]:
        """Which of its words a prompt has."""
        there = set(split(prompt))
        return [word in there for word in self.words]

    def save(self, path: Path) -> None:
        """In half precision."""
        state = {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}
        with replacing(path) as temporary:
            save_file(state, temporary, metadata={"words": " ".join(self.words)})


def load(path: Path = WEIGHTS) -> MotionTower:
    """The shipped tower, or one saved; in evaluation mode, its weights frozen."""
    with safe_open(path, framework="pt") as file:
        tower = MotionTower(file.metadata()["words"].split())
    tower.load_state_dict(load_file(path))
    return tower.float().eval().requires_grad_(False)


def split(prompt: str) -> list[str]:
    """Its words, in small letters."""
    return re.findall("[a-z]+", prompt.lower())


def _chosen(values: Tensor, which: Tensor) -> Tensor:
    """Of values [batch, time, hue, ...] the hues which [batch, thing], as [batch, time, thing, ...]."""
    return values[torch.arange(len(values)).unsqueeze(1), :, which].transpose(1, 2)


def course(now: Tensor, mass: Tensor) -> Tensor:
    """Each hue's features, masses, steps and bends over time as one vector, [batch, hue, number], all about 1."""
    present = (mass / (mass + SOLID)).unsqueeze(-1)
    place = now[..., PLACE] * SIDE
    step = place.diff(dim=1)
    both = present[:, 1:] * present[:, :-1]
    bend = 4 * step.diff(dim=1) * both[:, 1:] * both[:, :-1]
    level = torch.cat([4 * now * present, mass.log1p().unsqueeze(-1) / 2], -1)
    return torch.cat([part.transpose(1, 2).flatten(2) for part in (level, step * both, bend)], -1)


def grey_grid(frames: Tensor) -> Tensor:
    """Grey level of the mean picture in GRID x GRID cells, less its mean, [batch, cell], about 1."""
    grey = F.adaptive_avg_pool2d(frames[:, ::4].mean((1, 2)), GRID).flatten(1)
    return 4 * (grey - grey.mean(1, keepdim=True))
