"""Which pairs are worth asking people about: those a reward model is torn on, mixed with pairs drawn blindly.

Scores come from files that `soralign reward score` writes, with one for every head of a preference model; nothing here
needs a model. Every pair keeps the probability with which it was drawn, so that rates over the drawn pairs can be
weighted back to all pairs (Horvitz and Thompson 1952). A quarter or more is drawn blindly, or those weights would
explode.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

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
    """Add pairs with their sampling probabilities, and their videos, to a project: all of them or none."""
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
    ("total") for any other reward.

    Raises: UserError when a file lacks a video of the pairs or its score, or mixes models.
    """
    members = []
    for path in paths:
        if not Path(path).is_file():
            raise UserError(f"{path}: no such score file; `soralign reward score VIDEOSET --out FILE` writes one")
        rows = files.read_lines(Path(path), whole=True)
        scores = {(row.get("id"), row.get("prompt")): row.get("heads") or [row.get("total")] for row in rows}
        if len({len(values) for values in scores.values()}) > 1:
            raise UserError(f"{path}: scores of several rewards; score the whole set with one")
        for item in itertools.chain(*pairs):
            for value in scores.get((item.id, item.prompt), [None]):
                if not isinstance(value, int | float) or not math.isfinite(value):
                    raise UserError(f"{path}: no score for video {item.id!r} of {item.prompt!r}; score the whole set")
        a, b = (
            np.array([scores[item.id, item.prompt] for item in side], dtype=float) for side in zip(*pairs, strict=True)
        )
        members.append((a - b).T)
    gaps = np.concatenate(members)
    # A reward's unit is its own. One unit of spread is one log-odds, as Bradley-Terry scores have it.
    spread = gaps.std(axis=1, keepdims=True)
    return gaps / np.where(spread > 0, spread, 1.0)


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
