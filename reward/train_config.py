"""The recipe of a preference model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.cli import option
from core.errors import UserError
from reward.bradley_terry import LOSSES
from reward.ensemble import AGGREGATIONS


@dataclass(frozen=True)
class TrainConfig:
    """How heads are trained."""

    num_heads: int = option(5, "heads, each on its own bootstrap of prompts; averaged")
    epochs: int = option(15, "passes over the training pairs")
    batch_pairs: int = option(64, "pairs per optimizer step")
    learning_rate: float = option(3e-3, "peak; cosine decay to zero")
    weight_decay: float = option(1.0, "of AdamW")
    loss: Literal["rao_kupper", "davidson", "bradley_terry", "margin"] = option(
        "rao_kupper", "model of votes; the last two count a tie as half a vote for each side"
    )
    margin: float = option(0.57, "of the margin loss, in logits of a vote")
    aggregation: Literal["mean", "worst", "penalised"] = option(
        "mean", "how heads become one score: mean, lowest, or mean less their variance"
    )
    backend: Literal["own", "trl"] = option(
        "own", "own: every loss, aspect and tie; trl: its RewardTrainer, one aspect, no ties"
    )
    reliability: bool = option(True, "weigh annotators of the same pairs by their agreement (Dawid and Skene)")
    guard_weight: float = option(0.01, "weight of pairs of a video and its frozen copy; 0 trains on votes alone")
    calibration_share: float = option(0.15, "share of prompts that calibrate, in (0, 1)")
    held_out_share: float = option(0.2, "share of prompts that the report is made of")
    learning_curve: bool = option(False, "train on an eighth, a quarter and half of the pairs too: would more help?")
    seed: int = option(0, "decides splits, bootstraps, initial weights and order")

    def __post_init__(self) -> None:
        whole = {"num_heads": self.num_heads, "epochs": self.epochs, "batch_pairs": self.batch_pairs}
        for name, value in whole.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1, seen {value}")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise UserError(f"learning_rate must be above 0, seen {self.learning_rate}; weight_decay at least 0")
        if self.backend == "trl" and self.loss != "bradley_terry":
            raise UserError(f"backend trl knows only `--loss bradley_terry`, seen {self.loss}; it has no guards either")
        if not (self.guard_weight >= 0 and self.margin >= 0):
            raise UserError(f"guard_weight must be at least 0, seen {self.guard_weight}; so must margin: {self.margin}")
        for name, chosen, known in (("loss", self.loss, LOSSES), ("aggregation", self.aggregation, AGGREGATIONS)):
            if chosen not in known:
                raise UserError(f"{name} {chosen!r} is unknown; known: {', '.join(known)}")
        shares = (self.calibration_share, self.held_out_share)
        if not (min(shares) > 0 and sum(shares) < 0.9):
            raise UserError(
                f"calibration_share and held_out_share must be above 0 and sum to less than .9, seen {shares}"
            )
