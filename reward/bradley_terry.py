"""From a difference of utilities to the chance of a vote: pure losses of preference learning.

difference = utility of a - utility of b, in logits. Votes are weights over (a, tie, b) on a last axis of 3, all zero
where nobody was asked, so that several annotators, soft labels, ties, masks and reliabilities are one case. Every loss
is a weighted mean over what was asked: dividing by the number of rows instead would let a batch full of unasked rows
shrink the gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

A, TIE, B = 0, 1, 2


def margin_loss(difference: Tensor, votes: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Bradley and Terry's loss on what is left of the difference after the winner gave up `margin`; a tie is half a
    vote for each side. A margin of 0 is Bradley and Terry's model (1952) with soft labels, as in PickScore.

    Args:
        difference: [...] logits. votes: [..., 3] weights.
        margin: in logits, at least 0; broadcasts to difference. A constant, or how much better the winner was rated.
    Source: Llama 2 (Touvron et al. 2023, eq. 2).
    """
    for_a, for_b = votes[..., A] + votes[..., TIE] / 2, votes[..., B] + votes[..., TIE] / 2
    gained = for_a * F.logsigmoid(difference - margin) + for_b * F.logsigmoid(-difference - margin)
    return -gained.sum() / votes.sum().clamp(min=1e-12)


def log_probabilities(difference: Tensor, log_theta: Tensor) -> Tensor:
    """Log chances of (a, tie, b), stacked on a new last axis; they sum to one for every log_theta > 0.

    P(a) = sigmoid(d - log theta), P(b) = sigmoid(-d - log theta), P(tie) = (theta^2 - 1) P(a) P(b): the width of
    indifference is theta > 1. Source: Rao and Kupper 1967, eq. 2.
    """
    a, b = F.logsigmoid(difference - log_theta), F.logsigmoid(-difference - log_theta)
    tie = torch.log(torch.expm1(2 * log_theta)) + a + b
    return torch.stack([a, tie, b], dim=-1)


def vote_chances(difference: Tensor, log_theta: Tensor, lapse: Tensor) -> Tensor:
    """Chances of (a, tie, b) when a share `lapse` of the votes falls on a or b whatever the videos are, [..., 3].

    Votes of which a share s names the wrong side have a lapse of about 2 s. Source: the lapse rate of psychometric
    functions (Wichmann and Hill 2001) on top of Rao and Kupper's model.
    """
    chosen = log_probabilities(difference, log_theta).exp()
    lapse = lapse.unsqueeze(-1)
    return (1 - lapse) * chosen + lapse * torch.tensor([0.5, 0.0, 0.5], dtype=chosen.dtype, device=chosen.device)


def davidson_log_probabilities(difference: Tensor, log_nu: Tensor) -> Tensor:
    """Log chances of (a, tie, b): weights exp(d / 2), nu, exp(-d / 2), so P(tie)^2 / (P(a) P(b)) = nu^2 everywhere.

    Source: Davidson 1970, eq. 2.
    """
    half = difference / 2
    return torch.stack([half, log_nu.expand_as(half), -half], dim=-1).log_softmax(-1)


def likelihood_loss(log_chances: Tensor, votes: Tensor) -> Tensor:
    """Mean negative log-likelihood of votes [..., 3] under log chances [..., 3]."""
    return -(votes * log_chances).sum() / votes.sum().clamp(min=1e-12)


def rao_kupper_loss(difference: Tensor, votes: Tensor, log_theta: Tensor) -> Tensor:
    """`likelihood_loss` of Rao and Kupper's model; log_theta > 0 broadcasts to difference [...]."""
    return likelihood_loss(log_probabilities(difference, log_theta), votes)


def davidson_loss(difference: Tensor, votes: Tensor, log_nu: Tensor) -> Tensor:
    """`likelihood_loss` of Davidson's model; log_nu, any number, broadcasts to difference [...]."""
    return likelihood_loss(davidson_log_probabilities(difference, log_nu), votes)


def regression_loss(utility: Tensor, rating: Tensor) -> Tensor:
    """Mean squared distance of utilities from ratings [...]; a rating of NaN was not given and does not count."""
    given = torch.isfinite(rating)
    return ((utility - rating.nan_to_num()).square() * given).sum() / given.sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "rao_kupper": lambda difference, votes, width, margin: rao_kupper_loss(difference, votes, F.softplus(width)),
    "davidson": lambda difference, votes, width, margin: davidson_loss(difference, votes, width),
    "bradley_terry": lambda difference, votes, width, margin: margin_loss(difference, votes),
    "margin": lambda difference, votes, width, margin: margin_loss(difference, votes, margin),
}
"""name -> loss of (difference [pair, aspect], votes [pair, aspect, 3], learned width of ties [aspect], margin)."""
