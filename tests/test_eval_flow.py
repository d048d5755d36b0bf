"""Optical flow metrics on motion that is known, and on the defects they are for."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from base_model.world import dataset
from eval import controls, flow, flow_warp
from eval.protocol import Frames, Sample

TEXTURE = gaussian_filter(np.random.default_rng(0).random((3, 120, 120)), (0, 2, 2))
TEXTURE = ((TEXTURE - TEXTURE.min()) / np.ptp(TEXTURE)).astype(np.float32)
DIS = flow.Dis()


def panning(step: int, num_frames: int = 6, size: int = 64) -> Frames:
    """A texture that moves left by `step` px a frame."""
    return np.stack([TEXTURE[:, 20 : 20 + size, 5 + step * t : 5 + step * t + size] for t in range(num_frames)])


def sample(frames: Frames) -> Sample:
    return Sample("one", "", 0, frames, estimator=DIS)


def test_the_flow_of_a_pan_is_its_step() -> None:
    found = DIS.flow(*panning(3, 2))[8:-8, 8:-8]
    assert np.median(found[..., 0]) == pytest.approx(-3, abs=0.1)
    assert np.median(found[..., 1]) == pytest.approx(0, abs=0.1)


def test_small_frames_are_enlarged_and_their_flow_is_in_their_own_pixels() -> None:
    found = DIS.flow(*panning(1, 2, size=24))
    assert found.shape == (24, 24, 2) and np.median(found[..., 0]) == pytest.approx(-1, abs=0.2)


def test_pulling_along_a_constant_flow_is_a_shift() -> None:
    frames, shift = panning(4, 2), np.zeros((64, 64, 2))
    shift[..., 0] = -4
    pulled = flow.pull(frames[1], shift)
    assert pulled[:, :, 8:] == pytest.approx(frames[0][:, :, 8:], abs=1e-5)


def test_occlusion_is_where_going_and_coming_disagree_or_the_frame_ends() -> None:
    there, back = np.zeros((8, 8, 2)), np.zeros((8, 8, 2))
    there[..., 0], back[..., 0] = 2, -2
    back[2, 2] = (3, 0)
    kept = flow.agreeing(there, back)
    assert not kept[:, 6:].any() and not kept[2, 0] and kept[4, :6].all()


def test_warping_error_is_small_for_a_pan_and_large_for_jumping_pixels() -> None:
    pan, jumps = sample(panning(2)), panning(2).copy()
    jumps[3] = np.roll(jumps[3], 17, axis=1)[:, ::-1]
    assert flow_warp.warping_error(pan).value < 1e-3
    assert flow_warp.warping_error(sample(jumps)).value > 4 * flow_warp.warping_error(pan).value
    assert flow_warp.warping_error(sample(np.repeat(panning(0, 1), 5, axis=0))).value == pytest.approx(0, abs=1e-9)
    assert flow_warp.warping_error(sample(panning(0, 1))).reason


def test_smoothness_falls_when_a_frame_is_off_its_path() -> None:
    pan = panning(2, 7)
    off = pan.copy()
    off[3] = pan[6]
    assert flow_warp.smoothness(sample(pan)).value > 0.97
    assert flow_warp.smoothness(sample(off)).value < flow_warp.smoothness(sample(pan)).value - 0.01
    assert flow_warp.smoothness(sample(pan[:2])).reason


def test_strength_is_the_fastest_pixels_in_sides_and_dynamic_degree_its_yes_or_no() -> None:
    fast, slow = sample(panning(4)), sample(np.repeat(panning(0, 1), 6, axis=0))
    assert flow_warp.strength(fast).value == pytest.approx(4 / 64, rel=0.25)
    assert flow_warp.dynamic_degree(fast).value == 1 and flow_warp.dynamic_degree(slow).value == 0
    assert flow_warp.strength(slow).value == pytest.approx(0, abs=1e-6)


def test_fastest_is_the_mean_of_the_upper_twentieth() -> None:
    field = np.zeros((1, 10, 10, 2))
    field[0, 0, :5, 0] = [1, 2, 3, 4, 5]
    assert flow_warp.fastest(field)[0] == pytest.approx(3)


def test_flows_are_estimated_once_for_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    one, calls = sample(panning(2, 4)), []
    monkeypatch.setattr(flow.Dis, "flow", lambda self, a, b: (calls.append(1), np.zeros((64, 64, 2)))[1])
    for judge in (flow_warp.warping_error, flow_warp.flow_agreement, flow_warp.strength, flow_warp.dynamic_degree):
        judge(one)
    assert len(calls) == 6


def test_shuffled_sandbox_clips_warp_worse_than_real_ones() -> None:
    gaps = []
    for index in range(6):
        clip = dataset.make_clip(2, index, families=("uniform", "projectile")).frames
        shuffled = controls.spoil(clip, "shuffled", index)
        gaps.append(flow_warp.warping_error(sample(shuffled)).value - flow_warp.warping_error(sample(clip)).value)
    assert min(gaps) > 0


@pytest.mark.slow
def test_raft_by_path(tmp_path) -> None:
    from torchvision.models.optical_flow import raft_large

    torch.save(raft_large(weights=None).state_dict(), tmp_path / "raft.pth")
    estimator = flow.load("raft", {"raft": str(tmp_path / "raft.pth")})
    found = estimator.flow(*panning(2, 2, size=60))
    assert found.shape == (60, 60, 2) and np.isfinite(found).all()
