"""Context parallelism: a team of processes shares the tokens of every clip, where its activations do not fit a GPU.

diffusers cuts the tokens, exchanges heads for tokens around every attention (Ulysses) and joins the answer; so each
process of a team has the whole answer and the gradient of its own tokens, and a team's sum is the gradient. diffusers'
own `enable_parallelism` is not called: it counts GPUs, so it cannot be tried without, and its mesh has a single team.

Wan and LTX-Video run so. LTX-2 has a plan in diffusers 0.42, but there the sound attends to the picture with whole
queries and cut keys, which the exchange does not know; the other families have no plan.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from base_model.hub.family import Family
from base_model.protocol import VideoSize
from core.errors import UserError

NETWORKS = ("WanTransformer3DModel", "LTXVideoTransformer3DModel")


def share_tokens(family: Family, size: VideoSize, team: int) -> None:
    """Cut every clip's tokens over teams of `team` processes, which follow each other in rank.

    Raises: UserError where the processes, the heads or the tokens do not divide, and for a family that has no plan.
    """
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    for network in family.networks.values():
        check(network, family, size, team, state.num_processes)
    mesh = torch.distributed.device_mesh.init_device_mesh(
        state.device.type, (state.num_processes // team, 1, team), mesh_dim_names=("teams", "ring", "ulysses")
    )
    for network in family.networks.values():
        _share(network, mesh, team)


def check(network: nn.Module, family: Family, size: VideoSize, team: int, num_processes: int) -> None:
    """Raises: UserError; see `share_tokens`."""
    asked = f"context_parallel {team}"
    if type(network).__name__ not in NETWORKS:
        raise UserError(
            f"{asked}: this {family.title} does not run so, Wan and LTX-Video do; use gradient checkpointing or FSDP2"
        )
    if num_processes % team:
        raise UserError(
            f"{asked}: {num_processes} process does not divide into such teams; start {team} or a multiple, as "
            f"`accelerate launch --num-processes {team} -m align ...`"
        )
    heads = int(network.config.num_attention_heads)  # type: ignore[union-attr, arg-type]
    time, rows, columns = family.grid.cells(size, family.title)
    tokens = time * rows * columns // family.grid.patch**2
    for name, count in (("attention heads", heads), ("tokens of a clip", tokens)):
        if count % team:
            raise UserError(f"{asked}: the {count} {name} do not divide by {team}; choose another number or clip size")


def _share(network: nn.Module, mesh: torch.distributed.device_mesh.DeviceMesh, team: int) -> None:
    from diffusers.hooks.context_parallel import apply_context_parallel
    from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
    from diffusers.models.attention import AttentionModuleMixin

    tokens = ContextParallelConfig(ulysses_degree=team)
    config = ParallelConfig(context_parallel_config=tokens)
    rank = torch.distributed.get_rank()
    config.setup(rank, torch.distributed.get_world_size(), torch.device(mesh.device_type), mesh=mesh)
    for name, part in network.named_modules():
        if isinstance(part, AttentionModuleMixin) and name.endswith("attn1"):  # of the clip to itself; text stays whole
            part.processor._parallel_config = config  # type: ignore[union-attr]
    apply_context_parallel(network, tokens, _plan(network))


def _plan(network: nn.Module) -> dict[str, Any]:
    """What is cut where. Diffusers' plan for LTX-Video cuts the text too, and then masks of all heads meet exchanged
    ones, and the backward of the exchange takes the text to be as long as the clip; as in Wan it stays whole here."""
    from diffusers.models._modeling_parallel import ContextParallelInput

    plan = dict(network._cp_plan)  # type: ignore[arg-type]
    if type(network).__name__ == "LTXVideoTransformer3DModel":
        per_token = ContextParallelInput(split_dim=1, expected_dims=2, split_output=False)
        plan[""] = {"hidden_states": plan[""]["hidden_states"], "timestep": per_token}
    return plan
