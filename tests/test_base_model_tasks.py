"""Every ability on the nano model: what is given comes back to the bit, sits on whole groups, and is really seen."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import CASES, seeded
from torch import Tensor
from toy_generator import ToyGenerator

import base_model
from base_model import given, tasks
from base_model.given import Request
from base_model.native import NativeGenerator, nano
from base_model.options import ModelOptions
from base_model.protocol import VideoSize
from base_model.sampler import Sampling, generate_frames, solve
from core.errors import UserError

PROMPTS = ["a red ball bounces", "a blue square stays still"]


@pytest.fixture(scope="module")
def generator() -> NativeGenerator:
    """The nano model, its weights for given cells opened as training would."""
    model = nano()
    torch.nn.init.normal_(model.transformer.known_in.weight, std=0.5, generator=torch.Generator().manual_seed(3))
    return model


@pytest.fixture
def request_(generator: NativeGenerator) -> Request:
    return Request(generator, PROMPTS, [1, 2], Sampling(num_steps=2))


def _clip(num_frames: int, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(1, num_frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


# --- the mechanism ----------------------------------------------------------------------------------------------------


def test_a_cell_is_known_when_all_pixels_of_its_token_are(generator: NativeGenerator) -> None:
    """32 x 48 pixels are 4 x 6 cells in 2 x 3 tokens; frames 0, 1-4 and 5-8 are the three latent times."""
    known = torch.ones(9, 32, 48, dtype=torch.bool)
    known[0, 0, 0] = False  # spoils the first token of the first frame alone
    known[6, 20, 40] = False  # spoils a token of the last group
    cells = given.known_cells(generator, known)
    expected = torch.ones(3, 4, 6, dtype=torch.bool)
    expected[0, :2, :2] = expected[2, 2:, 4:] = False
    assert torch.equal(cells, expected)


@pytest.mark.parametrize("shape", [(5, 32, 32), (7, 30, 44), (1, 17, 33)])
def test_known_pixels_come_back_exactly_at_any_size(request_: Request, shape: tuple[int, int, int]) -> None:
    clip, known = _clip(*shape), torch.zeros(shape, dtype=torch.bool)
    known[0] = True
    known[:, :20, :16] = True
    made = given.complete(request_, clip, known)
    assert made.shape == (2, shape[0], 3, *shape[1:])
    where = known[None, :, None].expand_as(made)
    assert torch.equal(made[where], clip.expand_as(made)[where])
    if not known.all():
        assert not torch.equal(made[0], made[1])


def test_given_latents_are_reached_exactly_by_every_solver(request_: Request) -> None:
    """Also before pixels are put back, with guidance: the velocity at given cells leads to the clean latents."""
    generator, clip = request_.generator, _clip(5).expand(2, -1, -1, -1, -1)
    cells = torch.zeros(2, 4, 4, dtype=torch.bool)
    cells[0] = True
    clean = generator.encode(clip)
    for solver in ("euler", "heun", "dpm++2m", "ddpm"):
        sampling = Sampling(num_steps=4, guidance=3.0, solver=solver)
        with torch.no_grad():
            latents = given.draw(
                given.solve(
                    generator,
                    given.given(generator, generator.encode_prompts(PROMPTS), cells, clean, PROMPTS),
                    noise=given.initial_noise(generator, [1, 2], VideoSize(5, 32, 32)),
                    sampling=sampling,
                    unconditional=generator.unconditional(2),
                    rng=given.solver_noise([1, 2]),
                )
            )
        torch.testing.assert_close(latents[:, :, 0], clean[:, :, 0], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(latents[:, :, 1], clean[:, :, 1], atol=0.1)


def test_what_is_given_is_seen_and_what_is_not_given_is_not(request_: Request) -> None:
    known = torch.zeros(9, 32, 32, dtype=torch.bool)
    known[:5] = True
    clip, other, hidden = _clip(9), _clip(9), _clip(9)
    other[:, 2] = 1 - other[:, 2]
    hidden[:, 7] = 1 - hidden[:, 7]
    made = given.complete(request_, clip, known)
    assert torch.equal(given.complete(request_, hidden, known), made)
    assert not torch.allclose(given.complete(request_, other, known)[:, 5:], made[:, 5:], atol=1e-3)


def test_guidance_brings_out_the_given_cells_where_there_is_no_prompt(
    generator: NativeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def noted(*inputs: Any, **options: Any) -> Iterator[Tensor]:
        asked.append({"condition": inputs[1], **options})
        return solve(*inputs, **options)

    monkeypatch.setattr(given, "solve", noted)
    ask = Request(generator, ["", PROMPTS[0]], [1, 2], Sampling(num_steps=2, guidance=3.0))
    tasks.image_to_video(ask, _clip(1), 5)
    condition, away, noise = asked[0]["condition"], asked[0]["unconditional"], asked[0]["noise"]
    assert not away["known"][0].any() and torch.equal(away["known"][1], condition["known"][1])

    step = torch.ones(2, dtype=torch.long)
    guided = generator.predict(noise, step, asked[0]["schedule"], condition, away, 3.0)
    told = generator.predict(noise, step, asked[0]["schedule"], condition)
    nothing = generator.predict(noise, step, asked[0]["schedule"], generator.unconditional(2))
    known = condition["known"][0].expand_as(noise[0])
    assert torch.equal(guided[0][known], told[0][known])
    assert torch.allclose(guided[0][~known], (nothing + 3 * (told - nothing))[0][~known], atol=1e-5)


def test_unknown_pixels_are_filled_from_the_nearest_known_one_of_the_same_frame() -> None:
    frames, known = _clip(3, 2, 4), torch.ones(3, 2, 4, dtype=torch.bool)
    known[0] = False
    known[1, :, 2:] = False
    filled = given.filled(frames, known)
    assert torch.equal(filled[:, 2], frames[:, 2])
    assert torch.equal(filled[:, 1, :, :, 2:], frames[:, 1, :, :, 1:2].expand(1, 3, 2, 2))
    assert torch.equal(filled[:, 0, :, :, :2], frames[:, 1, :, :, :2])  # nothing of its own: the next frame


def test_batches_and_rows_do_not_touch_each_other(generator: NativeGenerator) -> None:
    clip = _clip(5)
    together = tasks.image_to_video(Request(generator, PROMPTS, [1, 2], Sampling(num_steps=2, batch=1)), clip[:, :1], 5)
    alone = tasks.image_to_video(Request(generator, PROMPTS[1:], [2], Sampling(num_steps=2)), clip[:, :1], 5)
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)


# --- the abilities ----------------------------------------------------------------------------------------------------


def test_an_image_begins_its_video(request_: Request) -> None:
    image = _clip(1)
    video = tasks.image_to_video(request_, image, 9)
    assert video.shape == (2, 9, 3, 32, 32) and torch.equal(video[:, :1], image.expand(2, -1, -1, -1, -1))
    assert not torch.allclose(video[0, 1:], video[1, 1:], atol=0.05)


@pytest.mark.parametrize("length", [1, 2, 5, 8, 18])
def test_extension_keeps_every_frame_of_the_clip(request_: Request, length: int) -> None:
    clip = _clip(length)
    longer = tasks.extend(request_, clip, 6)
    assert longer.shape[1] == length + 6 and torch.equal(longer[:, :length], clip.expand(2, -1, -1, -1, -1))


def test_extension_goes_on_from_the_end_and_not_from_the_beginning(generator: NativeGenerator) -> None:
    """18 frames: the context is the last 1 or 4k+1 that fit a window of five, so changing frame 0 changes nothing."""
    request = Request(generator, PROMPTS[:1], [1], Sampling(num_steps=2))
    clip, begun, ended = _clip(18), _clip(18), _clip(18)
    begun[:, 0], ended[:, -1] = 0.0, 0.0
    made = tasks.extend(request, clip, 4)[:, 18:]
    assert torch.equal(tasks.extend(request, begun, 4)[:, 18:], made)
    assert not torch.allclose(tasks.extend(request, ended, 4)[:, 18:], made, atol=1e-3)


@pytest.mark.parametrize("length", [5, 6, 8, 9, 12])
def test_the_last_frame_of_a_clip_of_any_length_lies_on_a_whole_group_of_the_window(
    generator: NativeGenerator, length: int
) -> None:
    """A group that is given in part is not seen, and a continuation that does not see the last frame jumps."""
    wide = replace(generator, size=VideoSize(13, 32, 32))
    request = Request(wide, PROMPTS[:1], [1], Sampling(num_steps=1))
    clip, ended = _clip(length), _clip(length)
    ended[:, -1] = 0.0
    made = [tasks.extend(request, one, 4)[:, length:] for one in (clip, ended)]
    assert not torch.equal(*made)


@pytest.mark.parametrize("length", [1, 3, 4, 9])
def test_backward_extension_keeps_every_frame_of_the_clip(request_: Request, length: int) -> None:
    clip = _clip(length)
    longer = tasks.prepend(request_, clip, 7)
    assert longer.shape[1] == 7 + length and torch.equal(longer[:, 7:], clip.expand(2, -1, -1, -1, -1))
    assert torch.equal(tasks.prepend(request_, clip, 3)[:, :3], longer[:, 4:7])  # the nearest frames are made first


def test_backward_extension_sees_the_clips_beginning(generator: NativeGenerator) -> None:
    request = Request(generator, PROMPTS[:1], [1], Sampling(num_steps=2))
    clip, begun, ended = _clip(12), _clip(12), _clip(12)
    begun[:, 0], ended[:, -1] = 0.0, 0.0
    made = tasks.prepend(request, clip, 5)[:, :5]
    assert torch.equal(tasks.prepend(request, ended, 5)[:, :5], made)
    assert not torch.allclose(tasks.prepend(request, begun, 5)[:, :5], made, atol=1e-3)


def test_a_bridge_sees_both_sides_and_a_loop_ends_where_it_began(generator: NativeGenerator) -> None:
    request = Request(generator, PROMPTS[:1], [1], Sampling(num_steps=2))
    first, second = _clip(9), _clip(6, seed=1)
    whole = tasks.transition(request, first, second, 8)
    assert whole.shape[1] == 23 and torch.equal(whole[:, :9], first) and torch.equal(whole[:, 17:], second)
    seen = torch.zeros(17, dtype=torch.bool)  # five frames, eight new, four: each end on whole cells
    seen[:5] = seen[13:] = True
    cells = given.known_cells(generator, seen[:, None, None].expand(17, 32, 32))
    assert cells[:, 0, 0].tolist() == [True, True, False, False, True]
    for side in (0, 1):
        clips = [first.clone(), second.clone()]
        clips[side][:, -1 if side == 0 else 0] = 0.0
        assert not torch.allclose(tasks.bridge(request, *clips, 8), whole[:, 9:17], atol=1e-3)
    looped = tasks.loop(request, first, 4)
    assert looped.shape[1] == 13 and torch.equal(looped[:, 9:], tasks.bridge(request, first, first, 4))


def test_interpolation_leads_from_one_picture_to_the_other(request_: Request) -> None:
    first, last = _clip(1), _clip(1, seed=1)
    video = tasks.interpolate(request_, first, last, 13)
    assert video.shape[1] == 13 and torch.equal(video[:, :1], first.expand(2, -1, -1, -1, -1))
    assert torch.equal(video[:, -4:], last.expand(2, 4, -1, -1, -1))


def test_inpainting_changes_the_hole_alone(request_: Request) -> None:
    clip, hole = _clip(5), torch.zeros(32, 32, dtype=torch.bool)
    hole[:16, :16] = True
    made = tasks.inpaint(request_, clip, hole)
    assert torch.equal(made[..., 16:, :], clip.expand_as(made)[..., 16:, :])
    assert (made - clip)[..., :16, :16].abs().mean() > 0.05
    inside, seen = clip.clone(), clip.clone()
    inside[..., :16, :16] = 0.5
    assert torch.equal(tasks.inpaint(request_, inside, hole), made)  # what is to be replaced is not looked at
    seen[..., 20:, 20:] = 0.5
    assert not torch.equal(tasks.inpaint(request_, seen, hole)[..., :16, :16], made[..., :16, :16])


def test_a_hole_in_time_alone_keeps_the_other_frames(request_: Request) -> None:
    clip, hole = _clip(9), torch.zeros(9, 32, 32, dtype=torch.bool)
    hole[5:, :16] = True
    made = tasks.inpaint(request_, clip, hole)
    assert torch.equal(made[:, :5], clip.expand(2, -1, -1, -1, -1)[:, :5])
    assert not torch.equal(made[:, 5:], clip.expand(2, -1, -1, -1, -1)[:, 5:])


def test_the_strength_of_an_edit_is_a_dial_from_the_clip_to_nothing_of_it() -> None:
    """Distance grows with strength; at 0 the clip itself, at 1 what the prompt and seed would draw without it.

    On the toy, whose codec loses nothing, so that distances are those of the dial.
    """
    generator = ToyGenerator()
    request = Request(generator, PROMPTS, [1, 2], Sampling(num_steps=8))
    clip = generate_frames(generator, ["x"], seeds=[5], num_steps=4)
    made = {strength: tasks.edit(request, clip, strength) for strength in (0.0, 0.2, 0.6, 1.0)}
    assert torch.equal(made[0.0], clip.expand(2, -1, -1, -1, -1))
    distance = [float((made[strength] - clip).square().mean()) for strength in made]
    assert distance == sorted(distance) and distance[1] < 0.3 * distance[-1]
    plain = generate_frames(generator, PROMPTS, seeds=[1, 2], num_steps=8)
    torch.testing.assert_close(made[1.0], plain, atol=1e-5, rtol=0)


def test_every_generator_can_edit_but_not_every_one_takes_given_frames() -> None:
    toy = ToyGenerator()
    request = Request(toy, PROMPTS, [1, 2], Sampling(num_steps=4))
    clip = generate_frames(toy, ["x"], seeds=[5], num_steps=4)
    assert (tasks.edit(request, clip, 0.1) - clip).abs().mean() < (tasks.edit(request, clip, 0.9) - clip).abs().mean()
    with pytest.raises(UserError, match="model 'toy' takes no given frames; use another"):
        tasks.image_to_video(request, clip, 1 + 4)


def test_rolling_extension_holds_one_window_however_long(generator: NativeGenerator) -> None:
    request = Request(generator, PROMPTS, [1, 2], Sampling(num_steps=1))
    chunks = list(islice(tasks.roll(request), 6))
    assert torch.equal(chunks[0], generate_frames(generator, PROMPTS, seeds=[1, 2], num_steps=1))
    assert {chunk.shape[1] for chunk in chunks[1:]} == {4}
    assert len({float(chunk.sum()) for chunk in chunks}) == 6  # every window has noise of its own
    again = torch.cat(list(tasks.first_frames(tasks.roll(request), 11)), 1)
    assert torch.equal(again, torch.cat(chunks, 1)[:, :11])
    sized = next(tasks.roll(request, size=VideoSize(9, 16, 32)))
    assert sized.shape == (2, 9, 3, 16, 32)


def test_rolling_looks_through_the_longest_window_of_training(generator: NativeGenerator) -> None:
    """Twice what is there, half of it given: five frames of five with windows of nine, the last alone with five."""
    clip, begun = _clip(5), _clip(5)
    begun[:, 1] = 0.0
    for longest, is_seen in ((9, True), (5, False)):
        request = Request(replace(generator, longest=longest), PROMPTS[:1], [1], Sampling(num_steps=1))
        made = [next(tasks.roll(request, one)) for one in (clip, begun)]
        assert made[0].shape[1] == 4 and torch.equal(*made) != is_seen
    long = replace(generator, longest=33)
    assert [tasks.window_after(count, long) for count in (1, 4, 5, 9, 12, 17, 18, 40)] == [5, 5, 9, 17, 21, 33, 33, 33]
    still = replace(generator, size=VideoSize(1, 32, 32))  # a window of one frame would never end
    assert (
        tasks.window_after(1, still) == 5
        and tasks.extend(replace(request, generator=still), clip[:, :1], 3).shape[1] == 4
    )


def test_rolling_from_a_clip_is_extension(request_: Request) -> None:
    clip = _clip(5)
    rolled = torch.cat(list(tasks.first_frames(tasks.roll(request_, clip), 8)), 1)
    assert torch.equal(tasks.extend(request_, clip, 8)[:, 5:], rolled)


def test_variations_stay_near_their_origin() -> None:
    generator = ToyGenerator()
    request = Request(generator, ["x"] * 4, [7, 8, 9, 10], Sampling(num_steps=8))
    clips = tasks.variations(request, [7] * 4, 0.3)
    origin = generate_frames(generator, ["x"], seeds=[7], num_steps=8)
    torch.testing.assert_close(clips[:1], origin, atol=1e-5, rtol=0)
    near = (clips[1:] - origin).square().mean((1, 2, 3, 4))
    far = (generate_frames(generator, ["x"] * 3, seeds=[8, 9, 10], num_steps=8) - origin).square().mean((1, 2, 3, 4))
    assert bool((near > 0).all()) and float(near.mean()) < 0.3 * float(far.mean())


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_models_of_the_hub_have_the_same_abilities(tmp_path: Path, name: str) -> None:
    """One on the straight path and one variance-preserving; with guidance, and a solver that needs the whole field."""
    case = CASES[name]
    seeded(case.build).save_pretrained(tmp_path)
    size = case.size
    options = ModelOptions("float32", "cpu", num_frames=size.num_frames, height=size.height, width=size.width)
    sampling = Sampling(num_steps=3, guidance=2.0, solver="heun")
    request = Request(base_model.load(str(tmp_path), options), PROMPTS, [1, 2], sampling)
    clip = _clip(size.num_frames, size.height, size.width)
    video = tasks.image_to_video(request, clip[:, :1], size.num_frames)
    assert torch.equal(video[:, 0], clip[:, 0].expand(2, -1, -1, -1)) and video.isfinite().all()
    assert tasks.edit(request, clip, 0.5).shape == video.shape


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_one_line(request_: Request) -> None:
    clip = _clip(5)
    calls = {
        r"6 frames between two clips do not fit the codec's groups of 4; nearest: 4 and 8": lambda: tasks.loop(
            request_, clip, 6
        ),
        r"the clips differ in size: 32x32 and 32x48": lambda: tasks.bridge(request_, clip, _clip(5, 32, 48), 4),
        r"6 frames cannot lead from one picture to another: 4k\+1 from 9 on; nearest: 9 and 13": lambda: (
            tasks.interpolate(request_, clip[:, :1], clip[:, :1], 6)
        ),
        r"a mask of 16x16 does not fit a clip of 5 frames of 32x32": lambda: tasks.inpaint(
            request_, clip, torch.ones(16, 16, dtype=torch.bool)
        ),
        r"the mask marks nothing": lambda: tasks.inpaint(request_, clip, torch.zeros(32, 32, dtype=torch.bool)),
        r"strength 1.2 is out of range": lambda: tasks.edit(request_, clip, 1.2),
        r"2 prompts and 1 seeds": lambda: Request(request_.generator, PROMPTS, [1]),
    }
    for told, call in calls.items():
        with pytest.raises(UserError, match=told):
            call()
