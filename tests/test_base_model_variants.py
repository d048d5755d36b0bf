"""Other denoisers behind one call: boxes are masked joint attention, the scan is its loop, every part is heard."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from base_model.dit.boxes import LAYOUTS, BoxAttention, Layout, from_boxes, layer_boxes, to_boxes
from base_model.dit.patches import Box
from base_model.dit.position import grid_positions, rotary_table
from base_model.dit.scan import Direction, ScanMixer, scan, scan_by, scan_doubling, scan_loop, selective_scan
from base_model.transformer import VideoTransformer
from base_model.variants import VARIANTS, SpaceTimeUNet, VariantTransformer

SIZES = {"in_channels": 4, "text_width": 16, "pooled_width": 8}
SMALL = {"width": 32, "num_layers": 4, "num_heads": 2}


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _opened(network: nn.Module) -> nn.Module:
    """Every layer does something: what starts at zero is drawn."""
    for index, value in enumerate(network.parameters()):
        if not value.any():
            value.data = _normal(*value.shape, seed=index) * 0.1
    return network.eval()


def _make(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VARIANTS[name](**SIZES, **({"widths": (16, 32)} if name == "unet" else SMALL))


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {name: _opened(_make(name)) for name in VARIANTS}


def _inputs(batch: int = 2, time: int = 3, height: int = 8, width: int = 4) -> dict[str, Tensor]:
    mask = torch.arange(7)[None] < torch.tensor([5, 3])[:batch, None]
    known = torch.zeros(batch, time, height, width, dtype=torch.bool)
    known[0, 0] = True
    return {
        "latents": _normal(batch, 4, time, height, width),
        "sigma": torch.linspace(0.2, 0.9, batch),
        "text": _normal(batch, 7, 16, seed=1),
        "mask": mask,
        "pooled": _normal(batch, 8, seed=2),
        "known": known,
    }


# --- the one call -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_the_velocity_has_the_latents_shape_and_depends_on_every_input(
    networks: dict[str, nn.Module], name: str
) -> None:
    network, inputs = networks[name], _inputs()
    velocity = network(**inputs)
    assert velocity.shape == inputs["latents"].shape and velocity.isfinite().all()
    heard = [key for key in inputs if key not in ("mask", "text" if name == "adaln_only" else "mask")]
    for key in heard:
        changed = network(**{**inputs, key: inputs[key].flip(0)})
        assert not torch.allclose(velocity, changed, atol=1e-4), key


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_padding_words_and_other_rows_change_nothing(networks: dict[str, nn.Module], name: str) -> None:
    network, inputs = networks[name], _inputs()
    noise = torch.where(inputs["mask"][..., None], 0.0, 50.0)
    velocity = network(**inputs)
    assert torch.allclose(velocity, network(**{**inputs, "text": inputs["text"] + noise}), atol=1e-5)
    alone = network(**{key: value[1:] for key, value in inputs.items()})
    assert torch.allclose(alone[0], velocity[1], atol=1e-4)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "unet"])
def test_gradients_reach_every_weight(networks: dict[str, nn.Module], name: str) -> None:
    network = networks[name]
    network(**_inputs()).square().sum().backward()
    deaf = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    # Without words there is nothing for the words' norm to learn.
    assert deaf == (["text_norm.weight", "text_norm.bias"] if name == "adaln_only" else [])
    network.zero_grad()


@torch.no_grad()
@pytest.mark.parametrize("name", ["joint", "factorised_self", "window", "long_skips", "scan", "in_context"])
def test_a_new_variant_predicts_zero(name: str) -> None:
    assert not _make(name)(**_inputs()).any()


@torch.no_grad()
@pytest.mark.parametrize("grid", [(1, 2, 2), (4, 6, 4), (5, 2, 10)])
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "unet"])
def test_any_grid_of_whole_patches_is_taken(networks: dict[str, nn.Module], name: str, grid: Box) -> None:
    velocity = networks[name](**_inputs(1, *grid))
    assert velocity.shape == (1, 4, *grid) and velocity.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["window", "unet"])
def test_a_saved_variant_is_the_same(networks: dict[str, nn.Module], name: str, tmp_path: Path) -> None:
    kind = SpaceTimeUNet if name == "unet" else VariantTransformer
    networks[name].save_pretrained(tmp_path)  # type: ignore[operator, union-attr]
    loaded = kind.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    assert torch.equal(loaded(**_inputs()), networks[name](**_inputs()))


@torch.no_grad()
def test_the_joint_variant_is_the_shipped_transformer(networks: dict[str, nn.Module]) -> None:
    shipped = _opened(VideoTransformer(**SIZES, **SMALL))
    renamed = {"attention.": "mixers.0.attention.", "mlp_in": "mlp.0", "mlp_out": "mlp.2"}
    weights = {}
    for name, value in shipped.state_dict().items():
        for old, new in renamed.items():
            name = name.replace(old, new) if name.startswith("blocks") else name
        weights[name] = value
    variant = VariantTransformer(**SIZES, **SMALL)
    variant.load_state_dict(weights)
    assert torch.allclose(variant(**_inputs()), shipped(**_inputs()), atol=1e-5)


# --- boxes ------------------------------------------------------------------------------------------------------------

GRID = (3, 4, 6)


@pytest.mark.parametrize("box", [(3, 4, 6), (1, 4, 6), (3, 1, 1), (3, 2, 3), (1, 1, 1)])
@torch.no_grad()
def test_attention_in_boxes_is_joint_attention_masked_to_the_box(box: Box) -> None:
    layer, x = BoxAttention(24, 2), _normal(2, 72, 24)
    number = (grid_positions(GRID) // torch.tensor(box)).long() @ torch.tensor([100, 10, 1])
    mask = (number[:, None] == number[None])[None, None]
    joint = layer.attention(x, x, rotary_table(GRID, 12), mask)
    assert torch.allclose(layer(x, GRID, (box,)), joint, atol=1e-5)


@torch.no_grad()
def test_the_factorised_dot_product_gives_half_the_heads_to_space_and_half_to_time() -> None:
    layer, x = BoxAttention(24, 2), _normal(2, 72, 24)
    boxes = ((1, 4, 6), (3, 1, 1))
    layer.attention.to_out = nn.Identity()  # type: ignore[assignment]
    mixed = layer(x, GRID, boxes)
    for half, box in zip((slice(0, 12), slice(12, 24)), boxes, strict=True):
        assert torch.allclose(mixed[..., half], layer(x, GRID, (box,))[..., half], atol=1e-6)


def test_boxes_come_back_in_place() -> None:
    x = _normal(2, 3, 72, 5)
    inner = to_boxes(x, GRID, (3, 2, 3))
    assert inner.shape == (2 * 4, 3, 18, 5) and torch.equal(from_boxes(inner, GRID, (3, 2, 3)), x)
    assert torch.equal(inner[0, :, :3], x[0, :, :3])  # the first three columns of the first row


def test_every_layout_says_where_each_layer_looks() -> None:
    def boxes(layout: Layout, layer: int, grid: Box = GRID) -> object:
        return layer_boxes(layout, layer, 4, grid, window=4)

    space, time = (1, 4, 6), (3, 1, 1)
    assert [boxes("joint", layer) for layer in range(2)] == [((GRID,),)] * 2
    assert [boxes("factorised_encoder", layer) for layer in range(4)] == [((space,),)] * 2 + [((time,),)] * 2
    assert boxes("factorised_self", 0) == ((space,), (time,)) and boxes("factorised_dot", 3) == ((space, time),)
    assert boxes("window", 0) == ((space,),) and boxes("window", 1) == (((3, 4, 3),),)  # 4 does not divide 6
    with pytest.raises(ValueError, match="layout 'ring' is unknown; known: joint"):
        boxes("ring", 0)  # type: ignore[arg-type]
    assert set(LAYOUTS) == {"joint", "factorised_encoder", "factorised_self", "factorised_dot", "window"}


def _reached(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """bool [T, H, W]: where the velocity answers to a change of the latents' first cell."""
    moved = inputs["latents"].clone()
    moved[0, :, 0, 0, 0] += 1.0
    return (network(**{**inputs, "latents": moved}) - network(**inputs)).abs().amax(dim=(0, 1)) > 0


@torch.no_grad()
def test_windows_meet_only_through_the_layers_of_whole_frames() -> None:
    network = _opened(VariantTransformer(**SIZES, **{**SMALL, "num_layers": 2}, attention="window", patch_size=1))
    assert _reached(network, _inputs(1, 3, 4, 4)).all()
    network.blocks[0].mixers[0].attention.to_out.weight.zero_()
    network.blocks[0].mixers[0].attention.to_out.bias.zero_()
    reached = _reached(network, _inputs(1, 3, 4, 4))
    assert reached[:, :2, :2].all() and reached.sum() == 3 * 4


@torch.no_grad()
def test_an_image_is_untouched_by_the_window_layers() -> None:
    network = _opened(VariantTransformer(**SIZES, **{**SMALL, "num_layers": 2}, attention="window", patch_size=1))
    network.blocks[0].mixers[0].attention.to_out.weight.zero_()
    network.blocks[0].mixers[0].attention.to_out.bias.zero_()
    assert _reached(network, _inputs(1, 1, 4, 4)).sum() == 1


@torch.no_grad()
@pytest.mark.parametrize("layout", ["factorised_encoder", "factorised_self"])
def test_without_the_time_layers_a_frame_knows_only_itself(layout: Layout) -> None:
    network = _opened(VariantTransformer(**SIZES, **SMALL, attention=layout))
    assert _reached(network, _inputs(1)).all()
    for layer, block in enumerate(network.blocks):
        if layout == "factorised_self" or layer >= 2:
            block.mixers[-1].attention.to_out.weight.zero_()
            block.mixers[-1].attention.to_out.bias.zero_()
    reached = _reached(network, _inputs(1))
    assert reached[0].all() and not reached[1:].any()


# --- tokenisers, conditioning, skips ----------------------------------------------------------------------------------


@torch.no_grad()
def test_a_tubelet_holds_two_frames_and_an_odd_last_frame_is_continued(networks: dict[str, nn.Module]) -> None:
    network, inputs = networks["tubelet"], _inputs(1, 3)
    longer = {**inputs, "latents": torch.cat([inputs["latents"], inputs["latents"][:, :, -1:]], dim=2)}
    longer["known"] = torch.cat([inputs["known"], inputs["known"][:, -1:]], dim=1)
    assert torch.equal(network(**inputs), network(**longer)[:, :, :3])
    assert network.patch_in.in_features == 4 * 2 * 2 * 2


def test_in_context_tokens_need_joint_attention() -> None:
    with pytest.raises(ValueError, match="in-context tokens need joint attention, not window attention"):
        VariantTransformer(**SIZES, **SMALL, conditioning="in_context", attention="window")


@torch.no_grad()
def test_long_skips_start_as_if_they_were_not_there(networks: dict[str, nn.Module]) -> None:
    plain, skipping = networks["joint"], _make("long_skips")
    skipping.load_state_dict({**skipping.state_dict(), **plain.state_dict()})
    assert torch.allclose(skipping(**_inputs()), plain(**_inputs()), atol=1e-5)
    skipping.skips[0].weight[:, 32:] = _normal(32, 32)  # type: ignore[index, union-attr]
    assert not torch.allclose(skipping(**_inputs()), plain(**_inputs()), atol=1e-4)


# --- the scan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_every_way_to_scan_gives_what_the_loop_gives_and_its_gradient(count: int) -> None:
    decay, drive = torch.sigmoid(_normal(2, count, 3, 4)), _normal(2, count, 3, 4, seed=1)
    weight, grads, states = _normal(2, count, 3, 4, seed=2), [], []
    for way in (scan_loop, scan_doubling, scan):
        given = decay.clone().requires_grad_(), drive.clone().requires_grad_()
        states.append(way(*given))
        (states[-1] * weight).sum().backward()
        grads.append([torch.zeros(1) if value.grad is None else value.grad for value in given])
    for other in (1, 2):
        assert torch.allclose(states[other], states[0], atol=1e-5)
        for found, expected in zip(grads[other], grads[0], strict=True):
            assert torch.allclose(found, expected, atol=1e-4)


def test_the_selective_scan_is_its_recurrence() -> None:
    u, delta, b, c = (
        _normal(1, 5, 2),
        _normal(1, 5, 2, seed=1).exp(),
        _normal(1, 5, 3, seed=2),
        _normal(1, 5, 3, seed=3),
    )
    a, d, state = -_normal(2, 3, seed=4).exp(), torch.tensor([0.5, -1.0]), torch.zeros(2, 3)
    y = selective_scan(u, delta, a, b, c, d)
    for i in range(5):
        state = torch.exp(delta[0, i, :, None] * a) * state + (delta[0, i] * u[0, i])[:, None] * b[0, i][None]
        assert torch.allclose(y[0, i], state @ c[0, i] + d * u[0, i], atol=1e-5)


def test_the_kernel_of_mamba_ssm_is_given_what_it_wants() -> None:
    """Its interface, `selective_scan_fn(u, delta, A, B, C, D)`, in loops: tokens last, one B and C for all channels."""

    def kernel(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        y = torch.zeros_like(u)
        for row in range(u.shape[0]):
            for channel in range(u.shape[1]):
                h = torch.zeros(a.shape[1])
                for n in range(u.shape[2]):
                    step = delta[row, channel, n]
                    h = torch.exp(step * a[channel]) * h + step * b[row, :, n] * u[row, channel, n]
                    y[row, channel, n] = h @ c[row, :, n] + d[channel] * u[row, channel, n]
        return y

    u, delta = _normal(2, 5, 3), _normal(2, 5, 3, seed=1).exp()
    a, b, c, d = -_normal(3, 4, seed=2).exp(), _normal(2, 5, 4, seed=3), _normal(2, 5, 4, seed=4), _normal(3, seed=5)
    assert torch.allclose(scan_by(kernel, u, delta, a, b, c, d), selective_scan(u, delta, a, b, c, d), atol=1e-5)


@torch.no_grad()
def test_one_direction_is_causal_and_both_together_see_everything() -> None:
    x, moved = _normal(1, 12, 16), _normal(1, 12, 16)
    moved[:, 6] += 1.0
    for layer, first in ((Direction(16, 4), 6), (ScanMixer(16, 4), 0)):
        change = (layer(moved) - layer(x)).abs().amax(dim=(0, 2)) > 0
        assert change.tolist() == [index >= first for index in range(12)]


def test_time_constants_start_between_a_thousandth_and_a_tenth() -> None:
    start = torch.nn.functional.softplus(Direction(16, 4).delta.bias)
    assert float(start.min()) == pytest.approx(1e-3, rel=1e-3) and float(start.max()) == pytest.approx(0.1, rel=1e-3)
