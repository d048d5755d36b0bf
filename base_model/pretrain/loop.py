"""One loop for all parts: a batch that its number says all of, a loss, an optimizer step, a moving average.

Over the last share of the steps the rate falls to zero. The same command run again goes on from its newest checkpoint
and gives the same weights as an unbroken run. Everything runs through accelerate, so the same code serves one CPU, one
GPU, and under `accelerate launch` many: gradients averaged (DDP), or weights cut as well (FSDP2).
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, fsdp2_prepare_model
from torch import Tensor, nn

from base_model.large import (
    checkpoint_activations,
    launch,
    place,
    place_state,
    rate_share,
    repeated_blocks,
    unwrap,
    whole,
)
from base_model.pretrain.clip import ClipPart
from base_model.pretrain.clips import ClipsPart
from base_model.pretrain.codec import CodecPart
from base_model.pretrain.config import PretrainConfig, check
from base_model.pretrain.part import Part
from base_model.pretrain.transformer import TransformerPart, training_dtype
from core.errors import UserError
from core.files import atomic_write
from core.progress import track
from core.run import LOCK, Run, step_of

LOG_EVERY = 50  # steps that one line of the log averages

PARTS: dict[str, Callable[[PretrainConfig, Accelerator], Part]] = {
    "codec": CodecPart,
    "clip": ClipPart,
    "transformer": lambda config, *others: (ClipsPart if config.videos else TransformerPart)(config, *others),
}


def rate(config: PretrainConfig, step: int) -> float:
    """Learning rate of a step."""
    return config.learning_rate * rate_share(step, config.steps, config.warmup, config.decay)


def _optimizers(config: PretrainConfig, weights: dict[str, Tensor]) -> list[torch.optim.Optimizer]:
    """AdamW; for the transformer's block matrices Muon, which reached the same loss in 8 % fewer CPU seconds here."""
    inner = [
        name
        for name, value in weights.items()
        if config.part == "transformer"
        and name.startswith("blocks")
        and name.endswith("weight")
        and value.ndim == 2
        and "modulation" not in name
        and ".lora_" not in name
    ]
    rest = [value for name, value in weights.items() if name not in inner]
    chosen: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    ]
    if inner:
        matrices = [weights[name] for name in inner]
        chosen.append(
            torch.optim.Muon(matrices, lr=config.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        )
    return chosen


class Objective(nn.Module):
    """A part's loss as a module, so that accelerate can wrap it: DDP and FSDP2 must see every forward."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.network, self.loss = part.network, part.loss
        # What FSDP cuts one by one, by class; accelerate looks here for the names.
        self._no_split_modules = sorted({type(block).__name__ for block in repeated_blocks(self.network)})

    def forward(self, step: int, draw: int) -> Tensor:
        return self.loss(step, draw)


def _wrapped(part: Part, config: PretrainConfig, accelerator: Accelerator) -> nn.Module:
    """The part's loss, its network in the precision of the computation, compiled, cut and placed as is asked."""
    if config.part == "transformer":
        if training_dtype(part.network, accelerator.device) == torch.bfloat16:
            part.network.bfloat16()
        if config.gradient_checkpointing:
            checkpoint_activations(part.network)
        if config.compile:
            torch._dynamo.config.recompile_limit = 32  # one compilation for each size of clip
            for block in repeated_blocks(part.network):
                block.compile(dynamic=False)
    objective = Objective(part).train()
    if accelerator.is_fsdp2:  # the optimizers' weights are copies, so there is no optimizer to prepare with it
        return fsdp2_prepare_model(accelerator, objective)
    return accelerator.prepare(objective)


class _Weights:
    """What is trained of a network: fp32 master weights, their moving average, and the optimizers that move them."""

    def __init__(self, network: nn.Module, config: PretrainConfig) -> None:
        self.network, self.config = network, config
        self.live = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self.master = {name: value.detach().float().clone().requires_grad_() for name, value in self.live.items()}
        self.average = {name: value.detach().clone() for name, value in self.master.items()}
        self.optimizers = _optimizers(config, self.master)

    def update(self, step: int) -> None:
        """Take the gradients of the last backward pass, step, and put the new weights into the network."""
        for name, value in self.live.items():
            self.master[name].grad, value.grad = value.grad.float() if value.grad is not None else None, None
        torch.nn.utils.clip_grad_norm_(self.master.values(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(self.config, step)
            optimizer.step()
        with torch.no_grad():
            keep = min(self.config.ema_decay, (1 + step) / (10 + step))
            for name, weight in self.master.items():
                self.live[name].copy_(weight)
                self.average[name].lerp_(weight, 1.0 - keep)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs. Every process must call it."""
        return whole(
            {
                "master": {name: value.detach() for name, value in self.master.items()},
                "average": self.average,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "buffers": dict(self.network.named_buffers()),
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        for name, master in self.master.items():
            master.data.copy_(place(state["master"][name], master.data))
            self.average[name].copy_(place(state["average"][name], self.average[name]))
            self.live[name].data.copy_(master.data)
        buffers = dict(self.network.named_buffers())
        for name, value in state["buffers"].items():  # a learned codebook is one
            buffers[name].copy_(value)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            place_state(optimizer)

    def result(self) -> dict[str, Tensor]:
        """Every weight of the network, the trained ones averaged. Every process must call it."""
        named = self.network.named_parameters()
        return whole({name: self.average.get(name, value.detach()) for name, value in named})


def pretrain(config: PretrainConfig, out: Path | str) -> Run:
    """Train one part; the result lies in `out/<part>`. Continues a run that is there.

    The transformer computes in bf16 where that is fast, from fp32 master weights.
    Raises: UserError for a recipe that cannot run, which leaves no folder (with its options mended it would be another
        run), and for a folder that holds another run.
    """
    check(config)
    accelerator = launch()
    _check_processes(accelerator)
    with accelerator.main_process_first():  # which encodes and hashes what the others find
        is_new = accelerator.is_main_process and not (Path(out) / "config.yaml").exists()
        run = Run.open(Path(out), asdict(config), asdict(PretrainConfig()), writes=accelerator.is_main_process)
        if not config.latents:
            config = replace(config, latents=str(run.folder / "latents"))
        try:
            part = PARTS[config.part](config, accelerator)
            part.begin(run.folder)
        except UserError:
            if is_new:
                _withdraw(run.folder)
            raise
    objective = _wrapped(part, config, accelerator)
    weights = _Weights(part.network, config)
    done = 0
    if (folder := run.latest(tell=accelerator.is_main_process)) is not None:
        done = step_of(folder)
        weights.restore(torch.load(folder / "state.pt", map_location="cpu", weights_only=True))
        if accelerator.is_main_process:
            run.rewind(done)

    begin, losses = time.perf_counter(), list[Tensor]()
    for step in track(range(done, config.steps), f"pretrain {config.part}", total=config.steps - done):
        loss = objective(step, step * accelerator.num_processes + accelerator.process_index)
        loss.backward()
        weights.update(step)
        losses.append(loss.detach())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
            mean = float(accelerator.reduce(torch.stack(losses).mean(), "mean"))
            if not math.isfinite(mean):
                raise _diverged(step + 1, config)
            seconds = time.perf_counter() - begin
            if accelerator.is_main_process:
                samples = sum(part.clips_in(draw) for draw in range((step + 1) * accelerator.num_processes))
                run.log(step + 1, {"pretrain/loss": mean, "time/seconds": seconds}, samples)
            begin, losses = time.perf_counter(), []
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            _save(run, step + 1, weights, part, accelerator)
    trained = weights.result()
    if accelerator.is_main_process:
        unwrap(part.network, trained)
        part.network.float().cpu().eval()
        part.save(run.folder / config.part)
    accelerator.wait_for_everyone()
    return run


def _withdraw(folder: Path) -> None:
    """Delete a run folder that holds nothing of worth yet, but not what lay hidden in it before, as `.git` may."""
    for path in (folder / LOCK, *folder.glob("[!.]*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _diverged(step: int, config: PretrainConfig) -> UserError:
    return UserError(
        f"the loss or the weights are no numbers any more at step {step} of {config.steps}, learning_rate is "
        f"{config.learning_rate:g}; this is not saved: start another run with a lower learning_rate or a longer warmup"
    )


def _save(run: Run, step: int, weights: _Weights, part: Part, accelerator: Accelerator) -> None:
    """Checkpoint `step`. Every process must call it; the first one writes.

    Raises: UserError, in every process, for weights that are no numbers.
    """
    state = weights.state()
    if not all(bool(value.isfinite().all()) for value in state["master"].values()):
        raise _diverged(step, weights.config)

    def write(folder: Path) -> None:
        torch.save(state, folder / "state.pt")
        atomic_write(folder / "provenance.json", json.dumps(part.provenance, indent=2) + "\n")

    if accelerator.is_main_process:
        run.save(step, write, keep=2)
    accelerator.wait_for_everyone()


def _check_processes(accelerator: Accelerator) -> None:
    """Raises: UserError for a way of sharing the work that this loop does not speak."""
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED or (kind == DistributedType.FSDP and not accelerator.is_fsdp2):
        raise UserError(
            f"pretraining runs in one process, under DDP or under FSDP2, not under {kind.value}; launch with "
            "align/launch/ddp.yaml or align/launch/fsdp2.yaml"
        )
