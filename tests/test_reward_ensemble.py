"""How judges that disagree become one score."""

import torch

from reward.ensemble import AGGREGATIONS, mean, penalised, worst

SCORES = torch.tensor([[1.0, 4.0], [3.0, 4.0], [5.0, 4.0]])  # [judge, video]


def test_the_three_rules_by_hand() -> None:
    assert mean(SCORES).tolist() == [3, 4]
    assert worst(SCORES).tolist() == [1, 4]
    torch.testing.assert_close(penalised(SCORES, 0.5), torch.tensor([3 - 0.5 * 8 / 3, 4.0]))


def test_judges_that_agree_give_the_same_by_every_rule() -> None:
    for rule in AGGREGATIONS.values():
        assert rule(SCORES)[1] == 4


def test_careful_rules_never_pay_more_than_the_mean() -> None:
    scores = torch.randn(5, 100, generator=torch.Generator().manual_seed(0))
    for rule in (worst, penalised):
        assert (rule(scores) <= scores.mean(0)).all()
