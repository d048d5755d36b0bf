"""Packing: a packed clip comes out as it would alone; sequences keep their budget; dropped tokens stay out."""

import pytest
import torch
from torch import Tensor, nn

from base_model.dit.pack import (
    buckets,
    draw_kept,
    drop_rate,
    fill,
    kept_cells,
    num_tokens,
    pack,
    packed_velocity,
    unpack,
)
from base_model.dit.patches import grid_of, patchify, unpatchify
from base_model.dit.segments import Kernel, block_diagonal, numbers
from base_model.native import nano
from base_model.transformer import VideoTransformer
from core.errors import UserError

SHAPES = [(4, 3, 4, 6), (4, 1, 8, 8), (4, 5, 2, 4), (4, 2, 10, 2)]
PATCH = (1, 2, 2)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def network() -> VideoTransformer:
    network = nano().transformer
    nn.init.normal_(network.known_in.weight, std=0.3)
    for index, block in enumerate(network.blocks):
        block.cross.to_out.weight.data = _normal(32, 32, seed=index) * 0.2
    return network


def _inputs() -> dict[str, object]:
    return {
        "clips": [_normal(*shape, seed=index) for index, shape in enumerate(SHAPES)],
        "sigma": torch.tensor([0.1, 0.4, 0.7, 1.0]),
        "text": _normal(4, 7, 16, seed=5),
        "mask": torch.arange(7)[None] < torch.tensor([5, 3, 7, 1])[:, None],
        "pooled": _normal(4, 16, seed=6),
        "known": [torch.rand(shape[1:], generator=torch.Generator().manual_seed(7)) < 0.3 for shape in SHAPES],
    }


def _alone(network: VideoTransformer, inputs: dict[str, object], index: int) -> Tensor:
    row = {name: inputs[name][index : index + 1] for name in ("sigma", "text", "mask", "pooled")}  # type: ignore[index]
    return network(inputs["clips"][index][None], **row, known=inputs["known"][index][None])[0]  # type: ignore[index]


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["auto", "mask", "split", "flex"])
def test_a_packed_clip_is_the_clip_alone(network: VideoTransformer, kernel: Kernel) -> None:
    inputs = _inputs()
    together = packed_velocity(network, **inputs, kernel=kernel)  # type: ignore[arg-type]
    for index, velocity in enumerate(together):
        assert torch.allclose(velocity, _alone(network, inputs, index), atol=1e-5)


def test_the_gradient_of_a_pack_is_the_sum_of_the_clips_own(network: VideoTransformer) -> None:
    inputs, weight = _inputs(), network.blocks[0].attention.to_q.weight.requires_grad_()
    sum(v.square().sum() for v in packed_velocity(network, **inputs)).backward()  # type: ignore[union-attr, arg-type]
    together, weight.grad = weight.grad, None
    for index in range(len(SHAPES)):
        _alone(network, inputs, index).square().sum().backward()
    assert together is not None and together.any()
    assert torch.allclose(together, weight.grad, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]
    weight.requires_grad_(False).grad = None


@torch.no_grad()
def test_dropping_no_token_changes_nothing_and_dropped_ones_come_out_as_zero(network: VideoTransformer) -> None:
    inputs, rng = _inputs(), torch.Generator().manual_seed(0)
    counts = [num_tokens(shape, PATCH) for shape in SHAPES]
    whole = packed_velocity(network, **inputs)  # type: ignore[arg-type]
    all_kept = packed_velocity(network, **inputs, kept=[draw_kept(n, 0.0, rng) for n in counts])  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(whole, all_kept, strict=True))
    kept = [draw_kept(n, 0.5, rng) for n in counts]
    half = packed_velocity(network, **inputs, kept=kept)  # type: ignore[arg-type]
    for velocity, shape, stay, before in zip(half, SHAPES, kept, whole, strict=True):
        cells = kept_cells(shape, PATCH, stay)
        assert cells.sum() == 4 * len(stay) and not velocity[:, ~cells].any() and velocity[:, cells].all()
        assert not torch.allclose(velocity[:, cells], before[:, cells], atol=1e-4)  # fewer tokens to look at


def test_dropping_tokens_keeps_the_places_of_the_others() -> None:
    clip, stay = _normal(4, 3, 4, 6), torch.tensor([0, 7, 17])
    packed = pack([clip], PATCH, [stay])
    assert packed.position.tolist() == [[0, 0, 0], [1, 0, 1], [2, 1, 2]]
    back = unpack(packed.tokens, [clip.shape], PATCH, [stay])[0]
    assert torch.equal(back, clip * kept_cells(clip.shape, PATCH, stay))


def test_fewer_tokens_are_dropped_as_training_goes_on() -> None:
    rates = [drop_rate(step, 100, 0.5) for step in range(101)]
    assert rates[0] == 0.5 and rates[40] == pytest.approx(0.25) and not any(rates[80:])
    assert rates == sorted(rates, reverse=True) and drop_rate(3, 100, 0.0) == 0.0
    rng = torch.Generator().manual_seed(0)
    assert len(draw_kept(40, 0.25, rng)) == 30 and draw_kept(3, 0.99, rng).shape == (1,)


def test_no_sequence_is_longer_than_the_budget_and_every_clip_is_in_one() -> None:
    lengths = [20, 80, 30, 5, 50, 15, 100, 45, 55]
    packs = fill(lengths, 100)
    assert sorted(sum(packs, [])) == list(range(9))
    assert all(sum(lengths[i] for i in chosen) <= 100 for chosen in packs)
    assert len(packs) == 4  # 400 tokens: nothing is left free
    assert fill([], 100) == []


def test_a_budget_smaller_than_one_clip_is_refused() -> None:
    with pytest.raises(UserError, match="token budget is 64, but clip 1 alone has 80 tokens; raise the budget to 80"):
        fill([20, 80], 64)


def test_a_bucket_has_one_shape_and_every_clip_comes_once() -> None:
    shapes = [SHAPES[i % 3] for i in range(11)]
    batches = buckets(shapes, 3)
    assert sorted(sum(batches, [])) == list(range(11))
    assert all(len({shapes[i] for i in batch}) == 1 and len(batch) <= 3 for batch in batches)
    assert sorted(map(len, batches)) == [1, 1, 3, 3, 3]


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 2, 2), (4, 1, 3), (1, 1, 1)])
def test_patches_go_back_where_they_came_from(patch: tuple[int, int, int]) -> None:
    latents = _normal(2, 3, 4, 6, 6)
    tokens = patchify(latents, patch)
    assert tokens.shape == (2, 144 // (patch[0] * patch[1] * patch[2]), 3 * patch[0] * patch[1] * patch[2])
    assert torch.equal(tokens[0, 0].unflatten(0, (3, *patch)), latents[0, :, : patch[0], : patch[1], : patch[2]])
    assert torch.equal(unpatchify(tokens, grid_of(latents.shape, patch), patch), latents)


def test_latents_off_the_patch_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="3x4x5 cells do not divide into patches of 1x2x2"):
        patchify(torch.zeros(1, 2, 3, 4, 5), (1, 2, 2))


def test_tokens_are_numbered_by_clip_and_an_unknown_kernel_is_named() -> None:
    assert numbers((2, 3)).tolist() == [0, 0, 1, 1, 1]
    seen = block_diagonal((1, 2), (2, 1), "mask")
    assert seen[0, 0].tolist() == [[True, True, False], [False, False, True], [False, False, True]]  # type: ignore[index]
    with pytest.raises(ValueError, match="kernel 'fast' is unknown"):
        block_diagonal((1,), (1,), "fast")  # type: ignore[arg-type]
