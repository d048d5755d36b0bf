"""Rewards by name, and several as one."""

import math

import pytest
import torch
from reward_examples import tiny_clip

import reward
from core.errors import UserError
from reward.clip_score import ClipScore
from reward.mixture import Mixture
from reward.protocol import weights_sha256
from reward.simple import Formula, brightness, compressibility, flicker, motion, physics

PROMPTS = ["a red ball", "a blue square"]


def _frames() -> torch.Tensor:
    return torch.rand(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [name for name in reward.REWARDS if name != "clip"])
def test_every_named_reward_keeps_the_protocol(name: str) -> None:
    judge = reward.load(name)
    scores = judge(_frames(), PROMPTS)
    assert judge.name == name and judge.unit and judge.version
    assert scores.total.shape == (2,) and set(scores.parts) == set(judge.aspects)
    low, high = judge.range
    measured = scores.total[torch.isfinite(scores.total)]
    assert ((measured >= low) & (measured <= high)).all()
    with pytest.raises(ValueError, match="one prompt per video"):
        judge(_frames(), ["only one"])
    with pytest.raises(ValueError, match=r"\[batch, time, 3"):
        judge(_frames()[0], PROMPTS)


def test_brightness_and_motion_know_their_optimum() -> None:
    black, white = torch.zeros(1, 4, 3, 8, 8), torch.ones(1, 4, 3, 8, 8)
    flash = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)] * 2)[None]
    assert float(brightness()(white, ["x"]).total) == 1 and float(brightness()(black, ["x"]).total) == 0
    assert float(motion()(flash, ["x"]).total) == 1 and float(motion()(white, ["x"]).total) == 0


def test_flicker_is_none_for_even_change_and_one_for_a_strobe() -> None:
    ramp = torch.linspace(0, 1, 5)[None, :, None, None, None].expand(1, 5, 3, 8, 8)
    strobe = (torch.arange(5) % 2).float()[None, :, None, None, None].expand(1, 5, 3, 8, 8)
    assert float(flicker()(ramp, ["x"]).total) == pytest.approx(0, abs=1e-6)
    assert float(flicker()(strobe, ["x"]).total) == 1
    assert torch.isnan(flicker()(ramp[:, :2], ["x"]).total).all()


def test_compressibility_ranks_plain_above_gradient_above_noise() -> None:
    plain = torch.full((1, 2, 3, 32, 32), 0.4)
    ramp = torch.linspace(0, 1, 32).expand(1, 2, 3, 32, 32)
    noise = torch.rand(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first, second, third = (float(compressibility()(clip, ["x"]).total) for clip in (plain, ramp, noise))
    assert 0 > first > second > third


def test_physics_prefers_a_true_clip_to_a_frozen_one_and_cannot_judge_other_prompts() -> None:
    from base_model.world import dataset

    clip = dataset.make_clip(0, 0, families=("uniform",), most_objects=1)
    frames = torch.from_numpy(clip.frames)[None]
    judge = physics()
    true, frozen = (float(judge(one, [clip.prompt]).total) for one in (frames, frames[:, :1].expand_as(frames)))
    assert true > 0.5 > 0.1 > frozen
    assert torch.isnan(judge(frames, ["a cat on a mat"]).total).all()
    assert torch.isnan(judge(frames[..., :32], [clip.prompt]).total).all()
    assert torch.isnan(judge(frames.index_fill(1, torch.tensor([3]), math.nan), [clip.prompt]).total).all()


def test_clip_score_is_a_cosine_with_a_gradient_that_raises_it() -> None:
    judge = ClipScore(tiny_clip())
    frames = _frames().requires_grad_()
    total = judge(frames, PROMPTS).total
    (gradient,) = torch.autograd.grad(total.sum(), frames)
    assert (total.abs() <= 1).all()
    better = judge((frames + 0.1 * gradient.sign()).clamp(0, 1), PROMPTS).total
    assert (better > total).all()


def test_a_video_of_one_frame_has_a_clip_score() -> None:
    assert torch.isfinite(ClipScore(tiny_clip())(_frames()[:, :1], PROMPTS).total).all()


def test_the_total_is_the_weighted_sum_of_the_normalised_parts() -> None:
    mix = Mixture({"brightness": 2.0, "motion": -0.5}, statistics={"brightness": (0.5, 0.01)})
    scores = mix(_frames(), PROMPTS)
    assert list(scores.parts) == ["brightness", "motion"]
    torch.testing.assert_close(scores.parts["motion"], motion()(_frames(), PROMPTS).total)
    expected = 2.0 * (scores.parts["brightness"] - 0.5) / 0.01 - 0.5 * scores.parts["motion"]
    torch.testing.assert_close(scores.total, expected)


def test_other_weights_are_another_version() -> None:
    assert Mixture({"motion": 1.0}).version != Mixture({"motion": 2.0}).version
    assert Mixture({"motion": 1.0}).version != Mixture({"motion": 1.0}, statistics={"motion": (0.0, 2.0)}).version


def _broken() -> Formula:
    """Brightness that gives no number for the second video."""
    nothing = torch.tensor([1])
    return Formula("broken", "", lambda frames, prompts: frames.flatten(1).mean(1).index_fill(0, nothing, math.nan))


def test_a_missing_part_makes_only_its_own_video_missing() -> None:
    scores = Mixture({"broken": 1.0, "motion": 1.0}, {"broken": _broken()})(_frames(), PROMPTS)
    assert torch.isfinite(scores.total).tolist() == [True, False]
    assert torch.isfinite(scores.parts["motion"]).all()


def test_clip_score_of_pixels_that_are_no_numbers_is_missing() -> None:
    frames = _frames()
    frames[0, 1, 0, 3, 3] = math.nan
    assert torch.isfinite(ClipScore(tiny_clip())(frames, PROMPTS).total).tolist() == [False, True]


def test_two_components_of_one_name_stay_apart() -> None:
    mix = Mixture({"first": 1.0, "second": 1.0}, {"first": motion(), "second": motion()})
    assert list(mix(_frames(), PROMPTS).parts) == ["motion", "motion-2"]


@pytest.mark.parametrize(
    ("weights", "statistics", "line"),
    [
        ({}, None, "at least one"),
        ({"motoin": 1.0}, None, "did you mean 'motion'"),
        ({"motion": math.nan}, None, "finite"),
        ({"motion": 1.0}, {"clip": (0.0, 1.0)}, "not in the mixture"),
        ({"motion": 1.0}, {"motion": (0.0, 0.0)}, "above 0"),
    ],
)
def test_bad_mixtures_are_refused_in_one_line(weights: dict, statistics: dict | None, line: str) -> None:
    with pytest.raises(UserError, match=line):
        Mixture(weights, statistics=statistics)


def test_the_hash_of_weights_follows_every_bit() -> None:
    clip = tiny_clip()
    before = weights_sha256(clip)
    assert before == weights_sha256(tiny_clip())
    clip.clip.logit_scale.data.add_(1e-6)
    assert before != weights_sha256(clip)
