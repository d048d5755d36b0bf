"""What the loop needs to know; what an algorithm needs is in the algorithm."""

import math
from dataclasses import dataclass
from typing import Literal

from core.cli import option
from core.errors import UserError

RATIO_TOLERANCE = 1e-6  # of |ratio - 1| before the first update


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run, whatever its algorithm."""

    steps: int = option(30, "training steps: rounds of sampling, judging and updating")
    prompts_per_step: int = option(8, "different prompts per training step, over all processes")
    curriculum: float = option(
        0.0, "share of a step's prompts drawn by how far apart the rewards of their groups were; the rest in turn"
    )
    batch: int = option(16, "clips per forward, the same in sampling and training")
    denoising_steps: int = option(10, "denoising steps of a training clip")
    solver: Literal["euler", "heun", "dpm++2m"] = option(
        "euler", "takes the denoising steps; others than euler for what learns from whole clips: nft, awm, dpo, ..."
    )
    guidance: float = option(1.0, "guidance scale, the same in sampling and training; 1 = none, half the cost")
    updates: int = option(1, "optimizer steps per pass over the samples, each on its own share of them")
    passes: int = option(1, "passes over the samples of a training step")
    learning_rate: float = option(3e-4, "of AdamW, between warm-up and decay")
    warmup: int = option(5, "training steps over which the learning rate rises to its value")
    decay: float = option(0.0, "last share of the training steps over which the learning rate falls to zero")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm")
    mix: Literal["group", "sum"] = option(
        "group", "several rewards: each one's place in its group, weighted (GDPO), or the weighted sum of their values"
    )
    adapter: Literal["lora", "dora", "full"] = option(
        "lora", "what is trained: low-rank updates, the same with lengths of their own, or all weights"
    )
    rslora: bool = option(False, "scale LoRA updates by lora_alpha / sqrt(lora_rank)")
    lora_rank: int = option(16, "width of the LoRA updates")
    lora_alpha: int = option(32, "LoRA updates are scaled by lora_alpha / lora_rank")
    lora_targets: list[str] = option([], "endings of layer names to adapt; empty = every linear layer in the blocks")
    ema_decay: float = option(0.0, "per training step, of the averaged weights that are judged and saved; 0 = none")
    gradient_checkpointing: bool = option(False, "compute the blocks again in the backward pass to save memory")
    compile: bool = option(
        False, "compile the blocks: a quarter faster after a minute or two of compiling; for long runs"
    )
    precision: Literal["no", "bf16"] = option(
        "no", "bf16 = autocast; adapters, latents and log-probabilities stay fp32"
    )
    overlap: Literal["auto", "on", "off"] = option(
        "auto", "judge a batch while the next is sampled; auto = on a GPU and for rewards behind HTTP"
    )
    save_every: int = option(5, "training steps between checkpoints")
    keep_checkpoints: int = option(3, "the newest ones that are kept")
    judge_every: int = option(5, "training steps between looks of the held-out judges")
    judge_clips: int = option(32, "clips that the held-out judges see, always from the same noise")
    sample_every: int = option(5, "training steps between sample clips; 0 = none")
    num_samples: int = option(4, "sample clips, of the first prompts, always from the same noise")
    seed: int = option(0, "everything random derives from it")

    @property
    def rounds(self) -> int:
        """Optimizer steps per training step."""
        return self.passes * self.updates

    def check(self) -> None:
        """Raises: UserError for a number that makes no sense."""
        counts = (
            "steps",
            "prompts_per_step",
            "batch",
            "denoising_steps",
            "updates",
            "passes",
            "lora_rank",
            "save_every",
            "keep_checkpoints",
            "judge_every",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        for name in ("warmup", "judge_clips", "sample_every", "num_samples"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, it must be 0 or more")
        if not math.isfinite(self.guidance):
            raise UserError(f"guidance is {self.guidance}, it must be a finite number; 1 is none")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay is {self.ema_decay}, it must be 0 (none) or more and below 1; .9 is usual")
        for name in ("curriculum", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, it must be a share from 0 to 1")
        for name in ("learning_rate", "max_grad_norm", "lora_alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}, it must be a number above 0")
