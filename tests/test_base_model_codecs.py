"""Quantised and per-frame codecs behind one interface; long and large videos; the losses they are trained on."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from base_model.codec import losses, quantize
from base_model.codec.frames import FrameCodec
from base_model.codec.load import load_codec
from base_model.codec.long import decode_pieces, decode_tiles, encode_pieces, encode_tiles, seam_error
from base_model.codec.protocol import Codec
from base_model.codec.quantize import FiniteScalarQuantizer, VectorQuantizer, perplexity
from base_model.codec.quantized import QuantizedVideoCodec
from base_model.codec.vae import CausalVideoVAE, Past
from core.errors import UserError

TRUNK = {"latent_channels": 4, "width": 24, "encoder_blocks": "mp", "decoder_blocks": "mpm"}
STATISTICS = [[0.1, -0.2, 0.3, 0.0], [0.0, 0.5, -0.1, 0.2]], [[0.5, 1.0, 2.0, 0.7], [1.5, 0.8, 0.4, 1.1]]
IMAGE = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 2}
IMAGE |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _randomised(network: nn.Module) -> nn.Module:
    for index, value in enumerate(network.parameters()):
        if value.ndim > 1:
            value.data = torch.randn(value.shape, generator=_rng(index)) * value[0].numel() ** -0.5
    return network.eval()


@pytest.fixture(scope="module")
def codecs() -> dict[str, Codec]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, std = STATISTICS
        kl = _randomised(CausalVideoVAE(**TRUNK, latent_mean=mean, latent_std=std))
        fsq, vq = (
            _randomised(QuantizedVideoCodec(kind, 16, 2, 8, TRUNK, latent_mean=mean, latent_std=std))
            for kind in ("fsq", "vq")
        )
        return {
            "kl": kl,
            "fsq": fsq,
            "vq": vq,
            "frames": FrameCodec.of(kl),
            "image": FrameCodec.of(AutoencoderKL(**IMAGE)),
        }  # type: ignore[dict-item, arg-type]


def _frames(time: int = 17, height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(1, time, 3, height, width, generator=_rng(1))


# --- one interface ----------------------------------------------------------------------------------------------------

KINDS = ["kl", "fsq", "vq", "frames", "image"]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_every_codec_gives_latents_of_the_shape_it_says_and_frames_back(codecs: dict[str, Codec], kind: str) -> None:
    codec = codecs[kind]
    frames = _frames(5, 16, 24)
    latents = codec.encode(frames)
    assert latents.shape[1:] == codec.latent_shape(5, 16, 24) and latents.shape[2] == (5 if codec.t == 1 else 2)
    decoded = codec.decode(latents)
    assert decoded.shape == frames.shape and 0 <= decoded.min() and decoded.max() <= 1
    signed, extra = codec.sample(frames * 2 - 1, _rng())
    assert signed.shape == frames.shape and extra.ndim == 0 and extra >= 0
    with pytest.raises(ValueError, match="do not fit the codec"):
        codec.latent_shape(5, 17, 24)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fsq", "vq"])
def test_later_frames_never_change_earlier_latents_or_frames(codecs: dict[str, Codec], kind: str) -> None:
    codec, frames = codecs[kind], _frames()
    changed = frames.clone()
    changed[:, 9:] = 1 - changed[:, 9:]
    before, after = codec.encode(frames), codec.encode(changed)
    assert torch.equal(before[:, :, :3], after[:, :, :3]) and not torch.equal(before[:, :, 3:], after[:, :, 3:])
    assert torch.equal(codec.decode(before)[:, :9], codec.decode(after)[:, :9])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fsq", "vq"])
def test_codes_decode_to_what_the_latents_decode_to(codecs: dict[str, Codec], kind: str, tmp_path: Path) -> None:
    codec = codecs[kind]
    assert isinstance(codec, QuantizedVideoCodec)
    frames = _frames(9)
    codes, latents = codec.codes(frames), codec.encode(frames)
    assert codes.shape == (1, 3, 4, 6, 4 if kind == "fsq" else 2) and codes.dtype == torch.long
    assert torch.allclose(codec.decode_codes(codes), codec.decode(latents), atol=1e-5)
    assert torch.equal(codec.decode(latents), codec.decode(latents + 1e-7))  # no code is that near another
    codec.save_pretrained(tmp_path)
    loaded = QuantizedVideoCodec.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    assert torch.equal(loaded.decode_codes(loaded.codes(frames)), codec.decode_codes(codes))


@torch.no_grad()
def test_the_per_frame_codec_sees_each_frame_alone_and_takes_any_number(codecs: dict[str, Codec]) -> None:
    codec, frames = codecs["frames"], _frames(6)
    assert isinstance(codec, FrameCodec) and not any(value.requires_grad for value in codec.parameters())
    latents = codec.encode(frames)
    for time in range(6):
        alone = codec.encode(frames[:, time : time + 1])
        assert torch.allclose(latents[:, :, time : time + 1], alone, atol=1e-5)
        assert torch.allclose(alone, codec.image.encode(frames[:, time : time + 1]), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["frames", "image"])
def test_a_per_frame_codec_is_saved_with_the_image_codec_inside(
    codecs: dict[str, Codec], tmp_path: Path, name: str
) -> None:
    codec, frames = codecs[name], _frames(3)
    assert isinstance(codec, FrameCodec)
    codec.save_pretrained(tmp_path)
    loaded = load_codec(tmp_path)
    assert isinstance(loaded, FrameCodec) and not any(value.requires_grad for value in loaded.parameters())
    latents = loaded.encode(frames)
    assert torch.equal(latents, codec.encode(frames)) and torch.equal(loaded.decode(latents), codec.decode(latents))


# --- quantisers -------------------------------------------------------------------------------------------------------


def test_vectors_go_to_the_nearest_entry_and_gradients_straight_through() -> None:
    layer = VectorQuantizer(2, 3).eval()
    layer.entries.copy_(torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]]))
    values = torch.tensor([[0.9, 0.1], [0.1, 1.2], [-3.0, 0.0]], requires_grad=True)
    found = layer(values)
    assert found.codes.flatten().tolist() == [1, 2, 0]
    assert torch.allclose(found.values, torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
    assert float(found.loss.detach()) == pytest.approx(0.25 * (0.01 + 0.01 + 0.01 + 0.64 + 9.0) / 6)
    weight = torch.randn(3, 2, generator=_rng())
    (found.values * weight).sum().backward()
    assert torch.equal(values.grad, weight)  # type: ignore[arg-type]


def test_codebooks_follow_the_vectors_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(40, 6, generator=_rng())
    whole, half = VectorQuantizer(6, 8, 2), VectorQuantizer(6, 8, 2)
    half.load_state_dict(whole.state_dict())
    theirs = copy.deepcopy(half).eval()(values[20:])
    other = iter([values[20:].unflatten(-1, (2, 3)), theirs.codes])
    monkeypatch.setattr(quantize, "gather", lambda mine: torch.cat([mine, next(other)]))
    half(values[:20])
    monkeypatch.undo()
    whole(values)
    assert torch.allclose(half.entries, whole.entries, atol=1e-6)


def test_entries_follow_the_moving_average_of_what_is_assigned_to_them() -> None:
    layer = VectorQuantizer(1, 2)
    layer.entries.copy_(torch.tensor([[[0.0], [10.0]]]))
    layer.count.copy_(torch.tensor([[4.0, 4.0]]))
    layer.total.copy_(layer.count[..., None] * layer.entries)
    layer(torch.tensor([[1.0], [2.0], [3.0], [11.0]]))
    keep = 0.99
    counts = [keep * 4 + 0.01 * 3, keep * 4 + 0.01 * 1]
    expected = [(0.01 * 6) / counts[0], (keep * 40 + 0.01 * 11) / counts[1]]
    assert layer.entries.flatten().tolist() == pytest.approx(expected)
    before = layer.entries.clone()
    layer.eval()(torch.tensor([[100.0]]))
    assert torch.equal(layer.entries, before)


def test_a_codebook_that_began_far_away_comes_into_even_use() -> None:
    layer = VectorQuantizer(4, 16, num_groups=2)
    layer.entries.mul_(0.01).add_(50.0)
    centres = torch.randn(2, 16, 2, generator=_rng(3)) * 3
    for step in range(60):
        rng = _rng(step)
        which = torch.randint(16, (2, 256), generator=rng)
        vectors = torch.cat([centres[g][which[g]] for g in range(2)], dim=1)
        found = layer(vectors + 0.05 * torch.randn(256, 4, generator=rng))
    for group in range(2):
        assert perplexity(found.codes[:, group], 16) > 8
    assert float(found.loss) < 0.25 * 9 / 10  # the centres' variance is 9


@pytest.mark.parametrize("levels", [[8, 5], [3, 3], [7, 4]])
def test_rounding_reaches_every_level_and_no_other(levels: list[int]) -> None:
    layer = FiniteScalarQuantizer(levels)
    values = torch.linspace(-6, 6, 4001)[:, None].expand(-1, 2).clone().requires_grad_()
    found = layer(values)
    for channel, number in enumerate(levels):
        assert found.codes[:, channel].unique().tolist() == list(range(number))
        assert (found.codes[1:, channel] >= found.codes[:-1, channel]).all()
    assert found.values.abs().max() <= 1.0 and torch.allclose(layer.look_up(found.codes), found.values)
    found.values.sum().backward()
    assert (values.grad >= 0).all() and values.grad[2000].min() > 0.3  # type: ignore[index, union-attr]
    assert float(found.loss) == 0.0


def test_perplexity_counts_codes_in_even_use() -> None:
    assert perplexity(torch.arange(8).repeat(5), 16) == pytest.approx(8.0)
    assert perplexity(torch.zeros(9, dtype=torch.long), 16) == pytest.approx(1.0)


def test_groups_and_levels_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="6 channels do not divide into 4 groups"):
        VectorQuantizer(6, 8, 4)
    with pytest.raises(ValueError, match="3 or more"):
        FiniteScalarQuantizer([4, 2])


# --- long and large ---------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[17], [1, 4, 4, 4, 4], [3, 9, 2, 3], [6, 11]])
def test_pieces_make_the_whole(codecs: dict[str, Codec], kind: str, lengths: list[int]) -> None:
    codec, frames = codecs[kind], _frames(17, 16, 16)
    whole = codec.encode(frames)
    pieces = torch.cat(list(encode_pieces(codec, frames.split(lengths, dim=1))), dim=2)
    assert torch.allclose(pieces, whole, atol=1e-5)
    decoded = torch.cat(list(decode_pieces(codec, whole, length=2)), dim=1)
    assert torch.allclose(decoded, codec.decode(whole), atol=1e-5)


@torch.no_grad()
def test_what_is_remembered_does_not_grow_with_the_video(codecs: dict[str, Codec]) -> None:
    held = []
    for time in (9, 65):
        past = Past()
        codec, frames = codecs["kl"], _frames(time, 16, 16)
        codec.encode(frames[:, :1], past)
        for piece in frames[:, 1:].split(4, dim=1):
            codec.encode(piece, past)
        held.append(sum(cell.untyped_storage().nbytes() for cell in past.cells.values()))
    assert held[0] == held[1] == 24 * 2 * 2 * 2 * 4  # width x cells x rows x columns x bytes, one mixing block


def test_a_video_that_ends_inside_a_cell_is_refused(codecs: dict[str, Codec]) -> None:
    with pytest.raises(ValueError, match="ends 2 frames into a cell of 4"):
        list(encode_pieces(codecs["kl"], _frames(7, 16, 16).split(2, dim=1)))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["kl", "fsq", "frames"])
def test_tiles_with_a_margin_of_the_reach_leave_no_seam(codecs: dict[str, Codec], kind: str) -> None:
    codec, frames = codecs[kind], _frames(5, 56, 40)
    latents = codec.encode(frames)
    assert torch.allclose(encode_tiles(codec, frames, 3), latents, atol=1e-5)
    assert torch.allclose(decode_tiles(codec, latents, 3), codec.decode(latents), atol=1e-5)


@torch.no_grad()
def test_seams_shrink_with_the_margin(codecs: dict[str, Codec]) -> None:
    codec = codecs["kl"]
    latents = codec.encode(_frames(5, 64, 64))
    means = [seam_error(codec, latents, 4, margin)[0] for margin in range(3)]
    assert codec.reach == 2 and means[0] > means[1] > means[2] and means[2] < 1e-6 and means[0] > 1e-3


# --- losses -----------------------------------------------------------------------------------------------------------


def test_the_kl_is_zero_at_the_prior_and_closed_form_elsewhere() -> None:
    assert float(losses.kl_to_normal(torch.zeros(5), torch.zeros(5))) == 0.0
    p, q = torch.distributions.Normal(0.7, 0.4), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(p, q)
    assert float(losses.kl_to_normal(torch.tensor([0.7]), torch.tensor([0.16]).log())) == pytest.approx(float(expected))
    made, real = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0])
    assert float(losses.pixel("mse", made, real)) == 5.0 and float(losses.pixel("l1", made, real)) == 2.0


def test_a_backbone_comes_from_a_file_or_a_clip_folder(tmp_path: Path) -> None:
    from base_model.native import nano

    torch.jit.script(nn.Conv2d(3, 6, 3)).save(tmp_path / "backbone.pt")
    nano().clip.save_pretrained(tmp_path / "clip")
    real = _frames(2, 64, 64) * 2 - 1
    for name in ("backbone.pt", "clip"):
        backbone = losses.load_backbone(tmp_path / name)
        made = real.flip(3).clone().requires_grad_()
        assert float(losses.perceptual(backbone, real, real)) == 0.0
        loss = losses.perceptual(backbone, made, real)
        loss.backward()
        assert loss > 0 and made.grad is not None and made.grad.any()
    (tmp_path / "not.pt").write_text("weights")
    for name in ("not.pt", "nothing"):
        with pytest.raises(UserError, match="neither a TorchScript file nor a folder"):
            losses.load_backbone(tmp_path / name)


def test_one_pass_teaches_the_maker_and_the_judge_apart() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = losses.PatchDiscriminator(width=4, num_layers=2)
    real, made = _frames(5, 16, 16), _frames(5, 16, 16).flip(1).requires_grad_()
    for_maker, for_judge = losses.adversarial(judge, made, real)
    assert judge(real).shape == (1, 1, 5, 4, 4) and float(for_maker.detach()) == pytest.approx(
        -float(judge(made).mean().detach())
    )
    for_maker.backward(retain_graph=True)
    assert made.grad is not None and all(value.grad is None for value in judge.parameters())
    before = made.grad.clone()
    for_judge.backward()
    assert torch.equal(made.grad, before) and all(value.grad is not None for value in judge.parameters())
    assert float(losses.hinge_real_fake(torch.tensor([2.0]), torch.tensor([-2.0]))) == 0.0
    assert float(losses.hinge_real_fake(torch.tensor([0.0]), torch.tensor([0.0]))) == 1.0
