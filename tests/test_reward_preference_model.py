"""The preference model: what it sees, what it keeps, what it refuses."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from reward_examples import batch, moving, tiny_clip

import reward
from core.errors import UserError
from reward import preference_model
from reward.backbone import SandboxBackbone
from reward.features import OPPOSITES, questions
from reward.moments import FEATURES, NUM_HUES, hue_colours, moments
from reward.preference_model import Head, PreferenceModel

PROMPTS = ["a red ball moves", "a blue ball moves"]
ASPECTS = ("motion_quality", "overall")


def _model(num_heads: int = 2) -> PreferenceModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        eyes = SandboxBackbone(tiny_clip())
        seen = eyes.features(_frames(), PROMPTS)
        heads = [Head(seen.mean(0), torch.ones(seen.shape[1]), 2) for _ in range(num_heads)]
    rest = {"mean": torch.tensor([0.1, -0.2]), "deviation": torch.tensor([0.5, 2.0])}
    rest |= {"temperature": torch.tensor([1.0, 2.0]), "log_theta": torch.tensor([0.3, 0.1])}
    return PreferenceModel(eyes, heads, ASPECTS, **rest)


def _frames() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return batch([moving("red", np.arange(9), rng), moving("blue", np.arange(9), rng)])


def test_moments_follow_a_disc_to_a_tenth_of_a_pixel() -> None:
    rows, columns = np.mgrid[:64, :64]
    frames = np.full((1, 5, 3, 64, 64), 0.08, dtype=np.float32)
    way = [(20 + 3.3 * time, 30 + 1.7 * time) for time in range(5)]
    for time, (x, y) in enumerate(way):
        share = np.clip(7.0 - np.hypot(columns + 0.5 - x, rows + 0.5 - y) + 0.5, 0, 1)
        frames[0, time, 0] += 0.8 * share
    features, mass = moments(torch.from_numpy(frames))
    hue = int(mass[0].sum(0).argmax())
    found = 64 * (features[0, :, hue, [FEATURES.index("x"), FEATURES.index("y")]] + 0.5)
    torch.testing.assert_close(found, torch.tensor(way, dtype=torch.float32), atol=0.1, rtol=0)


def test_moments_of_grey_are_empty() -> None:
    features, mass = moments(torch.full((1, 3, 3, 64, 64), 0.4))
    assert float(mass.abs().max()) < 1e-4 and float(features[..., 1:3].abs().max()) < 1e-4


def test_scores_have_a_part_per_aspect_and_total_is_overall() -> None:
    scores = _model()(_frames(), PROMPTS)
    assert set(scores.parts) == {*ASPECTS, "disagreement"}
    torch.testing.assert_close(scores.total, scores.parts["overall"])
    assert (scores.parts["disagreement"] > 0).all()


def test_the_careful_total_is_below_the_mean_and_survives_saving(tmp_path: Path) -> None:
    plain, careful = _model(), _model()
    careful.aggregation = "worst"
    each = careful.normalised(careful.features(_frames(), PROMPTS))[..., 1]
    scores = careful(_frames(), PROMPTS)
    torch.testing.assert_close(scores.total, each.amin(0))
    assert (scores.total < plain(_frames(), PROMPTS).total).all()
    careful.save(tmp_path)
    assert torch.equal(preference_model.load(tmp_path, tiny_clip())(_frames(), PROMPTS).total, scores.total)


def test_scores_do_not_depend_on_the_batch() -> None:
    model, frames = _model(), _frames()
    together = model(frames, PROMPTS).total
    alone = torch.cat([model(frames[[i]], [PROMPTS[i]]).total for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_head_sees_the_order_of_frames() -> None:
    model, frames = _model(), _frames()
    changed = (model(frames.flip(1), PROMPTS).total - model(frames, PROMPTS).total).abs()
    assert (changed > 1e-4).all()


def test_the_score_has_a_gradient_to_every_frame_it_looks_at() -> None:
    frames = _frames().requires_grad_()
    (gradient,) = torch.autograd.grad(_model()(frames, PROMPTS).total.sum(), frames)
    assert torch.isfinite(gradient).all()
    assert (gradient.abs().amax((0, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize("time", [1, 2, 40])
def test_videos_of_any_length_and_size_are_scored(time: int) -> None:
    assert torch.isfinite(_model()(torch.rand(1, time, 3, 48, 80), ["x"]).total).all()


def test_a_blank_video_has_a_finite_score_and_gradient() -> None:
    frames = torch.zeros(1, 9, 3, 32, 32, requires_grad=True)
    total = _model()(frames, ["x"]).total
    (gradient,) = torch.autograd.grad(total.sum(), frames)
    assert torch.isfinite(total).all() and torch.isfinite(gradient).all()


def test_pixels_that_are_no_numbers_make_only_their_video_missing() -> None:
    frames = _frames()
    frames[1, 4, 0, 0, 0] = math.nan
    scores = _model()(frames, PROMPTS)
    for values in (scores.total, *scores.parts.values()):
        assert torch.isfinite(values).tolist() == [True, False]


def test_chances_sum_to_one_and_equal_videos_are_no_more_a_than_b() -> None:
    model, frames = _model(), _frames()
    a = model.features(frames, PROMPTS)
    b = a[[1, 1]]
    chances = model.probabilities(a, b)
    torch.testing.assert_close(chances.sum(-1), torch.ones(2, 2))
    torch.testing.assert_close(chances[1, :, 0], chances[1, :, 2])


def test_saved_and_loaded_scores_are_equal_to_the_last_bit(tmp_path: Path) -> None:
    model = _model(num_heads=3)
    model.save(tmp_path / "reward")
    again = preference_model.load(tmp_path / "reward", tiny_clip())
    before, after = model(_frames(), PROMPTS), again(_frames(), PROMPTS)
    assert torch.equal(before.total, after.total)
    assert all(torch.equal(before.parts[name], after.parts[name]) for name in before.parts)
    assert again.version == model.version and again.aspects == model.aspects
    a = model.features(_frames(), PROMPTS)
    assert torch.equal(model.probabilities(a, a), again.probabilities(a, a))


def test_a_model_of_another_clip_is_refused(tmp_path: Path) -> None:
    _model().save(tmp_path)
    other = tiny_clip()
    other.clip.logit_scale.data.add_(1)
    with pytest.raises(UserError, match="trained on sandbox .* train it again"):
        preference_model.load(tmp_path, other)


def test_damaged_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    def refused(line: str) -> None:
        with pytest.raises(UserError, match=line) as error:
            preference_model.load(tmp_path / "reward", tiny_clip())
        assert "\n" not in str(error.value)

    refused("holds no reward")
    _model().save(tmp_path / "reward")
    weights, config = tmp_path / "reward" / "model.safetensors", tmp_path / "reward" / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused("missing or damaged")
    weights.unlink()
    refused("missing or damaged")
    told = json.loads(config.read_text())
    config.write_text(json.dumps(told | {"version": "99"}))
    refused("version 99")
    config.write_text(json.dumps({"kind": "something else"}))
    refused("not a preference model")
    config.write_text("{")
    refused("not JSON")


def test_loading_by_an_unknown_name_says_near_names_and_by_a_missing_folder_says_so() -> None:
    with pytest.raises(UserError, match="did you mean 'brightness'"):
        reward.load("brightnes")
    with pytest.raises(UserError, match="runs/none.*no folder"):
        reward.load("runs/none")


def test_there_is_one_answer_of_unit_length_per_hue_and_per_pair_of_opposites() -> None:
    asked = questions(tiny_clip())
    for answers, count in ((asked.hue, NUM_HUES), (asked.words, len(OPPOSITES))):
        assert answers.shape == (count, 16)
        torch.testing.assert_close(answers.norm(dim=-1), torch.ones(count))


def test_features_tell_motion_from_rest_and_forwards_from_backwards() -> None:
    eyes, frames = SandboxBackbone(tiny_clip()), _frames()
    still = frames[:, :1].expand_as(frames)
    plain, back, rest = (eyes.features(video, PROMPTS) for video in (frames, frames.flip(1), still))
    assert ((plain - back).abs().amax(1) > 0.1).all() and ((plain - rest).abs().amax(1) > 0.1).all()


def test_hue_colours_lie_in_their_own_sector() -> None:
    colours = hue_colours()[None, :, :, None, None].expand(1, -1, -1, 32, 32)  # one frame per hue
    _, mass = moments(colours)
    assert mass[0].argmax(-1).tolist() == list(range(NUM_HUES))
