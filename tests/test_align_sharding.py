"""Weights that FSDP2 cuts: whole in the checkpoint, cut again on the way back. One process stands for many here."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from align.policy import Velocity
from base_model import native
from base_model.large import gather_anew, place, place_state, repeated_blocks, whole


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    started = not distributed.is_initialized()
    if started:
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    if started:
        distributed.destroy_process_group()


def _network(mesh: DeviceMesh) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    fully_shard(network, mesh=mesh)
    return network, torch.optim.AdamW(network.parameters(), lr=0.1)


def _step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    network(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_cut_run_is_saved_whole_and_goes_on_bit_for_bit(mesh: DeviceMesh) -> None:
    first, optimizer = _network(mesh)
    _step(first, optimizer)
    saved = whole({"weights": [value.detach() for value in first.parameters()], "optimizer": optimizer.state_dict()})
    assert not any(isinstance(value, DTensor) for value in saved["weights"])
    assert not isinstance(saved["optimizer"]["state"][0]["exp_avg"], DTensor)
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)

    second, again = _network(mesh)
    for value, kept in zip(second.parameters(), saved["weights"], strict=True):
        value.data.copy_(place(kept, value.data))
    again.load_state_dict(saved["optimizer"])
    place_state(again)
    assert isinstance(next(iter(again.state.values()))["exp_avg"], DTensor)
    for network, one in ((first, optimizer), (second, again)):
        _step(network, one)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(whole(a.detach()), whole(b.detach()))


def test_a_change_of_cut_weights_reaches_the_next_forward(mesh: DeviceMesh) -> None:
    network, _ = _network(mesh)
    cut = list(network.parameters())
    with torch.no_grad():
        before = network(torch.ones(2, 4))  # FSDP2 keeps the whole weights of it
    for value in cut:
        value.data.copy_(2.0 * value.data)
    gather_anew(network)
    assert torch.equal(network(torch.ones(2, 4)), 2.0 * before)


def test_ordinary_tensors_stay_as_they_are() -> None:
    value = torch.ones(2)
    assert whole(value) is value and place(value, torch.zeros(2)) is value


def test_what_is_cut_one_by_one_are_the_blocks_of_the_transformer() -> None:
    generator = native.nano()
    assert Velocity(generator)._no_split_modules == ["Block"]
    assert repeated_blocks(generator.transformer) == list(generator.transformer.blocks)
    nested = nn.Sequential(nn.ModuleList([nn.Linear(1, 1)]), nn.ModuleList([nn.Sequential(nn.ModuleList([nn.ReLU()]))]))
    assert repeated_blocks(nested) == list(nested[1])  # single layers do not count, nor what lies inside a block
