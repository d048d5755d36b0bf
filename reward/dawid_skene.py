"""Whom to believe: every annotator's confusion matrix and every item's true answer, from votes that overlap.

An item has one true class; annotator w answers class k of true class j with chance confusion[w, j, k]. EM alternates
between the classes given the matrices and the matrices given the classes; each turn raises the posterior, and the sums
are exact. Where nobody overlaps nothing can be learned about anyone, and the votes come back as they were.
Source: Dawid and Skene 1979; the Dirichlet prior keeps an annotator of three votes from looking perfect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Consensus:
    """posterior [item, class]: chances of the true class, rows sum to one; confusion [annotator, true, answered];
    prevalence [class]; objective: log posterior after each turn of EM, never falling."""

    posterior: Numbers
    confusion: Numbers
    prevalence: Numbers
    objective: tuple[float, ...]

    @property
    def reliability(self) -> Numbers:
        """Chance that an annotator's answer is the true class, [annotator] in [0, 1]."""
        return np.einsum("wjj,j->w", self.confusion, self.prevalence)


def consensus(
    item: Sequence[int],
    annotator: Sequence[int],
    answer: Sequence[int],
    num_classes: int,
    prior: float = 0.5,
    agreement: float = 2.0,
    max_turns: int = 200,
    tolerance: float = 1e-8,
) -> Consensus:
    """EM from the shares of votes.

    Args:
        item, annotator, answer: of every vote, counted from 0; answer < num_classes.
        prior: imaginary answers of every annotator in every cell of the confusion matrix, above 0.
        agreement: further imaginary answers on its diagonal: who is unknown is believed to try.
        tolerance: stop when a turn raises the log posterior by less.
    Raises: ValueError without votes.
    """
    if not len(item):
        raise ValueError("a consensus needs at least one vote")
    items, people, answers = (np.asarray(values, dtype=np.int64) for values in (item, annotator, answer))
    num_items, num_people = int(items.max()) + 1, int(people.max()) + 1
    imaginary = np.full((num_classes, num_classes), prior) + agreement * np.eye(num_classes)
    posterior = np.zeros((num_items, num_classes))
    np.add.at(posterior, (items, answers), 1.0)
    posterior = (posterior + 1e-9) / (posterior + 1e-9).sum(1, keepdims=True)
    objective: list[float] = []
    while True:
        counts = np.zeros((num_people, num_classes, num_classes))
        np.add.at(counts.transpose(0, 2, 1), (people, answers), posterior[items])
        confusion = counts + imaginary
        confusion /= confusion.sum(2, keepdims=True)
        prevalence = posterior.sum(0) + prior
        prevalence /= prevalence.sum()
        log = np.tile(np.log(prevalence), (num_items, 1))
        np.add.at(log, items, np.log(confusion)[people, :, answers])
        top = log.max(1, keepdims=True)
        evidence = top[:, 0] + np.log(np.exp(log - top).sum(1))
        posterior = np.exp(log - evidence[:, None])
        priors = float((imaginary * np.log(confusion)).sum() + prior * np.log(prevalence).sum())
        objective.append(float(evidence.sum()) + priors)
        settled = len(objective) > 1 and objective[-1] - objective[-2] < tolerance
        if settled or len(objective) == max_turns:
            return Consensus(posterior, confusion, prevalence, tuple(objective))
