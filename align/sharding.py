"""Tensors that FSDP2 has cut over processes: made whole to be saved, cut again to be used.

A checkpoint holds whole tensors only, so a run may go on with another number of processes. Everything here leaves
ordinary tensors as they are.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


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


def place_state(optimizer: torch.optim.Optimizer) -> None:
    """Cut the optimizer's loaded statistics as their parameters are."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = place(value, parameter)
