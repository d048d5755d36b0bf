"""LoRA: an exact no-op at first, off inside `reference`, and the same model after saving and loading."""

from pathlib import Path

import pytest
import torch
from torch import nn

from base_model import lora
from core.errors import UserError


def _network() -> nn.Module:
    torch.manual_seed(3)
    network = nn.Module()
    network.blocks = nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(6, 6), "ff": nn.Linear(6, 6)}) for _ in range(2)])
    network.head = nn.Linear(6, 6)
    network.forward = lambda x: network.head(sum(block["ff"](block["to_q"](x)) for block in network.blocks))
    return network


def _trained(alpha: int = 16) -> nn.Module:
    network = _network()
    for value in lora.attach(network, rank=4, alpha=alpha):
        value.data = torch.randn(value.shape, generator=torch.Generator().manual_seed(len(value)))
    return network


X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def test_attached_adapters_change_nothing_and_only_they_train() -> None:
    network = _network()
    before = network(X)
    parameters = lora.attach(network, rank=4, alpha=16)
    assert torch.equal(network(X), before)
    trained = [value for value in network.parameters() if value.requires_grad]
    assert len(parameters) == 8 and {id(v) for v in parameters} == {
        id(v) for v in trained
    }  # 4 layers in blocks, not the head


def test_targets_choose_layers_by_ending() -> None:
    network = _network()
    assert len(lora.attach(network, rank=2, alpha=2, targets=["to_q"])) == 4
    with pytest.raises(UserError, match="to_k.*endings: ff, head, to_q"):
        lora.attach(_network(), rank=2, alpha=2, targets=["to_k"])


def test_the_same_seed_starts_alike_and_leaves_global_randomness_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, second = lora.attach(_as_is(), 4, 4, seed=7), lora.attach(_as_is(), 4, 4, seed=7)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], lora.attach(_as_is(), 4, 4, seed=8)[0])


def _as_is() -> nn.Module:
    with torch.random.fork_rng():
        return _network()


def test_reference_is_the_base_model_and_is_left_even_after_an_exception() -> None:
    base, network = _network()(X), _trained()
    aligned = network(X)
    with lora.reference(network):
        assert torch.equal(network(X), base)
        with lora.reference(network):  # nested: the inner one must not switch the adapters on
            pass
        assert torch.equal(network(X), base)
    with pytest.raises(RuntimeError), lora.reference(network):
        raise RuntimeError
    assert torch.equal(network(X), aligned) and not torch.equal(aligned, base)
    assert all(value.requires_grad for value in lora.parameters(network))


def test_saved_adapters_load_with_their_alpha(tmp_path: Path) -> None:
    network, fresh = _trained(alpha=16), _network()
    lora.save(network, tmp_path)
    lora.load(fresh, tmp_path)
    assert torch.equal(fresh(X), network(X))


def test_loading_into_another_model_or_from_a_broken_file_says_so(tmp_path: Path) -> None:
    lora.save(_trained(), tmp_path)
    with pytest.raises(UserError, match="of another model"):
        lora.load(nn.Sequential(nn.Linear(6, 6)), tmp_path)
    wide = _network()
    lora.attach(wide, rank=8, alpha=8)
    with pytest.raises(UserError, match="does not fit"):
        lora.load(wide, tmp_path)
    with pytest.raises(UserError, match="no LoRA at"):
        lora.load(_network(), tmp_path / "absent")
    path = tmp_path / lora.FILE_NAME
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        lora.load(_network(), tmp_path)


def test_diffusers_reads_the_file_as_its_own(tmp_path: Path) -> None:
    from diffusers.loaders import CogVideoXLoraLoaderMixin

    lora.save(_trained(alpha=16), tmp_path)
    weights, metadata = CogVideoXLoraLoaderMixin.lora_state_dict(tmp_path, return_lora_metadata=True)
    assert "transformer.blocks.0.to_q.lora_A.weight" in weights
    assert metadata["transformer.r"] == 4 and metadata["transformer.lora_alpha"] == 16.0
