"""The codec: earlier frames never see later ones, an image is a video of one frame, what does not fit is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from base_model.codec.vae import CausalVideoVAE, MixBlock, PointBlock
from base_model.protocol import VideoSize
from base_model.world.dataset import make_clip


@pytest.fixture(scope="module")
def codec() -> CausalVideoVAE:
    """A small codec whose every weight is random, so that each block does something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        statistics = [[0.1, -0.2, 0.3, 0.0], [0.0, 0.5, -0.1, 0.2]], [[0.5, 1.0, 2.0, 0.7], [1.5, 0.8, 0.4, 1.1]]
        codec = CausalVideoVAE(
            4, 32, encoder_blocks="mpm", decoder_blocks="mpm", latent_mean=statistics[0], latent_std=statistics[1]
        )
        for value in codec.parameters():
            if value.ndim > 1:
                torch.nn.init.normal_(value, std=value[0].numel() ** -0.5)
    return codec.eval()


def _frames(time: int = 17, height: int = 32, width: int = 32, batch: int = 2) -> Tensor:
    return torch.rand(batch, time, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_later_frames_leave_earlier_latents_and_frames_as_they_are(codec: CausalVideoVAE) -> None:
    frames = _frames()
    changed = frames.clone()
    changed[:, 9:] = 1 - changed[:, 9:]
    before, after = codec.encode(frames), codec.encode(changed)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert (before[:, :, 3:] != after[:, :, 3:]).any(dim=1).all()
    shown, shown_changed = codec.decode(before), codec.decode(after)
    assert torch.equal(shown[:, :9], shown_changed[:, :9]) and not torch.equal(shown[:, 9:], shown_changed[:, 9:])


@torch.no_grad()
def test_earlier_frames_reach_later_latents(codec: CausalVideoVAE) -> None:
    frames = _frames()
    changed = frames.clone()
    changed[:, 0] = 1 - changed[:, 0]
    assert not torch.equal(codec.encode(frames)[:, :, 2], codec.encode(changed)[:, :, 2])


@torch.no_grad()
def test_an_image_is_the_first_latent_of_its_video(codec: CausalVideoVAE) -> None:
    frames = _frames()
    image = codec.encode(frames[:, :1])
    assert image.shape == (2, 4, 1, 4, 4)
    assert torch.allclose(image, codec.encode(frames)[:, :, :1], atol=1e-5)
    assert torch.allclose(codec.decode(image), codec.decode(codec.encode(frames))[:, :1], atol=1e-5)


@pytest.mark.parametrize("size", [VideoSize(17, 64, 64), VideoSize(1, 8, 16), VideoSize(5, 40, 24)])
@torch.no_grad()
def test_latents_are_4_x_8_x_8_times_smaller_and_decode_to_the_size(codec: CausalVideoVAE, size: VideoSize) -> None:
    frames = _frames(size.num_frames, size.height, size.width, batch=1)
    latents = codec.encode(frames)
    shape = codec.latent_shape(size.num_frames, size.height, size.width)
    assert shape == (4, (size.num_frames - 1) // 4 + 1, size.height // 8, size.width // 8) == tuple(latents.shape[1:])
    decoded = codec.decode(latents)
    assert decoded.shape == frames.shape and 0 <= decoded.min() and decoded.max() <= 1


@pytest.mark.parametrize("shape", [(16, 32, 32), (0, 32, 32), (17, 30, 32), (17, 32, 4), (-3, 32, 32), (5, 0, 8)])
def test_a_video_off_the_grid_is_refused(codec: CausalVideoVAE, shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"do not fit the codec: frames must be 4k\+1, sides multiples of 8"):
        codec.latent_shape(*shape)
    if min(shape) > 0:
        with pytest.raises(ValueError, match="do not fit"):
            codec.encode(_frames(*shape))


@torch.no_grad()
def test_latents_are_normalised_by_the_statistics_in_the_config(codec: CausalVideoVAE) -> None:
    frames = _frames()
    raw, _ = codec.encode_moments(frames * 2 - 1)
    mean, std = torch.tensor(codec.config.latent_mean), torch.tensor(codec.config.latent_std)
    latents = codec.encode(frames)
    for time, row in ((0, 0), (1, 1), (4, 1)):
        back = latents[:, :, time] * std[row][None, :, None, None] + mean[row][None, :, None, None]
        assert torch.allclose(back, raw[:, :, time], atol=1e-5)
    assert torch.allclose(codec.decode(latents), (codec.decode_raw(raw) + 1) / 2, atol=1e-5)


def test_gradients_flow_through_decode_and_encode(codec: CausalVideoVAE) -> None:
    latents = codec.encode(_frames(5)).detach().requires_grad_()
    codec.decode(latents).square().sum().backward()
    assert latents.grad is not None and (latents.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()
    frames = _frames(5).requires_grad_()
    codec.encode(frames).square().sum().backward()
    assert frames.grad is not None and (frames.grad != 0).float().mean() > 0.99


def test_an_untrained_block_is_the_identity() -> None:
    x = torch.randn(2, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for block in (MixBlock(8), PointBlock(8)):
        assert torch.equal(block(x), x)


@torch.no_grad()
def test_the_palette_can_paint_the_ground_exactly() -> None:
    """Nothing else is wanted of most pixels; the entry is fixed, so it needs no training."""
    codec = CausalVideoVAE(4, 16, encoder_blocks="m", decoder_blocks="m")
    for head in (codec.first_out, codec.rest_out):
        head.weight.zero_()
        head.bias.zero_()
        head.bias[3 * codec.num_colours :].view(codec.num_colours + 1, -1)[-1] = 100.0
    ground = make_clip(0, 0).frames[0, :, 0, 0]
    painted = codec.decode(torch.zeros(1, 4, 2, 2, 2))
    assert torch.allclose(painted, torch.from_numpy(ground)[None, None, :, None, None].expand_as(painted), atol=1e-6)


@torch.no_grad()
def test_a_saved_codec_is_the_same_codec(codec: CausalVideoVAE, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    loaded = CausalVideoVAE.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    frames = _frames(5)
    assert torch.equal(loaded.encode(frames), codec.encode(frames))
    assert torch.equal(loaded.decode(loaded.encode(frames)), codec.decode(codec.encode(frames)))


@pytest.mark.parametrize(("temporal", "spatial"), [(2, 4), (8, 16), (1, 8)])
@torch.no_grad()
def test_the_factors_say_how_many_pixels_a_cell_holds(temporal: int, spatial: int) -> None:
    codec = CausalVideoVAE(4, 16, temporal, spatial, encoder_blocks="m", decoder_blocks="m").eval()
    frames = _frames(1 + 2 * temporal)
    latents = codec.encode(frames)
    assert latents.shape == (2, 4, 3, 32 // spatial, 32 // spatial) and codec.decode(latents).shape == frames.shape
    torch.testing.assert_close(codec.encode(frames[:, :1]), latents[:, :, :1])
