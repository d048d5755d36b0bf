"""From a difference of utilities to the chance of a vote: pure losses of preference learning.

difference = utility of a - utility of b, in logits. A vote is a distribution over (a, tie, b), so that several
annotators, soft labels and ties are one case. theta > 1 is the width of indifference; it is learned as
log theta = softplus(raw), which keeps it above 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

A, TIE, B = 0, 1, 2


def bradley_terry_loss(difference: Tensor, preferred: Tensor) -> Tensor:
    """Mean negative log-likelihood of P(a beats b) = sigmoid(difference).

    Args:
        difference: [n] logits.
        preferred: [n] share of votes for a, in [0, 1]; a tie is a half.
    Source: Bradley and Terry 1952; soft labels as in PickScore (Kirstain et al. 2023).
    """
    return F.binary_cross_entropy_with_logits(difference, preferred)


def log_probabilities(difference: Tensor, log_theta: Tensor) -> Tensor:
    """Log chances of (a, tie, b), stacked on a new last axis; they sum to one for every log_theta > 0.

    P(a) = sigmoid(d - log theta), P(b) = sigmoid(-d - log theta), P(tie) = (theta^2 - 1) P(a) P(b).
    Source: Rao and Kupper 1967, eq. 2.
    """
    a, b = F.logsigmoid(difference - log_theta), F.logsigmoid(-difference - log_theta)
    tie = torch.log(torch.expm1(2 * log_theta)) + a + b
    return torch.stack([a, tie, b], dim=-1)


def rao_kupper_loss(difference: Tensor, votes: Tensor, log_theta: Tensor) -> Tensor:
    """Mean negative log-likelihood of votes over (a, tie, b).

    Args:
        difference: [...] logits.
        votes: [..., 3] shares of votes, or all zero where nobody was asked; such rows do not count in the mean either.
        log_theta: broadcasts to difference; above 0.
    """
    asked = votes.sum(-1)
    # Dividing by the number of rows instead would let a batch full of unasked rows shrink the gradient.
    return -(votes * log_probabilities(difference, log_theta)).sum() / asked.sum().clamp(min=1e-12)
