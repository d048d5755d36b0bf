"""What a run must keep to go on as if nothing had happened, and what its user takes away.

A checkpoint folder holds `lora/` (the aligned adapters in diffusers' format; `model/`, all weights, when all of them
are trained) and `state.pt`: trained weights, optimizer, the algorithm's networks and memory, the count of samples.
With an average of the weights the first holds the average and the second the weights themselves. All randomness derives
from (seed, purpose, step), so there is no random state to keep, and all tensors are stored whole, so another number of
processes may go on.

Left out: joining the pieces of Adam's averages that DeepSpeed's processes hold. Each goes on with its own; with another
number of processes, or without DeepSpeed, the averages begin anew, and the run says so.
"""

import errno
import io
import logging
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, send_to_device
from torch import Tensor, distributed

from align.ema import averaging
from align.policy import Policy
from base_model import finetuned, lora
from base_model.large import place, place_state, whole
from core.errors import UserError
from core.run import Run, step_of


def save(run: Run, policy: Policy, optimizer: Any, step: int, samples: int, keep: int) -> None:
    """Write checkpoint `step` and delete all but the newest `keep`. Every process must call it; the first one writes.

    Raises: OSError when the disk is full; the checkpoints before this one are untouched.
    """
    network = policy.generator.policy_module()
    state = whole(
        {
            "weights": [value.detach() for value in policy.parameters],
            "optimizer": _pieces(optimizer, policy) if _is_cut(policy) else optimizer.state_dict(),
            "own": policy.own.state_dict(),
            "memory": policy.memory,
            "samples": samples,
        }
    )
    with averaging(policy):
        named = lora.state(network) if policy.start is None else network.state_dict()
        aligned: dict[str, Tensor] = {name: whole(value.detach()).cpu().clone() for name, value in named.items()}

    def write(folder: Path) -> None:
        buffer = io.BytesIO()  # torch's own writer turns a full disk into an error that does not say so
        torch.save(state, buffer)
        (folder / "state.pt").write_bytes(buffer.getbuffer())
        try:
            if policy.start is None:
                lora.save(network, folder / "lora", aligned)
            else:
                finetuned.save(network, folder / "model", aligned)
        except Exception as error:
            if "No space left" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device", str(folder)) from error
            raise

    if policy.accelerator.is_main_process:
        run.save(step, write, keep)
    policy.accelerator.wait_for_everyone()


def restore(run: Run, policy: Policy, optimizer: Any) -> tuple[int, int]:
    """(training steps done, samples drawn) of the newest whole checkpoint, loaded into policy and optimizer.

    Raises: UserError if the checkpoint does not fit the model.
    """
    folder = run.latest(tell=policy.accelerator.is_main_process)
    step = step_of(folder) if folder else 0
    if policy.accelerator.is_main_process:
        run.rewind(step if folder else -1)
    if folder is None:
        return 0, 0
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    shapes = [tuple(value.shape) for value in policy.parameters]
    if [tuple(value.shape) for value in state["weights"]] != shapes:
        raise UserError(f"the checkpoint '{folder}' is of another model or adapter; choose another run folder")
    policy.set_weights(state["weights"])
    policy.own.load_state_dict(
        {name: place(state["own"][name], value) for name, value in policy.own.state_dict().items()}
    )
    if not _load(optimizer, state["optimizer"], policy) and policy.accelerator.is_main_process:
        logging.getLogger(__name__).warning(
            "the optimizer's averages were cut over processes in another way; they begin anew at step %d", step
        )
    for name, value in state["memory"].items():
        policy.memory[name] = _like_weights(value, policy)
    return step, state["samples"]


def _load(optimizer: Any, saved: Any, policy: Policy) -> bool:
    """Give the optimizer its averages, after the weights. False where they are cut in another way than it is now.

    Args: saved: a whole state, or one for every process of DeepSpeed.
    """
    if not _is_cut(policy):
        if isinstance(saved, dict):
            optimizer.load_state_dict(saved)
            place_state(optimizer)
        return isinstance(saved, dict)
    _cut(optimizer).refresh_fp32_params()  # it steps on a copy of the weights
    same = isinstance(saved, list) and len(saved) == policy.accelerator.num_processes
    if same:
        _cut(optimizer).optimizer.load_state_dict(saved[policy.accelerator.process_index])
    return same


def _pieces(optimizer: Any, policy: Policy) -> list[Any] | None:
    """The averages that every process of DeepSpeed holds, in the first process; None in the others."""
    first = policy.accelerator.is_main_process
    pieces: list[Any] | None = [None] * policy.accelerator.num_processes if first else None
    distributed.gather_object(send_to_device(_cut(optimizer).optimizer.state_dict(), "cpu"), pieces)
    return pieces


def _is_cut(policy: Policy) -> bool:
    return policy.accelerator.distributed_type == DistributedType.DEEPSPEED


def _cut(optimizer: Any) -> Any:
    """DeepSpeed's optimizer inside accelerate's; its `optimizer` is AdamW on what this process holds."""
    return optimizer.optimizer


def _like_weights(value: Any, policy: Policy) -> Any:
    """`value` of the memory; a list of tensors as long and as shaped as the weights is placed where they are."""
    tensors = isinstance(value, list) and bool(value) and all(isinstance(one, Tensor) for one in value)
    if tensors and [one.shape for one in value] == [one.shape for one in policy.parameters]:
        return [place(one, like.data) for one, like in zip(value, policy.parameters, strict=True)]
    return value
