"""What a preference model learns from: votes as tensors, and their split by prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.errors import UserError
from core.preferences import ASPECTS, Vote
from core.randomness import numpy_generator
from reward.bradley_terry import TIE, A, B
from reward.dawid_skene import consensus
from reward.train_config import TrainConfig

CHOICE = {"a": A, "tie": TIE, "both_bad": TIE, "b": B}


@dataclass(frozen=True)
class Examples:
    """Votes as tensors.

    videos, prompts [video]: each distinct pairing of a file and a prompt; pair [pair, 2]: indices of a and b;
    votes [pair, aspect, 3]: shares over (a, tie, b), all zero where nobody was asked.
    """

    videos: tuple[Path, ...]
    prompts: tuple[str, ...]
    pair: Tensor
    votes: Tensor
    aspects: tuple[str, ...]

    @property
    def choices(self) -> Tensor:
        """[pair, aspect] the most frequent choice; TIE where two are equally frequent, or nobody was asked."""
        first, second = self.votes.topk(2, -1).values.unbind(-1)
        return torch.where(first > second, self.votes.argmax(-1), TIE)

    @property
    def pair_prompts(self) -> list[str]:
        return [self.prompts[index] for index in self.pair[:, 0].tolist()]


def examples(votes: Sequence[Vote], reliability: bool = True) -> Examples:
    """Votes of one pair and aspect become shares, "both bad" counts as a tie, "skip" as not asked.

    Args: reliability: where several people judged the same pairs, shares are the chances of Dawid and Skene's model
        instead of counts, so that a careful vote outweighs a careless one.
    Raises: UserError when no vote remains, or when every remaining vote is a tie.
    """
    asked = [vote for vote in votes if vote.choice in CHOICE]
    if not asked:
        raise UserError(
            f"no vote to learn from among {len(votes)} (skips do not count); label some with `soralign label`"
        )
    found = {vote.aspect for vote in asked}
    order = (*ASPECTS[:-1], *sorted(found - set(ASPECTS)), ASPECTS[-1])  # what a project asks last stands last
    aspects = tuple(name for name in order if name in found)
    rows: dict[tuple[str, Path, Path], int] = {}
    people: dict[str, int] = {}
    by_aspect: list[list[tuple[int, int, int]]] = [[] for _ in aspects]
    for vote in asked:
        row = rows.setdefault((vote.prompt, vote.video_a, vote.video_b), len(rows))
        person = people.setdefault(vote.annotator, len(people))
        by_aspect[aspects.index(vote.aspect)].append((row, person, CHOICE[vote.choice]))
    shares = torch.zeros(len(rows), len(aspects), 3)
    for column, given in enumerate(by_aspect):
        shares[:, column] = _shares(given, len(rows), reliability)
    if shares[..., [A, B]].sum() == 0:
        raise UserError(f"all {len(rows)} pairs are ties; a reward needs some votes for a or b")
    index: dict[tuple[Path, str], int] = {}
    pair = [[index.setdefault((path, prompt), len(index)) for path in (a, b)] for prompt, a, b in rows]
    videos, prompts = zip(*index, strict=True)
    return Examples(videos, prompts, torch.tensor(pair), shares, aspects)


def _shares(given: Sequence[tuple[int, int, int]], num_pairs: int, reliability: bool) -> Tensor:
    """Votes (pair, person, choice) of one aspect as shares [pair, 3]; all zero where nobody was asked."""
    shares = torch.zeros(num_pairs, 3)
    pair, person, choice = (list(column) for column in zip(*given, strict=True))
    shares.index_put_((torch.tensor(pair), torch.tensor(choice)), torch.ones(len(given)), accumulate=True)
    count = shares.sum(-1, keepdim=True)
    several = (count > 1).squeeze(-1)
    shares = shares / count.clamp(min=1)
    if reliability and several.any() and len(set(person)) > 1:
        asked = torch.nonzero(count.squeeze(-1)).squeeze(-1)
        number = {row: position for position, row in enumerate(asked.tolist())}
        found = consensus([number[row] for row in pair], person, choice, 3)
        shares[asked] = torch.from_numpy(found.posterior).float()
    return shares


def split(prompts: Sequence[str], config: TrainConfig) -> list[Tensor]:
    """Row numbers of the training, calibration and held-out pairs; all pairs of one prompt go to one side.

    Raises: UserError with fewer than five prompts.
    """
    distinct = sorted(set(prompts))
    if len(distinct) < 5:
        raise UserError(f"votes on {len(distinct)} prompts cannot be split; label pairs of at least 5 prompts")
    order = numpy_generator(config.seed, "reward split").permutation(len(distinct))
    num_held_out = max(1, round(config.held_out_share * len(distinct)))
    num_calibration = max(1, round(config.calibration_share * len(distinct)))
    bounds = {0: 2, num_held_out: 1, num_held_out + num_calibration: 0}
    side = {}
    for position, index in enumerate(order.tolist()):
        side[distinct[index]] = [kind for bound, kind in bounds.items() if bound <= position][-1]
    rows = [[row for row, prompt in enumerate(prompts) if side[prompt] == kind] for kind in range(3)]
    return [torch.tensor(row, dtype=torch.long) for row in rows]
