"""The reader: the truth back from pixels, and "absent", "hidden" or "torn" where there is nothing to be sure of."""

import functools
from pathlib import Path

import numpy as np
import pytest

from base_model.world.caption import caption, parse
from base_model.world.dataset import SPLITS, Clip, make_clip
from base_model.world.motion import match, read_family
from base_model.world.reader import Observation, read
from base_model.world.render import coverage, render
from base_model.world.spec import (
    COLOURS,
    FAMILIES,
    FPS,
    GROUND,
    HEIGHT,
    NUM_FRAMES,
    SHAPES,
    SIZES,
    WIDTH,
    ObjectSpec,
    SceneSpec,
)
from core import video

NUM_CLIPS = 64
TIME = np.arange(NUM_FRAMES)


@functools.cache
def _clips(split: str = "train", count: int = NUM_CLIPS) -> list[Clip]:
    return [make_clip(11, index, split=split) for index in range(count)]


@functools.cache
def _observed(split: str = "train", count: int = NUM_CLIPS) -> list[tuple[Observation, Clip]]:
    return [(read(clip.frames), clip) for clip in _clips(split, count)]


def _scene(
    x: np.ndarray | float,
    y: np.ndarray | float,
    *,
    colour: str = "red",
    shape: str = "ball",
    radius: float = 6.0,
    alpha: np.ndarray | None = None,
    wall: tuple[float, float] | None = None,
    floor: bool = False,
) -> np.ndarray:
    """Frames of one object at (x, y), each a number or [time]."""
    position = np.stack(np.broadcast_arrays(x, y, np.zeros(NUM_FRAMES)), axis=1)[:, None, :2]
    rgb = np.broadcast_to(np.array(COLOURS[colour]), (NUM_FRAMES, 1, 3))
    opacity = np.ones(NUM_FRAMES) if alpha is None else alpha
    return render(position, rgb, opacity[:, None], [shape], [radius], floor=floor, wall=wall)


# --- the truth back ---------------------------------------------------------------------------------------------------


def _errors(observed: list[tuple[Observation, Clip]]) -> np.ndarray:
    """Distance in px of every position read from the true one."""
    found = []
    for observation, clip in observed:
        tracks = {track.colour: track for track in observation.tracks}
        for index, colour in enumerate(clip.state["colour"]):
            seen = tracks[str(colour)].seen
            found.append(np.hypot(*(tracks[str(colour)].position[seen] - clip.state["position"][seen, index]).T))
    return np.concatenate(found)


def test_positions_are_read_to_a_few_hundredths_of_a_pixel() -> None:
    errors = _errors(_observed())
    assert errors.mean() < 0.05 and np.quantile(errors, 0.99) < 0.15 and errors.max() < 0.5


def test_a_clean_object_beside_no_wall_is_seen_in_every_frame() -> None:
    for observation, clip in _observed():
        if clip.spec.family != "occluder":
            assert all(track.seen.all() for track in observation.tracks), clip.prompt


def test_ground_truth_matches_its_own_spec() -> None:
    rows = [match(observation, clip.spec) for observation, clip in _observed()]
    shares = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    assert set(shares) == {"colour", "shape", "size", "count", "family", "direction"}
    assert min(shares.values()) >= 0.98, shares


@pytest.mark.parametrize("split", SPLITS[1:])
def test_the_other_splits_are_read_as_well(split: str) -> None:
    observed = _observed(split, 24)
    rows = [match(observation, clip.spec) for observation, clip in observed]
    for name in ("colour", "shape", "count", "family", "direction"):
        assert sum(row[name] for row in rows) >= 23, name
    assert _errors(observed).mean() < 0.05


def test_a_larger_frame_is_read_as_well() -> None:
    clips = [make_clip(11, index, height=96, width=128) for index in range(24)]
    observed = [(read(clip.frames), clip) for clip in clips]
    assert _errors(observed).mean() < 0.05
    rows = [match(observation, clip.spec) for observation, clip in observed]
    assert min(np.mean([row[name] for row in rows]) for name in rows[0]) >= 0.95
    for observation, clip in observed:
        assert observation.props.floor == (clip.spec.family in ("bounce", "projectile", "slide"))
        assert (observation.height, observation.width) == (96, 128)


def test_radius_and_colour_are_those_drawn() -> None:
    for observation, clip in _observed():
        tracks = {track.colour: track for track in observation.tracks}
        for colour, radius in zip(clip.state["colour"], clip.state["radius"], strict=True):
            track = tracks[str(colour)]
            assert np.median(track.radius[track.seen]) == pytest.approx(radius, abs=0.1)
            assert track.rgb[track.seen] == pytest.approx(np.array([COLOURS[str(colour)]] * track.seen.sum()), abs=0.06)


def test_props_are_seen_where_they_stand() -> None:
    for observation, clip in _observed():
        assert observation.props.floor == (clip.spec.family in ("bounce", "projectile", "slide"))
        assert (observation.props.wall is not None) == (clip.spec.family == "occluder")
        assert observation.props.rod == (clip.spec.family == "pendulum")
        assert observation.residual < 0.002
    assert read(_scene(12.0, 30.0, wall=(24.0, 40.0))).props.wall == pytest.approx((24.0, 40.0), abs=1.0)


@pytest.mark.parametrize("noise", [0.0, 0.012, 0.025])
def test_eight_bit_pixels_and_noise_do_not_disturb_the_reading(noise: float) -> None:
    rng = np.random.default_rng(0)
    for clip in _clips()[:12]:
        noisy = clip.frames + rng.normal(0, noise, clip.frames.shape)
        noisy = np.rint(noisy.clip(0, 1) * 255) / 255
        assert all(match(read(noisy), clip.spec).values()), clip.prompt


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_shape_of_every_size_is_told_apart(shape: str, size: str) -> None:
    for colour, radius in zip(COLOURS, 4 * SIZES[size], strict=True):
        (track,) = read(_scene(20 + 1.3 * TIME, 31.4, colour=colour, shape=shape, radius=radius)).tracks
        assert (track.colour, track.shape, track.size) == (colour, shape, size)


def _meeting(first: str, second: str, mixing: float) -> np.ndarray:
    """Two squares side by side in frames 6 to 10, their colours running into each other over `mixing` px there."""
    apart = np.maximum(0.0, np.abs(TIME - 8.0) - 2.0) * 2.5
    x = np.stack([26.5 - apart, 37.5 + apart], axis=1)
    frames = np.empty((NUM_FRAMES, 3, HEIGHT, WIDTH), dtype=np.float32)
    frames[:] = np.array(GROUND)[:, None, None]
    covered = [coverage("square", 6.0, np.stack([x[:, i], np.full(NUM_FRAMES, 30.0)], axis=1)) for i in (0, 1)]
    share = np.clip((np.arange(WIDTH) + 0.5 - 32.0) / mixing + 0.5, 0.0, 1.0)[None, :]
    colours = [np.array(COLOURS[name])[:, None, None] for name in (first, second)]
    for t in TIME:
        mixed = colours[0] * (1 - share) + colours[1] * share
        for i in (0, 1):
            cover = covered[i][t]
            frames[t] += cover * ((mixed if 6 <= t <= 10 else colours[i]) - frames[t])
    return frames


@pytest.mark.parametrize("pair", [("red", "blue"), ("orange", "green"), ("blue", "green"), ("pink", "orange")])
def test_the_mixed_colours_between_touching_objects_are_no_third_object(pair: tuple[str, str]) -> None:
    for mixing in (0.1, 6.0, 9.0):
        observation = read(_meeting(*pair, mixing))
        assert {track.colour for track in observation.tracks} == set(pair)
        for track in observation.tracks:
            assert track.area[8] == pytest.approx(track.area[0], rel=0.2)


def test_a_third_object_that_comes_for_a_while_is_not_taken_for_a_mixture() -> None:
    x = 22.0 + 0.0 * TIME
    red, blue = _scene(x, 30.0), _scene(x + 20.0, 30.0, colour="blue")
    purple = _scene(x + 10.0, 20.0, colour="purple", radius=4.0, alpha=(TIME > 9).astype(float))
    observation = read(np.maximum(np.maximum(red, blue), purple))
    assert {track.colour for track in observation.tracks} == {"red", "blue", "purple"}


# --- lost, never guessed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [np.zeros((NUM_FRAMES, 3, HEIGHT, WIDTH)), None, "noise"], ids=str)
def test_a_clip_without_objects_has_no_tracks(frames: object) -> None:
    if frames is None:
        frames = np.broadcast_to(np.array(GROUND)[None, :, None, None], (NUM_FRAMES, 3, HEIGHT, WIDTH))
    elif isinstance(frames, str):
        frames = 0.08 + np.random.default_rng(0).normal(0, 0.01, (NUM_FRAMES, 3, HEIGHT, WIDTH))
    observation = read(np.asarray(frames))
    assert observation.tracks == () and read_family(observation) is None
    spec = SceneSpec("static", (ObjectSpec("red", "ball"),))
    row = match(observation, spec)
    assert not any(row[name] for name in ("colour", "shape", "size", "count", "family"))


def test_a_vanished_object_is_absent_while_it_is_away() -> None:
    alpha = np.ones(NUM_FRAMES)
    alpha[6:10] = 0.0
    (track,) = read(_scene(10 + 2.0 * TIME, 30.0, alpha=alpha)).tracks
    assert track.status == tuple("absent" if 6 <= t < 10 else "seen" for t in TIME)
    assert np.isnan(track.position[6:10]).all() and not np.isnan(track.position[track.seen]).any()
    assert np.isnan(track.rgb[6:10]).all()


def test_an_object_that_vanishes_far_from_the_wall_is_absent_not_hidden() -> None:
    alpha = np.ones(NUM_FRAMES)
    alpha[2:] = 0.0
    (track,) = read(_scene(8 + 1.0 * TIME, 30.0, alpha=alpha, radius=4.5, wall=(34.0, 50.0))).tracks
    assert set(track.status[2:]) == {"absent"}


def test_an_object_behind_the_wall_is_hidden_and_has_no_position() -> None:
    (track,) = read(_scene(8 + 3.0 * TIME, 30.0, radius=5.0, wall=(24.0, 40.0))).tracks
    x = 8 + 3.0 * TIME
    beside = (x + 5.0 < 23.0) | (x - 5.0 > 41.0)
    behind = (x + 5.0 > 24.5) & (x - 5.0 < 39.5)
    assert all(track.status[t] == "seen" for t in TIME[beside])
    assert all(track.status[t] == "hidden" for t in TIME[behind]) and np.isnan(track.position[behind]).all()


def test_an_object_cut_by_the_border_is_hidden() -> None:
    (track,) = read(_scene(30 + 2.5 * TIME, 30.0)).tracks
    assert track.status[0] == "seen" and track.status[13] == "hidden" and np.isnan(track.position[13]).all()
    assert track.status[-1] == "absent"


def test_an_object_in_two_pieces_is_torn() -> None:
    left, right = _scene(18.0, 30.0, radius=4.5), _scene(44.0, 30.0, radius=4.5)
    whole = _scene(30.0, 30.0)
    frames = np.concatenate([whole[:9], np.maximum(left, right)[9:]])
    (track,) = read(frames).tracks
    assert track.status == ("seen",) * 9 + ("torn",) * 8 and np.isnan(track.position[9:]).all()


def test_a_wall_that_is_not_there_hides_nothing() -> None:
    """The occluder without its wall is a plain passage, and says so."""
    frames = _scene(8 + 3.0 * TIME, 30.0, radius=5.0)
    assert read_family(read(frames)) == "uniform"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_clip_is_not_read_as_moving(family: str) -> None:
    clips = [clip for clip in _clips() if clip.spec.family == family][:4]
    assert clips
    for clip in clips:
        frozen = read(np.repeat(clip.frames[3:4], NUM_FRAMES, axis=0))
        assert read_family(frozen) in ("static", None)
        row = match(frozen, clip.spec)
        assert row["family"] == (family == "static") and row["direction"] == (clip.spec.direction is None)


def test_a_shaky_passage_is_no_pendulum_without_a_rod() -> None:
    arc = 40.0 - 6.0 * ((TIME - 8) / 8.0) ** 2
    frames = _scene(12 + 2.4 * TIME, arc)
    assert read(frames).props.rod is False and read_family(read(frames)) is None


def test_motion_that_belongs_to_no_family_is_not_given_one() -> None:
    zigzag = _scene(32 + 8.0 * (-1.0) ** TIME, 12 + 2.0 * TIME)
    assert read_family(read(zigzag)) is None
    speeding_floor = _scene(10 + 0.16 * TIME**2, 51.5, floor=True)  # on the floor, but faster and faster
    assert read_family(read(speeding_floor)) is None
    jump = _scene(np.where(TIME < 8, 14.0, 44.0) + 0.8 * TIME, 30.0)
    assert read_family(read(jump)) is None


def test_a_sideways_passage_is_told_by_its_direction() -> None:
    moves = {"right": (10 + 2.0 * TIME, 30.0), "left": (54 - 2.0 * TIME, 30.0), "down": (30.0, 10 + 2.0 * TIME)}
    for direction, (x, y) in moves.items():
        for asked in ("left", "right", "up", "down"):
            spec = SceneSpec("uniform", (ObjectSpec("red", "ball"),), asked)  # type: ignore[arg-type]
            assert match(read(_scene(x, y)), spec)["direction"] == (asked == direction)


# --- what does not match ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "wrong"),
    [
        (ObjectSpec("red", "ball", "medium"), set()),
        (ObjectSpec("red", "ball", None), set()),
        (ObjectSpec("red", "ball", "large"), {"size"}),
        (ObjectSpec("red", "square", "medium"), {"shape"}),
        (ObjectSpec("blue", "ball", "medium"), {"colour", "shape", "size", "direction"}),
    ],
)
def test_match_names_the_attribute_that_is_wrong(item: ObjectSpec, wrong: set[str]) -> None:
    observation = read(_scene(10 + 2.0 * TIME, 30.0, radius=6.1))
    row = match(observation, SceneSpec("uniform", (item,), "right"))
    assert {name for name, right in row.items() if not right} == wrong


def test_an_extra_object_and_a_missing_one_are_counted() -> None:
    one = read(_scene(10 + 2.0 * TIME, 20.0))
    two = read(np.maximum(_scene(10 + 2.0 * TIME, 20.0), _scene(10 + 2.0 * TIME, 44.0, colour="blue")))
    red, blue = ObjectSpec("red", "ball"), ObjectSpec("blue", "ball")
    single, pair = SceneSpec("uniform", (red,), "right"), SceneSpec("uniform", (red, blue), "right")
    assert all(match(one, single).values()) and all(match(two, pair).values())
    assert not match(two, single)["count"] and not match(one, pair)["count"] and not match(two, single)["colour"]


def test_a_prompt_alone_is_enough_to_judge_a_clip() -> None:
    for observation, clip in _observed():
        for style in ("short", "descriptive"):
            spec = parse(caption(clip.spec, style))
            assert spec is not None and all(match(observation, spec).values())


def test_a_video_file_does_not_move_the_objects(tmp_path: Path) -> None:
    clip = _clips()[0]
    video.write(tmp_path / "clip.mp4", clip.frames, FPS)
    assert _errors([(read(video.read(tmp_path / "clip.mp4").frames), clip)]).mean() < 0.1
