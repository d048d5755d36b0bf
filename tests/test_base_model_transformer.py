"""The video transformer: a new block is the identity, padding is unseen, positions are relative, any grid goes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_model.dit.blocks import Attention, Block, attend
from base_model.dit.position import rotary_table, rotate
from base_model.transformer import VideoTransformer, sigma_embedding

RNG = torch.Generator().manual_seed(0)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=RNG)


@pytest.fixture(scope="module")
def network() -> VideoTransformer:
    """Two small blocks whose every layer does something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VideoTransformer(4, 32, num_layers=2, num_heads=2, text_width=16, pooled_width=8)
        for value in network.parameters():
            if not value.any():
                nn.init.normal_(value, std=0.1)
    return network.eval()


def _inputs(batch: int = 2, time: int = 3, height: int = 4, width: int = 6) -> dict[str, Tensor]:
    mask = torch.arange(7)[None] < torch.tensor([5, 3, 7, 2])[:batch, None]
    latents, text, pooled = _normal(batch, 4, time, height, width), _normal(batch, 7, 16), _normal(batch, 8)
    return {"latents": latents, "sigma": torch.linspace(0.2, 0.9, batch), "text": text, "mask": mask, "pooled": pooled}


@torch.no_grad()
def test_a_new_block_is_the_identity() -> None:
    block, x = Block(32, 2, 16), _normal(2, 12, 32)
    table = rotary_table((3, 2, 2), 16)
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    assert torch.equal(block(x, _normal(2, 32), _normal(2, 5, 16), table, mask), x)


@torch.no_grad()
def test_a_new_transformer_predicts_zero() -> None:
    assert not VideoTransformer(4, 32, num_layers=1, num_heads=2, text_width=16, pooled_width=8)(**_inputs()).any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["latents", "sigma", "text", "pooled"])
def test_the_velocity_depends_on_every_input(network: VideoTransformer, name: str) -> None:
    inputs = _inputs()
    velocity = network(**inputs)
    changed = network(**{**inputs, name: inputs[name].flip(0)})
    assert velocity.shape == inputs["latents"].shape and not torch.allclose(velocity, changed, atol=1e-3)


@torch.no_grad()
def test_masked_words_change_nothing(network: VideoTransformer) -> None:
    inputs = _inputs()
    noise = torch.where(inputs["mask"][..., None], 0.0, 50.0)
    assert torch.equal(network(**inputs), network(**{**inputs, "text": inputs["text"] + noise}))
    cut = {**inputs, "text": inputs["text"][:, :5], "mask": inputs["mask"][:, :5]}
    assert torch.allclose(network(**inputs), network(**cut), atol=1e-5)


@torch.no_grad()
def test_rows_do_not_see_each_other(network: VideoTransformer) -> None:
    inputs = _inputs(batch=4)
    together = network(**inputs)
    for index in range(4):
        alone = network(**{name: value[index : index + 1] for name, value in inputs.items()})
        assert torch.allclose(alone[0], together[index], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("grid", [(1, 2, 2), (3, 4, 6), (5, 8, 8), (2, 10, 4)])
def test_any_grid_of_whole_patches_is_taken(network: VideoTransformer, grid: tuple[int, int, int]) -> None:
    velocity = network(**_inputs(1, *grid))
    assert velocity.shape == (1, 4, *grid) and velocity.isfinite().all()


@torch.no_grad()
def test_patches_go_back_where_they_came_from() -> None:
    """With every layer between the patch layers off and these inverse to each other, the input comes back."""
    network = VideoTransformer(4, 16, num_layers=1, num_heads=1, text_width=16, pooled_width=8)
    nn.init.eye_(network.patch_in.weight)
    nn.init.zeros_(network.patch_in.bias)
    nn.init.eye_(network.patch_out.weight)
    network.norm_out = nn.Identity()  # type: ignore[assignment]
    inputs = _inputs()
    assert torch.equal(network(**inputs), inputs["latents"])


@torch.no_grad()
def test_every_token_sees_every_other_in_time_and_space(network: VideoTransformer) -> None:
    inputs = _inputs(batch=1)
    moved = inputs["latents"].clone()
    moved[0, :, 2, 3, 5] += 1.0
    change = (network(**{**inputs, "latents": moved}) - network(**inputs)).abs().amax(dim=1)
    assert (change > 0).all()


def test_gradients_reach_every_weight(network: VideoTransformer) -> None:
    known = torch.zeros(2, 3, 4, 6, dtype=torch.bool)
    known[:, 0] = True
    network(**_inputs(), known=known).square().sum().backward()
    for name, value in network.named_parameters():
        assert value.grad is not None and value.grad.any(), name
    network.zero_grad()


@torch.no_grad()
def test_attention_is_the_fused_kernels() -> None:
    q, k, v = _normal(2, 3, 5, 8), _normal(2, 3, 7, 8), _normal(2, 3, 7, 8)
    mask = torch.arange(7)[None, None, None] < torch.tensor([7, 4])[:, None, None, None]
    assert torch.allclose(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask), atol=1e-6)
    assert torch.allclose(attend(q, k, v), F.scaled_dot_product_attention(q, k, v), atol=1e-6)


@torch.no_grad()
def test_queries_and_keys_are_normed_so_that_scale_does_not_matter() -> None:
    layer, x = Attention(32, 2, 32), _normal(1, 6, 32)
    for part in (layer.to_q, layer.to_k):
        nn.init.zeros_(part.bias)
    before = layer(x, x)
    layer.to_q.weight.mul_(30.0)
    layer.to_k.weight.mul_(30.0)
    assert torch.allclose(layer(x, x), before, atol=1e-4)


def test_rotary_positions_are_relative_and_keep_lengths() -> None:
    q, k = _normal(1, 1, 1, 24).expand(1, 1, 60, 24), _normal(1, 1, 1, 24).expand(1, 1, 60, 24)
    table = rotary_table((3, 4, 5), 24)
    turned_q, turned_k = rotate(q, *table), rotate(k, *table)
    assert torch.allclose(turned_q.norm(dim=-1), q.norm(dim=-1), atol=1e-5)
    weight = (turned_q @ turned_k.mT)[0, 0].reshape(3, 4, 5, 3, 4, 5)
    assert weight[0, 0, 0, 1, 1, 1] == pytest.approx(float(weight[1, 2, 3, 2, 3, 4]), abs=1e-4)
    assert weight[0, 0, 0, 0, 2, 0] == pytest.approx(float(weight[2, 1, 4, 2, 3, 4]), abs=1e-4)
    for other in (weight[0, 0, 0, 0, 0, 1], weight[0, 0, 0, 0, 1, 0], weight[0, 0, 0, 1, 0, 0]):
        assert abs(float(other - weight[0, 0, 0, 0, 0, 0])) > 1e-3


def test_noise_levels_are_told_apart() -> None:
    levels = sigma_embedding(torch.linspace(0, 1, 21), 32)
    distance = torch.cdist(levels, levels) + 10 * torch.eye(21)
    assert levels.shape == (21, 32) and distance.min() > 0.5
    assert torch.equal(sigma_embedding(torch.zeros(1), 32)[0], torch.tensor([1.0] * 16 + [0.0] * 16))
