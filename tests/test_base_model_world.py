"""The sandbox world: mechanics against closed forms, captions against their specs, splits against each other."""

import functools
import math
from collections import Counter

import numpy as np
import pytest

from base_model.world import dataset
from base_model.world.caption import caption, parse
from base_model.world.corrupt import DEFECTS
from base_model.world.dataset import (
    FAST,
    ODD_RADII,
    SPLITS,
    UNSEEN_PAIRS,
    Clip,
    draw,
    draw_motion,
    draw_spec,
    is_heldout,
    prompts,
)
from base_model.world.dataset import make_clip as _make_clip
from base_model.world.render import coverage
from base_model.world.setups import acceptable, draw_setup
from base_model.world.simulate import SLIDE_FRICTION, Body, Setup, simulate
from base_model.world.spec import (
    COLOURS,
    FAMILIES,
    FLOOR,
    GRAVITY,
    HEIGHT,
    NUM_FRAMES,
    RESTITUTION,
    SHAPES,
    SIZES,
    WIDTH,
    ObjectSpec,
    SceneSpec,
    below,
)
from core.errors import UserError
from core.randomness import numpy_generator

TIME = np.arange(NUM_FRAMES)


make_clip = functools.cache(_make_clip)  # the tests look at the same clips from several sides


def _same(a: Clip, b: Clip) -> bool:
    arrays = all(np.array_equal(a.state[name], b.state[name]) for name in a.state)
    return arrays and a.frames.tobytes() == b.frames.tobytes() and (a.prompt, a.spec) == (b.prompt, b.spec)


def _one(shape: str, radius: float, x: float, y: float, vx: float, vy: float) -> tuple[Body, ...]:
    return (Body(shape, radius, (x, y), (vx, vy)),)


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_bytes_in_any_order(split: str) -> None:
    forward = [_make_clip(5, index, split=split, noise=0.5) for index in range(4)]
    backward = [_make_clip(5, index, split=split, noise=0.5) for index in reversed(range(4))]
    assert all(_same(a, b) for a, b in zip(forward, reversed(backward), strict=True))


def test_other_seeds_and_indices_give_other_clips() -> None:
    first = make_clip(5, 0)
    assert not _same(first, make_clip(6, 0)) and not _same(first, make_clip(5, 1))


def test_frames_are_float32_between_zero_and_one() -> None:
    for index in range(20):
        frames = make_clip(0, index, noise=1.0).frames
        assert frames.dtype == np.float32 and frames.shape == (NUM_FRAMES, 3, HEIGHT, WIDTH)
        assert frames.min() >= 0.0 and frames.max() <= 1.0


def test_an_unknown_split_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'trian' is unknown.*heldout"):
        make_clip(0, 0, split="trian")
    with pytest.raises(UserError, match="'trian' is unknown.*heldout"):
        prompts(0, 1, "trian")


def test_asking_for_more_prompts_than_there_are_ends_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "FRUITLESS", 40)
    with pytest.raises(UserError, match="100000 distinct unseen prompts.*ask for fewer"):
        prompts(0, 100_000, "unseen", style="short", most_objects=1)


# --- mechanics against closed forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_free_fall_is_a_parabola(shape: str) -> None:
    motion = simulate(Setup(_one(shape, 5.0, 30.0, 8.0, 1.5, 0.0), GRAVITY, False))
    y = motion.position[:, 0, 1]
    assert (np.abs(y - (8.0 + GRAVITY * TIME**2 / 2)) < GRAVITY * TIME / 20 + 1e-6).all()  # half a substep ahead
    assert np.diff(y, 2) == pytest.approx(GRAVITY, abs=1e-6)
    assert motion.position[:, 0, 0] == pytest.approx(30.0 + 1.5 * TIME, abs=1e-6)
    assert np.diff(motion.velocity[:, 0, 1]) == pytest.approx(GRAVITY, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bounce_keeps_the_restitution_of_the_speed(shape: str) -> None:
    low = below(shape, 6.0)
    motion = simulate(Setup(_one(shape, 6.0, 32.0, 14.0, 0.0, 0.0), GRAVITY, True), num_frames=40)
    height = FLOOR - low - motion.position[:, 0, 1]
    energy = motion.velocity[:, 0, 1] ** 2 / 2 + GRAVITY * height
    hits = np.flatnonzero(motion.contact[:, 0, 1])
    assert len(hits) >= 2 and height.min() > -0.5
    assert energy[hits[0]] / energy[hits[0] - 1] == pytest.approx(RESTITUTION**2, abs=0.03)
    assert energy[hits[1] - 1] == pytest.approx(energy[hits[0]], rel=0.05)  # between the hits nothing is lost


@pytest.mark.parametrize("shapes", [("ball", "ball"), ("square", "square"), ("ball", "triangle"), ("triangle", "ball")])
@pytest.mark.parametrize("radii", [(6.0, 6.0), (4.5, 8.0)])
def test_a_collision_conserves_momentum_and_energy(shapes: tuple[str, str], radii: tuple[float, float]) -> None:
    bodies = (
        Body(shapes[0], radii[0], (16.0, 32.0), (2.5, 0.0)),
        Body(shapes[1], radii[1], (40.0, 32.4), (-0.5, 0.0)),
    )
    motion = simulate(Setup(bodies, 0.0, False))
    assert motion.contact[:, 0, 1].any() and np.array_equal(motion.contact[:, 0, 1], motion.contact[:, 1, 0])
    mass = np.pi * np.array(radii) ** 2
    momentum = np.einsum("n,tna->ta", mass, motion.velocity)
    energy = np.einsum("n,tna->t", mass / 2, motion.velocity**2)
    assert momentum == pytest.approx(np.broadcast_to(momentum[0], momentum.shape), abs=1e-3 * mass.sum())
    assert energy[-1] == pytest.approx(energy[0], rel=0.02)
    assert abs(motion.velocity[-1, 0, 0] - motion.velocity[0, 0, 0]) > 0.3


def test_equal_balls_that_meet_head_on_exchange_their_velocities() -> None:
    bodies = (Body("ball", 5.0, (12.0, 30.0), (2.0, 0.0)), Body("ball", 5.0, (34.0, 30.0), (0.0, 0.0)))
    motion = simulate(Setup(bodies, 0.0, False))
    assert motion.velocity[-1] == pytest.approx(np.array([[0.0, 0.0], [2.0, 0.0]]), abs=0.02)


def test_a_pendulum_keeps_its_length_and_swings_with_the_exact_period() -> None:
    length, angle, pivot = 30.0, 0.8, (32.0, 3.0)
    start = (pivot[0] + length * math.sin(angle), pivot[1] + length * math.cos(angle))
    motion = simulate(Setup((Body("ball", 5.0, start, (0.0, 0.0), pivot),), GRAVITY, False), num_frames=80)
    arm = motion.position[:, 0] - pivot
    assert np.hypot(*arm.T) == pytest.approx(length, abs=0.1)
    swing = np.arctan2(arm[:, 0], arm[:, 1])
    down = np.flatnonzero((swing[:-1] > 0) & (swing[1:] <= 0))
    crossing = down + swing[down] / (swing[down] - swing[down + 1])
    k = math.sin(angle / 2)  # period = 4 sqrt(l / g) K(k), here by the arithmetic-geometric mean
    a, g = 1.0, math.sqrt(1 - k * k)
    for _ in range(6):
        a, g = (a + g) / 2, math.sqrt(a * g)
    period = 2 * math.pi / a * math.sqrt(length / GRAVITY)
    assert np.diff(crossing)[0] == pytest.approx(period, rel=0.01)
    assert crossing[0] == pytest.approx(period / 4, abs=0.3)


@pytest.mark.parametrize("shape", SHAPES)
def test_friction_slows_a_slide_by_friction_times_gravity_until_it_stops(shape: str) -> None:
    speed = 3.0
    motion = simulate(Setup(_one(shape, 6.0, 10.0, FLOOR - below(shape, 6.0), speed, 0.0), GRAVITY, True))
    slowing = SLIDE_FRICTION * GRAVITY
    stop = speed / slowing
    expected = np.where(stop > TIME, speed - slowing * TIME, 0.0)
    assert motion.velocity[:, 0, 0] == pytest.approx(expected, abs=0.1)
    assert motion.position[-1, 0, 0] - 10.0 == pytest.approx(speed**2 / (2 * slowing), abs=0.5)
    assert np.ptp(motion.position[:, 0, 1]) < 0.3


@pytest.mark.parametrize("shape", SHAPES)
def test_drawn_area_and_centroid_are_those_of_the_shape(shape: str) -> None:
    share = coverage(shape, 7.0, np.array([[30.3, 31.8]]))[0].astype(np.float64)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    assert share.sum() == pytest.approx(math.pi * 49.0, rel=0.01)
    assert (share * columns).sum() / share.sum() == pytest.approx(30.3, abs=0.03)
    assert (share * rows).sum() / share.sum() == pytest.approx(31.8, abs=0.05)


# --- families ---------------------------------------------------------------------------------------------------------


def test_every_family_colour_shape_and_size_is_produced() -> None:
    specs = [make_clip(11, index).spec for index in range(125)]  # three objects are rare: one clip in forty
    assert {spec.family for spec in specs} == set(FAMILIES)
    objects = [item for spec in specs for item in spec.objects]
    assert {item.colour for item in objects} == set(COLOURS)
    assert {item.shape for item in objects} == set(SHAPES) and {item.size for item in objects} == set(SIZES)
    assert {len(spec.objects) for spec in specs} == {1, 2, 3}
    assert all(len({item.colour for item in spec.objects}) == len(spec.objects) for spec in specs)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_staged_as_it_is_named(family: str) -> None:
    rng, seen = numpy_generator(2, family), 0
    while seen < 8:
        spec = draw_spec(rng)
        if spec.family != family or (motion := draw_motion(spec, rng)) is None:
            continue
        seen += 1
        assert acceptable(spec, motion)
        assert (motion.setup.gravity > 0) == (family in ("bounce", "projectile", "slide", "pendulum"))
        if spec.direction is not None:
            axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[spec.direction]
            way = motion.position[4, 0] - motion.position[0, 0]
            assert way[axis] * sign > 1.0


def test_a_run_that_does_not_show_its_family_is_refused() -> None:
    bounce = SceneSpec("bounce", (ObjectSpec("red", "ball", "medium"),))
    floats = simulate(Setup(_one("ball", 6.0, 30.0, 12.0, 0.0, 0.0), 0.0, True))
    leaves = simulate(Setup(_one("ball", 6.0, 30.0, 12.0, 4.0, 0.0), GRAVITY, True))
    falls = simulate(Setup(_one("ball", 6.0, 30.0, 12.0, 0.0, 0.0), GRAVITY, True))
    assert not acceptable(bounce, floats) and not acceptable(bounce, leaves) and acceptable(bounce, falls)
    two = (ObjectSpec("red", "ball", "medium"), ObjectSpec("blue", "ball", "medium"))
    miss = (Body("ball", 6.0, (10.0, 12.0), (2.0, 0.0)), Body("ball", 6.0, (34.0, 40.0), (0.0, 0.0)))
    hit = (Body("ball", 6.0, (10.0, 40.0), (2.0, 0.0)), Body("ball", 6.0, (34.0, 40.0), (0.0, 0.0)))
    collision = SceneSpec("collision", two, "right")
    assert not acceptable(collision, simulate(Setup(miss, 0.0, False)))
    assert acceptable(collision, simulate(Setup(hit, 0.0, False)))


def test_an_unknown_family_is_refused() -> None:
    spec = SceneSpec("explosion", (ObjectSpec("red", "ball", "medium"),))
    with pytest.raises(ValueError, match="explosion"):
        draw_setup(spec, [6.0], numpy_generator(0, "x"))


def test_state_describes_the_clip() -> None:
    for index in range(40):
        clip = make_clip(11, index)
        state, count = clip.state, len(clip.spec.objects)
        assert state["position"].shape == state["velocity"].shape == (NUM_FRAMES, count, 2)
        assert state["contact"].shape == (NUM_FRAMES, count, count + 1) and state["contact"].dtype == bool
        assert state["visible"].shape == (NUM_FRAMES, count) and state["radius"].shape == (count,)
        assert state["colour"].tolist() == [item.colour for item in clip.spec.objects]
        assert state["shape"].tolist() == [item.shape for item in clip.spec.objects]
        for item, radius in zip(clip.spec.objects, state["radius"], strict=True):
            low, high = SIZES[item.size or ""]
            assert low <= radius <= high
        assert (state["visible"].min() < 0.6) == (clip.spec.family == "occluder")


# --- captions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["short", "descriptive"])
def test_captions_parse_back_to_their_spec(style: str) -> None:
    rng, families = numpy_generator(4, style), Counter()  # type: ignore[var-annotated]
    for _ in range(600):
        spec = draw_spec(rng)
        families[spec.family] += 1
        parsed = parse(caption(spec, style))
        assert parsed is not None and parsed.family == spec.family
        assert [(o.colour, o.shape) for o in parsed.objects] == [(o.colour, o.shape) for o in spec.objects]
        if style == "descriptive":
            assert parsed == spec
        else:
            assert all(item.size is None for item in parsed.objects) and parsed.direction in (None, spec.direction)
    assert set(families) == set(FAMILIES)


@pytest.mark.parametrize(
    "text", ["", "a dog runs", "a red ball", "everything moves left", "a scarlet ball moves left", "a red blob bounces"]
)
def test_text_of_another_world_has_no_scene(text: str) -> None:
    assert parse(text) is None


def test_known_captions() -> None:
    ball = ObjectSpec("orange", "ball", "small")
    cube = ObjectSpec("blue", "square", "large")
    assert caption(SceneSpec("bounce", (ball,)), "short") == "an orange ball bounces"
    assert caption(SceneSpec("static", (ball, cube))) == (
        "a small orange ball and a large blue square rest without moving"
    )
    assert caption(SceneSpec("collision", (ball, cube), "left")) == (
        "a small orange ball moves left and hits a large blue square without gravity"
    )


def test_prompts_are_distinct_and_all_parse() -> None:
    found = prompts(7, 60, "heldout")
    assert len(set(found)) == 60 and found[:20] == prompts(7, 20, "heldout")
    assert all(parse(text) is not None for text in found)


# --- splits -----------------------------------------------------------------------------------------------------------


def _triples(spec: SceneSpec) -> set[tuple[str, str, str]]:
    return {(item.colour, item.shape, spec.family) for item in spec.objects}


def test_training_never_shows_a_heldout_triple_or_an_unseen_pair() -> None:
    for index in range(100):
        spec = make_clip(11, index).spec
        assert not any(is_heldout(spec.family, item) for item in spec.objects)
        assert not any((item.colour, item.shape) in UNSEEN_PAIRS for item in spec.objects)


def test_heldout_and_unseen_clips_each_show_what_they_are_named_after() -> None:
    for index in range(30):
        heldout, unseen = make_clip(8, index, split="heldout").spec, make_clip(8, index, split="unseen").spec
        assert any(is_heldout(heldout.family, item) for item in heldout.objects)
        assert not any((item.colour, item.shape) in UNSEEN_PAIRS for item in heldout.objects)
        assert any((item.colour, item.shape) in UNSEEN_PAIRS for item in unseen.objects)


def test_about_a_sixth_of_the_triples_is_kept_out() -> None:
    triples = [is_heldout(f, ObjectSpec(c, s)) for f in FAMILIES for c in COLOURS for s in SHAPES]
    assert 0.10 < np.mean(triples) < 0.24


def test_prompts_of_training_and_heldout_are_disjoint_by_their_words() -> None:
    train = {t for text in prompts(9, 120, "train") for t in _triples(parse(text))}  # type: ignore[arg-type]
    for text in prompts(7, 60, "heldout"):
        spec = parse(text)
        assert spec is not None and not _triples(spec) <= train


def test_radius_splits_leave_the_training_range() -> None:
    low, high = SIZES["small"][0], SIZES["large"][1]
    radii = np.concatenate([make_clip(11, i, split=s).state["radius"] for s in ("radius", "both") for i in range(30)])
    assert ((radii < low) | (radii > high)).all() and (radii < low).any() and (radii > high).any()
    assert radii.min() >= ODD_RADII["small"][0] and radii.max() <= ODD_RADII["large"][1]


def _start_speeds(split: str, count: int) -> dict[str, list[float]]:
    """Fastest sideways (or, moving up or down, vertical) start of each clip, by family."""
    found: dict[str, list[float]] = {}
    for index in range(count):
        clip = make_clip(11, index, split=split)
        axis = 1 if clip.spec.direction in ("up", "down") else 0
        found.setdefault(clip.spec.family, []).append(float(np.abs(clip.state["velocity"][0, :, axis]).max()))
    return found


@pytest.mark.parametrize("split", ["velocity", "both"])
def test_velocity_splits_leave_the_training_range(split: str) -> None:
    train, fast = _start_speeds("train", 100), _start_speeds(split, 40)
    assert set(fast) <= set(FAST)
    for family in ("uniform", "projectile", "slide"):
        assert min(fast[family]) > max(train[family]), family


def test_the_velocity_split_passes_behind_the_wall_faster_than_training() -> None:
    assert min(_start_speeds("velocity", 40)["occluder"]) > max(_start_speeds("train", 100)["occluder"])


def test_the_velocity_split_holds_collisions() -> None:
    assert "collision" in _start_speeds("velocity", 40)


def test_the_radius_split_calls_a_tiny_object_small_and_a_huge_one_large() -> None:
    for index in range(20):
        clip = make_clip(11, index, split="radius")
        assert [item.size for item in clip.spec.objects] == [
            "small" if r < 4 else "large" for r in clip.state["radius"]
        ]


# --- web noise --------------------------------------------------------------------------------------------------------


def test_the_share_of_spoilt_clips_is_the_one_asked_for() -> None:
    spoilt = [make_clip(13, index, noise=0.25, most_objects=1).corruption is not None for index in range(200)]
    assert np.mean(spoilt) == pytest.approx(0.25, abs=0.092)  # three standard deviations
    assert not any(make_clip(11, index).corruption for index in range(50))


def _spoilt(defect: str, count: int = 3) -> list[tuple[Clip, Clip]]:
    """(spoilt, clean) clips of a defect: the same seed and index, with and without noise."""
    found, index = [], 0
    while len(found) < count:
        clip = make_clip(13, index, noise=1.0, most_objects=1)
        index += 1
        if clip.corruption == defect and clip.spec.family not in ("static", "occluder"):
            found.append((clip, make_clip(13, index - 1, most_objects=1)))
    return found


def _mass(frames: np.ndarray) -> np.ndarray:
    """How much colour there is in each frame."""
    return np.ptp(frames, axis=1).sum(axis=(1, 2))


def test_every_defect_occurs_and_is_named() -> None:
    seen = Counter(make_clip(13, index, noise=1.0, most_objects=1).corruption for index in range(120))
    assert set(seen) == set(DEFECTS)


def test_vanishing_removes_the_object() -> None:
    for spoilt, clean in _spoilt("vanish"):
        gone = spoilt.state["visible"][:, 0] == 0.0
        assert 3 <= gone.sum() < NUM_FRAMES and not gone[:4].any()
        assert (_mass(spoilt.frames)[gone] < 1.0).all()
        assert np.array_equal(spoilt.frames[~gone], clean.frames[~gone])


def test_a_teleport_jumps_once() -> None:
    for spoilt, clean in _spoilt("teleport"):
        start = int(np.argmax((spoilt.frames != clean.frames).any(axis=(1, 2, 3))))
        assert np.array_equal(spoilt.frames[:start], clean.frames[:start]) and start >= 4
        assert (spoilt.frames[start:] != clean.frames[start:]).any(axis=(1, 2, 3)).all()


def test_a_colour_swap_changes_hue_but_not_place() -> None:
    for spoilt, clean in _spoilt("colour_swap"):
        changed = (spoilt.frames != clean.frames).any(axis=(1, 2, 3))
        start = int(np.argmax(changed))
        assert changed[start:].all() and not changed[:start].any() and 4 <= start
        same_place = (np.ptp(spoilt.frames, axis=1) > 0.2) == (np.ptp(clean.frames, axis=1) > 0.2)
        assert same_place.mean() > 0.995


def test_flicker_fades_single_frames() -> None:
    for spoilt, clean in _spoilt("flicker"):
        ratio = _mass(spoilt.frames) / _mass(clean.frames)
        assert ratio.max() <= 1.001 and (ratio < 0.7).any()
        assert ratio == pytest.approx(spoilt.state["visible"][:, 0], abs=0.02)


def test_a_freeze_repeats_frames_and_a_reverse_runs_backwards() -> None:
    for spoilt, clean in _spoilt("freeze"):
        still = (spoilt.frames[1:] == spoilt.frames[:-1]).all(axis=(1, 2, 3))
        assert still.sum() >= 3 and np.array_equal(spoilt.frames[:4], clean.frames[:4])
    for spoilt, clean in _spoilt("reverse", 2):
        assert np.array_equal(spoilt.frames, clean.frames[::-1])


def test_wrong_gravity_bends_the_path_by_another_amount() -> None:
    for spoilt, _ in _spoilt("gravity", 4):
        falling = ~spoilt.state["contact"][:, 0, -1]
        bend = np.diff(spoilt.state["velocity"][:, 0, 1])[falling[1:] & falling[:-1]]
        if spoilt.spec.family != "pendulum" and len(bend):
            assert np.abs(bend - (GRAVITY if spoilt.spec.family in ("bounce", "projectile") else 0.0)).min() > 0.2


def test_a_wrong_caption_is_of_another_scene_and_the_frames_stay() -> None:
    others = 0
    for spoilt, clean in _spoilt("caption"):
        assert np.array_equal(spoilt.frames, clean.frames) and spoilt.spec == clean.spec
        others += parse(spoilt.prompt) != parse(caption(spoilt.spec, "descriptive"))
    assert others == 3


def test_drawing_without_a_defect_needs_no_randomness() -> None:
    rng = numpy_generator(14, "x")
    spec = draw_spec(rng)
    motion = None
    while motion is None:
        motion = draw_motion(spec, rng)
    first, second = (draw(spec, motion, None, numpy_generator(seed, "y"))[0] for seed in (1, 2))
    assert np.array_equal(first, second)
