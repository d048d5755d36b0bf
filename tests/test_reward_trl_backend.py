"""TRL's RewardTrainer and our loop on the same pairs."""

import dataclasses
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from reward import train
from reward.bradley_terry import TIE, A, B
from reward.examples import Examples
from reward.train_config import TrainConfig
from reward.trl_backend import train_head

CONFIG = TrainConfig(num_heads=1, epochs=6, batch_pairs=32, loss="bradley_terry", weight_decay=0.0)


def _examples(width: int, num_pairs: int = 500) -> tuple[torch.Tensor, Examples]:
    """A planted linear taste, every sixth vote a tie."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(2 * num_pairs, width, generator=rng)
    taste = torch.zeros(width)
    taste[:4] = torch.tensor([1.5, -1.0, 0.7, 0.4])
    pair = torch.arange(2 * num_pairs).view(num_pairs, 2)
    wins = (features @ taste)[pair[:, 0]] > (features @ taste)[pair[:, 1]]
    choice = torch.where(wins, A, B)
    choice[::6] = TIE
    votes = torch.nn.functional.one_hot(choice, 3).float().unsqueeze(1)
    videos = tuple(Path(str(index)) for index in range(2 * num_pairs))
    prompts = tuple(f"prompt {index // 2}" for index in range(2 * num_pairs))
    return features, Examples(videos, prompts, pair, votes, ("overall",))


def test_both_trainers_agree_on_videos_that_neither_has_seen() -> None:
    features, data = _examples(12)
    learning, rest = torch.arange(400), data.pair[400:].flatten()
    ours = train._train_head(features, data, learning, CONFIG, 0, None)
    theirs = train_head(features, data, learning, CONFIG, 0)
    with torch.no_grad():
        both = torch.stack([head(features[rest])[:, 0] for head in (ours, theirs)])
    assert float(torch.corrcoef(both)[0, 1]) > 0.95
    right = data.votes[400:, 0].argmax(-1)
    decided = right != TIE
    for one in both:
        first, second = one.view(-1, 2).T
        assert float(((first > second) == (right == A))[decided].float().mean()) > 0.85


def test_more_features_than_the_trainers_row_limit_lose_no_pair() -> None:
    features, data = _examples(1152, num_pairs=16)
    head = train_head(features, data, torch.arange(16), dataclasses.replace(CONFIG, epochs=1), 0)
    assert head(features).shape == (32, 1)


def test_what_a_scalar_cannot_learn_is_refused() -> None:
    features, data = _examples(4, num_pairs=12)
    with pytest.raises(UserError, match="one scalar"):
        train_head(features, dataclasses.replace(data, aspects=("a", "b")), torch.arange(12), CONFIG, 0)
    with pytest.raises(UserError, match="no decided vote"):
        train_head(features, data, torch.tensor([0, 6]), CONFIG, 0)
    with pytest.raises(UserError, match="backend trl knows only"):
        TrainConfig(backend="trl")
