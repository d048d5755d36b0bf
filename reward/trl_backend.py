"""One scalar head trained by TRL's RewardTrainer instead of our loop: its accelerate, checkpoints and logging for those
who live in them. Bradley and Terry's model only, so one aspect, and ties cannot teach.

Two of the trainer's defaults would spoil this silently or loudly: rows whose feature list is longer than `max_length`
are dropped (1024 by default, so 1152 features leave no row at all), and gradient checkpointing needs a language model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

from core.errors import UserError
from core.randomness import seed_for
from reward.bradley_terry import A, B
from reward.examples import Examples
from reward.preference_model import Head
from reward.train_config import TrainConfig


class ScalarConfig(PretrainedConfig):
    """One score; the trainer reads `num_labels` and wants a text configuration."""

    model_type = "soralign_scalar_head"

    def __init__(self, width: int = 1, **rest: Any) -> None:
        super().__init__(num_labels=1, **rest)
        self.width = width


class ScalarModel(PreTrainedModel):
    """Our head behind the interface of a sequence classifier: features come as `input_ids`."""

    config_class = ScalarConfig
    all_tied_weights_keys: dict[str, str] = {}

    def __init__(self, config: ScalarConfig, head: Head | None = None) -> None:
        super().__init__(config)
        blank = torch.zeros(config.width)
        self.head = head or Head(blank, blank + 1, 1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.head(input_ids))


def train_head(features: Tensor, data: Examples, rows: Tensor, config: TrainConfig, number: int) -> Head:
    """A head of one aspect, trained on the decided votes of these pairs.

    Raises: UserError for several aspects, or when no vote is decided.
    """
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import RewardConfig, RewardTrainer

    if len(data.aspects) != 1:
        raise UserError(f"TRL's RewardTrainer knows one scalar; train on one aspect, seen {', '.join(data.aspects)}")
    gap = data.votes[rows, 0, A] - data.votes[rows, 0, B]
    decided, gap = rows[gap != 0], gap[gap != 0]
    if not len(decided):
        raise UserError("no decided vote to train on; TRL's RewardTrainer cannot learn from ties")
    winner = torch.where(gap > 0, data.pair[decided, 0], data.pair[decided, 1])
    loser = torch.where(gap > 0, data.pair[decided, 1], data.pair[decided, 0])
    pairs = Dataset.from_dict({"chosen_ids": features[winner].tolist(), "rejected_ids": features[loser].tolist()})
    seen = features[data.pair[rows].unique()]
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(config.seed, "reward head", number))
        head = Head(seen.mean(0), seen.std(0, correction=0).clamp(min=1e-4), 1)
        options = RewardConfig(
            output_dir=str(Path(folder)),
            max_length=None,
            activation_checkpointing=False,
            disable_dropout=False,
            per_device_train_batch_size=config.batch_pairs,
            num_train_epochs=config.epochs,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            lr_scheduler_type="cosine",
            seed=seed_for(config.seed, "trl", number) % 2**31,
            bf16=False,
            use_cpu=features.device.type == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        model = ScalarModel(ScalarConfig(features.shape[1]), head)
        trainer = RewardTrainer(
            model=model, args=options, train_dataset=pairs, data_collator=_collate, processing_class=_no_words()
        )
        if len(trainer.train_dataset) != len(decided):
            raise RuntimeError(f"the trainer kept {len(trainer.train_dataset)} of {len(decided)} pairs")
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return head.cpu().eval()


def _collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """First all chosen, then all rejected, as the trainer expects."""
    values = torch.tensor([row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows])
    return {"input_ids": values, "attention_mask": torch.ones(len(values), 1, dtype=torch.long)}


def _no_words() -> PreTrainedTokenizerFast:
    """The trainer insists on a tokenizer; nothing is ever put through this one."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
