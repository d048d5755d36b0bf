"""What any long training stands on: its rate by step, processes, weights cut over them, activations computed again.

FSDP2 cuts weights over processes. A checkpoint holds whole tensors only, so a run may go on with another number of
processes; what is here for that leaves ordinary tensors as they are.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import checkpoint as activations

from core.errors import UserError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


def launch(precision: str = "no") -> Accelerator:
    """The accelerator, checked against what the launcher promised.

    `cpu=True` matters: without it torchrun on a machine without GPU starts processes that all believe to be alone.
    Accelerate holds a process to its first precision; the runs of one notebook may differ in it.

    Raises: UserError if the launcher started more processes than accelerate sees.
    """
    keep_freed_memory()
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision)
    promised = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != promised:
        raise UserError(
            f"the launcher started {promised} processes but accelerate sees {accelerator.num_processes}; on CPUs "
            "start with `torchrun --nproc-per-node N -m align ...` (or `-m base_model pretrain ...`)"
        )
    return accelerator


def keep_freed_memory() -> None:
    """Let the C library keep what a training step frees (up to 2 GiB) for the next one; other ones than glibc do as is.

    By default the activations that a backward frees go back to the system and come again page by page: 12,000 page
    faults and 5 to 10 % of the time of a forward and backward of the sandbox model at batch 8 to 32.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**25)  # the most that glibc would come to by itself; larger ones are mapped
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def rate_share(step: int, steps: int, rise: int, decay: float) -> float:
    """Share of the full learning rate at training step `step` (0-based) of `steps`.

    It rises in a line over the first `rise` steps and falls in a line over the last share `decay` of all, to nothing
    after the last step; decay 0 = it does not fall.
    """
    left = (steps - step) / (decay * steps) if decay else 1.0
    return min(1.0, (step + 1) / rise, left)


def whole(tree: Any) -> Any:
    """`tree` (nested dictionaries, lists, tuples) with every cut tensor gathered; all processes must call it."""
    if isinstance(tree, dict):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole(value) for value in tree)
    return tree.full_tensor() if isinstance(tree, DTensor) else tree


def place(value: Tensor, like: Tensor) -> Tensor:
    """`value` on the device of `like`, cut as `like` is."""
    if isinstance(like, DTensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device)


def gather_anew(network: nn.Module) -> None:
    """After a change of cut weights: FSDP2 keeps the root's whole ones from a forward without gradients to the next."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def place_state(optimizer: torch.optim.Optimizer) -> None:
    """Cut the optimizer's loaded statistics as their parameters are."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = place(value, parameter)


def unwrap(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Make an ordinary network with these weights (all its parameters) of one that FSDP2 may have cut."""
    for module in network.modules():
        if isinstance(module, FSDPModule):  # fully_shard changes the class; the old one is its second base
            module.__class__ = type(module).__bases__[1]
    for name, value in weights.items():
        owner, _, own = name.rpartition(".")
        setattr(network.get_submodule(owner), own, nn.Parameter(value, requires_grad=False))


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """The outermost members of `network`'s module lists that have parts; single layers in a list do not count."""
    found = []
    for child in network.children():
        members = list(child) if isinstance(child, nn.ModuleList) else []
        if members and all(list(member.children()) for member in members):
            found += members
        else:
            found += repeated_blocks(child)
    return found


def checkpoint_activations(network: nn.Module) -> None:
    """Keep only the inputs of `network`'s repeated blocks for the backward pass and compute the rest again.

    The same numbers for a third more time and a fraction of the memory. Done here and not by diffusers' switch, which
    not every transformer honours.
    """
    for block in repeated_blocks(network):
        block.forward = functools.partial(_recomputed, block.forward)


def _recomputed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return activations.checkpoint(forward, *inputs, use_reentrant=False, **options)
