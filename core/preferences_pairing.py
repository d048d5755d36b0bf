"""Which pairs are worth asking people about: those a reward model is torn on, mixed with pairs drawn blindly.

Scores come from files that `soralign reward score` writes, with one for every head of a preference model; nothing here
needs a model. Every pair keeps the probability with which it was drawn, so that rates over the drawn pairs can be
weighted back to all pairs (Horvitz and Thompson 1952). A quarter or more is drawn blindly, or those weights would
explode.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from core import files
from core.errors import UserError
from core.preferences import Store
from core.randomness import numpy_generator
from core.videoset import VideoItem

MIN_UNIFORM_SHARE = 0.25
ItemPair = tuple[VideoItem, VideoItem]


def pairs_of(sets: Sequence[Sequence[VideoItem]]) -> list[ItemPair]:
    """All pairs of one prompt: within the set when there is one, across sets when there are several."""
    by_prompt: dict[str, list[tuple[int, VideoItem]]] = {}
    for number, items in enumerate(sets):
        for item in items:
            by_prompt.setdefault(item.prompt, []).append((number, item))
    return [
        (a, b)
        for members in by_prompt.values()
        for (set_a, a), (set_b, b) in itertools.combinations(members, 2)
        if len(sets) == 1 or set_a != set_b
    ]


def videos_of(pairs: Iterable[ItemPair]) -> list[Path]:
    """The files of the pairs, each once."""
    return list(dict.fromkeys(item.video for item in itertools.chain(*pairs)))


def draw(
    pairs: Sequence[ItemPair],
    count: int,
    seed: int,
    scores: Sequence[Path | str] = (),
    uniform_share: float = MIN_UNIFORM_SHARE,
) -> tuple[list[ItemPair], list[float]]:
    """`count` of the pairs and their sampling probabilities: by score files where there are some, else blindly."""
    if not scores:
        return draw_uniform(pairs, count, seed)
    return draw_active(pairs, gaps_from_files(pairs, scores), count, seed, uniform_share)


def put(
    store: Store, drawn: Iterable[tuple[ItemPair, float]], *, source: str, target_votes: int, gold: str | None
) -> None:
    """Add pairs with their sampling probabilities, and their videos, to a project: all of them or none.

    `store.look_at(videos_of(pairs))` first, or whoever labels waits until the last video is decoded.
    """
    with store.transaction():
        for (a, b), probability in drawn:
            ids = [store.add_video(item.video, model=item.model, seed=item.seed) for item in (a, b)]
            store.add_pair(
                a.prompt, *ids, source=source, sampling_probability=probability, target_votes=target_votes, gold=gold
            )


def draw_uniform(pairs: Sequence[ItemPair], count: int, seed: int) -> tuple[list[ItemPair], list[float]]:
    """`count` of the pairs, each equally likely, and their sampling probabilities."""
    return _drawn(pairs, np.full(len(pairs), count / len(pairs)), seed)


def draw_active(
    pairs: Sequence[ItemPair],
    gaps: ArrayLike,
    count: int,
    seed: int,
    uniform_share: float = MIN_UNIFORM_SHARE,
) -> tuple[list[ItemPair], list[float]]:
    """`count` of the pairs, more likely the more an answer would teach, and their sampling probabilities.

    Args:
        gaps: [members, pairs] score of a minus score of b; log-odds that a wins, by each model of the ensemble.
        uniform_share: part of the probability that is the same for every pair.
    Raises: UserError for a share below 0.25.
    """
    if not MIN_UNIFORM_SHARE <= uniform_share <= 1:
        raise UserError(f"the uniform share must lie between {MIN_UNIFORM_SHARE} and 1, seen {uniform_share}")
    worth = information(gaps)
    even = np.full(len(pairs), count / len(pairs))
    return _drawn(pairs, uniform_share * even + (1 - uniform_share) * _inclusion(worth, count), seed)


def information(gaps: ArrayLike) -> NDArray[np.float64]:
    """What a vote is expected to teach about each pair, [pairs], in nats: the entropy of the answer by the ensemble's
    mean (Fisher's p(1-p) in other units) plus how much its members disagree about it (BALD, Houlsby et al. 2011)."""
    probability = special.expit(np.atleast_2d(np.asarray(gaps, dtype=float)))
    entropy = _entropy(probability.mean(axis=0))
    return entropy + (entropy - _entropy(probability).mean(axis=0))


def gaps_from_files(pairs: Sequence[ItemPair], paths: Sequence[Path | str]) -> NDArray[np.float64]:
    """Score differences [members, pairs], from score files: a member per head of a preference model ("heads"), or one
    ("total") for any other reward. What one reward gave may stand in several files, one a video set.

    Raises: UserError when a reward's score of a video is missing, or a file is not of `soralign reward score`.
    """
    rewards: dict[str, dict[tuple[Path, str], list[Any]]] = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise UserError(f"{path}: no such score file; `soralign reward score VIDEOSET --out FILE` writes one")
        for number, row in enumerate(files.read_lines(path, whole=True), start=1):
            try:
                seen = _full(path.parent / row["video"]), row["prompt"]
                rewards.setdefault(row["reward"], {})[seen] = [*(row.get("heads") or [row["total"]])]
            except (KeyError, TypeError):
                raise UserError(
                    f"{path}: row {number} is not of `soralign reward score`, which writes video, prompt, reward, "
                    "total; score the set again"
                ) from None
    members = []
    for reward, scores in rewards.items():
        sides = [
            [scores.get((_full(item.video), item.prompt), [None]) for item in side] for side in zip(*pairs, strict=True)
        ]
        for item, values in zip(itertools.chain(*zip(*pairs, strict=True)), itertools.chain(*sides), strict=True):
            if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
                raise UserError(f"no score of {reward!r} for {item.video} of {item.prompt!r}; score the whole set")
        try:
            a, b = (np.array(side, dtype=float) for side in sides)
        except ValueError:
            raise UserError(f"scores of {reward!r} have different numbers of heads; score the sets again") from None
        members.append((a - b).T)
    if not members:
        raise UserError(f"no score in {', '.join(map(str, paths))}")
    gaps = np.concatenate(members)
    # A reward's unit is its own. One unit of spread is one log-odds, as Bradley-Terry scores have it.
    spread = gaps.std(axis=1, keepdims=True)
    return gaps / np.where(spread > 0, spread, 1.0)


def _full(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _entropy(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return special.entr(probability) + special.entr(1 - probability)


def _inclusion(worth: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Probabilities in [0, 1] that add up to `count`, in proportion to `worth` where they do not touch 1."""
    certain = np.zeros(len(worth), dtype=bool)
    while True:
        rest = np.where(certain, 0.0, np.maximum(worth, 1e-9))
        probability = np.where(certain, 1.0, (count - certain.sum()) * rest / max(rest.sum(), 1e-300))
        over = probability > 1 + 1e-12
        if not over.any():
            return np.minimum(probability, 1.0)
        certain |= over


def _drawn(
    pairs: Sequence[ItemPair], probability: NDArray[np.float64], seed: int
) -> tuple[list[ItemPair], list[float]]:
    """Systematic sampling: the probabilities laid end to end in random order, one pick per whole step. Exactly their
    sum is drawn, each pair with exactly its probability (Madow 1949)."""
    generator = numpy_generator(seed, "preference pairs")
    order = generator.permutation(len(pairs))
    edges = np.concatenate([[0.0], np.cumsum(probability[order])])
    count = round(float(edges[-1]))
    picks = np.searchsorted(edges, generator.random() + np.arange(count), side="right") - 1
    chosen = sorted(int(order[pick]) for pick in np.minimum(picks, len(pairs) - 1))
    return [pairs[index] for index in chosen], [float(min(probability[index], 1.0)) for index in chosen]
