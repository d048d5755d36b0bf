"""How labeling goes: counts, agreement between annotators, and per annotator pace, sides, checks passed and flags.

Everything is counted from the votes that count, so an undo is gone here too. A flag asks somebody to look; it removes
nothing. Agreement is over text labels (nominal), skips left out.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core import stats
from core.preferences import Store, Vote
from core.stats import Interval

SAME_SIDE_CHANCE = 0.005  # of so long a run on one side among as many labels, were sides tossed like coins
MIN_GOLD_RATE = 0.7
FAST_SHARE = 0.2


@dataclass(frozen=True)
class Agreement:
    """Agreement on one aspect. Intervals over pairs; NaN where nothing can be said.

    `cohen` is the mean over annotators' pairs who share labels; `fleiss` is over the pairs that have the most common
    number of labels above one.
    """

    aspect: str
    num_pairs: int
    cohen: Interval
    fleiss: Interval
    alpha: Interval


@dataclass(frozen=True)
class Quality:
    """One annotator's closing votes. Times in seconds, NaN or None where nothing is known; rates with intervals."""

    annotator: str
    num_labels: int
    num_skips: int
    median_seconds: float
    total_seconds: float
    left: Interval
    ties: float
    watched: float
    gold: Interval
    consistency: Interval
    flags: tuple[str, ...]


def summary(store: Store) -> dict[str, Any]:
    """Counts, choices by aspect, labels by annotator, share of left choices, agreement by aspect (nominal Krippendorff
    alpha, None where nothing was judged twice), for JSON."""
    with store.snapshot():
        votes, pairs, num_videos = store.votes(), store.pairs(), len(store.origins())
    closing = [vote for vote in votes if vote.aspect == store.aspects[-1]]
    finished = Counter(vote.pair_id for vote in closing if vote.choice != "skip")
    alphas = {
        aspect: stats.krippendorff_alpha([list(labels.values()) for labels in _shared(votes, aspect)])
        for aspect in store.aspects
    }
    lefts = left_choices(votes)
    return {
        "videos": num_videos,
        "pairs": len(pairs),
        "complete_pairs": sum(finished[pair.id] == pair.target_votes for pair in pairs),
        "votes": len(votes),
        "choices": {
            aspect: dict(Counter(vote.choice for vote in votes if vote.aspect == aspect)) for aspect in store.aspects
        },
        "annotators": dict(Counter(vote.annotator for vote in closing)),
        "left_share": sum(lefts) / len(lefts) if lefts else None,
        "agreement": {aspect: None if math.isnan(alpha) else alpha for aspect, alpha in alphas.items()},
    }


def left_choices(votes: Sequence[Vote]) -> list[bool]:
    """Whether the left video was preferred, of every vote that preferred one on a screen."""
    return [vote.choice == vote.left_is for vote in votes if vote.left_is and vote.choice in ("a", "b")]


def agreement(store: Store) -> list[Agreement]:
    """Agreement on each aspect of a project."""
    votes = store.votes()
    found = []
    for aspect in store.aspects:
        shared = _shared(votes, aspect)
        units = [list(labels.values()) for labels in shared]
        sizes = [len(unit) for unit in units]
        even = [unit for unit in units if len(unit) == statistics.mode(sizes)]
        found.append(
            Agreement(
                aspect,
                len(shared),
                stats.agreement_interval(_mean_cohen, shared),
                stats.agreement_interval(stats.fleiss_kappa, even),
                stats.agreement_interval(stats.krippendorff_alpha, units),
            )
        )
    return found


def annotators(store: Store) -> list[Quality]:
    """Everybody who labelled in a project, most labels first."""
    with store.snapshot():
        votes, checks = store.votes(store.aspects[-1]), store.votes(store.aspects[-1], checks=True)
        gold = {pair.id: pair.gold for pair in store.pairs(checks=True) if pair.gold}
        repeats = {pair.id: pair.repeats for pair in store.pairs(checks=True) if pair.repeats}
    answer = {(vote.annotator, vote.pair_id): vote.choice for vote in votes}
    by_name: dict[str, list[Vote]] = defaultdict(list)
    for vote in sorted((*votes, *checks), key=lambda vote: vote.time):
        by_name[vote.annotator].append(vote)
    found = []
    for name, given in by_name.items():
        asked = [vote for vote in given if vote.pair_id in gold and vote.choice != "skip"]
        passed = sum(vote.choice == gold[vote.pair_id] for vote in asked)
        again = [
            _swapped(vote.choice) == answer.get((name, repeats[vote.pair_id] or 0))
            for vote in given
            if vote.pair_id in repeats and vote.choice != "skip"
        ]
        found.append(_quality(store, name, given, stats.wilson(passed, 0, len(asked)), _rate(again)))
    return sorted(found, key=lambda one: -one.num_labels)


def _shared(votes: Sequence[Vote], aspect: str) -> list[dict[str, str]]:
    """Annotator -> choice of every pair that two or more have judged on an aspect."""
    given: dict[int, dict[str, str]] = defaultdict(dict)
    for vote in votes:
        if vote.aspect == aspect and vote.choice != "skip":
            given[vote.pair_id][vote.annotator] = vote.choice
    return [labels for labels in given.values() if len(labels) > 1]


def _quality(store: Store, name: str, given: Sequence[Vote], gold: Interval, consistency: Interval) -> Quality:
    judged = [vote for vote in given if vote.choice != "skip"]
    seconds = [vote.seconds for vote in given if vote.seconds is not None]
    watched = [vote.watched for vote in judged if vote.watched is not None]
    sides = left_choices(judged)
    fast = sum(value < store.settings.fast_seconds for value in seconds)
    longest = max((len(list(run)) for _, run in itertools.groupby(sides)), default=0)
    flags = []
    if len(seconds) >= 5 and fast / len(seconds) > FAST_SHARE:
        flags.append(f"too fast: {fast} of {len(seconds)} labels under {store.settings.fast_seconds:g} s")
    if sides and len(sides) / 2**longest < SAME_SIDE_CHANCE:
        flags.append(f"same side {longest} times in a row")
    if gold.n >= 3 and gold.value < MIN_GOLD_RATE:
        flags.append(f"gold pairs: {round(gold.value * gold.n)} of {gold.n} right")
    return Quality(
        name,
        len(judged),
        len(given) - len(judged),
        statistics.median(seconds) if seconds else math.nan,
        sum(seconds),
        _rate(sides),
        sum(vote.choice in ("tie", "both_bad") for vote in judged) / len(judged) if judged else math.nan,
        statistics.median(watched) if watched else math.nan,
        gold,
        consistency,
        tuple(flags),
    )


def _mean_cohen(shared: Sequence[dict[str, str]]) -> float:
    """Mean Cohen's kappa over all two annotators with labels in common, each weighted by how many."""
    both: dict[tuple[str, str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for labels in shared:
        for one, other in itertools.combinations(sorted(labels), 2):
            both[one, other][0].append(labels[one])
            both[one, other][1].append(labels[other])
    kappas = [(stats.cohen_kappa(a, b), len(a)) for a, b in both.values()]
    known = [(kappa, weight) for kappa, weight in kappas if not math.isnan(kappa)]
    total = sum(weight for _, weight in known)
    return sum(kappa * weight for kappa, weight in known) / total if total else math.nan


def _rate(hits: Sequence[bool]) -> Interval:
    return stats.wilson(sum(hits), 0, len(hits))


def _swapped(choice: str) -> str:
    return {"a": "b", "b": "a"}.get(choice, choice)
