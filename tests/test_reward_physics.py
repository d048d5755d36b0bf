"""Every probe flags its own defect and lets truth pass; what is frozen or empty never passes."""

from collections.abc import Callable

import numpy as np
import pytest

from base_model.world import caption, dataset, reader
from base_model.world.corrupt import Drawn
from base_model.world.render import render
from base_model.world.setups import draw_setup
from base_model.world.simulate import Body, Setup, simulate
from base_model.world.spec import COLOURS, FAMILIES, ObjectSpec, SceneSpec
from core.randomness import numpy_generator
from eval.physics import bands
from reward import physics, physics_probes

NUM_FRAMES = 17
RED = ObjectSpec("red", "ball", "medium")
BLUE = ObjectSpec("blue", "ball", "medium")


def drawn(
    position: np.ndarray, *, rgb: np.ndarray | None = None, alpha: np.ndarray | None = None, **props
) -> np.ndarray:
    """Frames of red and blue balls of radius 6 at position [time, object, 2]."""
    count = position.shape[1]
    colours = np.array([COLOURS["red"], COLOURS["blue"]][:count], dtype=np.float32)
    rgb = np.repeat(colours[None], len(position), 0) if rgb is None else rgb
    alpha = np.ones(position.shape[:2], dtype=np.float32) if alpha is None else alpha
    return render(position, rgb, alpha, ["ball"] * count, [props.pop("radius", 6.0)] * count, **props)


def straight(speed: float = 2.0, row: float = 30.0) -> np.ndarray:
    return np.stack([12 + speed * np.arange(NUM_FRAMES), np.full(NUM_FRAMES, row)], axis=1)[:, None]


def probes(frames: np.ndarray, family: str = "uniform", objects: tuple[ObjectSpec, ...] = (RED,)):
    return physics_probes.probe(reader.read(frames), SceneSpec(family, objects))


def test_hand_made_uniform_motion_measures_what_was_drawn() -> None:
    found = probes(drawn(straight()))
    assert found["inertia"].value < 0.02 and found["size"].value < 0.01 and found["permanence"].value == 0
    assert found["motion"].value == 1 and found["continuity"].value < 0.02 and found["identity"].value < 0.03
    assert not found["momentum"].measured and "uniform" in (found["momentum"].reason or "")


def test_jitter_shows_as_its_own_size_in_inertia() -> None:
    position = straight()
    position[::2, 0, 1] += 1.0  # second difference is +-2 px everywhere
    assert probes(drawn(position))["inertia"].value == pytest.approx(2 / 6, rel=0.05)


def test_a_jump_shows_in_continuity_and_inertia() -> None:
    position = straight(1.0)
    position[8:, 0, 0] += 9.0
    found = probes(drawn(position))
    assert found["continuity"].value == pytest.approx(9 / 6, rel=0.05) and found["inertia"].value > 0.3


def test_a_vanished_object_shows_in_permanence() -> None:
    alpha = np.ones((NUM_FRAMES, 1), dtype=np.float32)
    alpha[9:] = 0
    assert probes(drawn(straight(), alpha=alpha))["permanence"].value == pytest.approx(8 / 17)


def test_hue_drift_shows_in_identity_and_hardly_in_size() -> None:
    share = np.linspace(0, 1, NUM_FRAMES)[:, None]
    rgb = (1 - share) * np.array(COLOURS["red"]) + share * np.array([0.95, 0.37, 0.14])
    found = probes(drawn(straight(), rgb=rgb[:, None].astype(np.float32)))
    assert found["identity"].value == pytest.approx(0.19 / 2, abs=0.02)


def test_pulsing_shows_in_size() -> None:
    small, large = drawn(straight(), radius=5.0), drawn(straight(), radius=7.0)
    frames = small.copy()
    frames[::2] = large[::2]
    assert probes(frames)["size"].value == pytest.approx((49 - 25) / (49 + 25), rel=0.1)


def crash(after_first: float, after_second: float) -> np.ndarray:
    """Two balls: the first comes with 3 px/frame and touches the second, which rests, in frame 8."""
    time = np.arange(NUM_FRAMES) - 8.0
    first = np.where(time < 0, 3 * time, after_first * time) + 26
    second = np.where(time < 0, 0, after_second * time) + 38
    return np.stack([np.stack([x, np.full(NUM_FRAMES, 32.0)], axis=1) for x in (first, second)], axis=1)


def test_collision_probes_in_closed_form() -> None:
    found = probes(drawn(crash(0.0, 2.2)), "collision", (RED, BLUE))
    assert found["momentum"].value == pytest.approx(0.8 / 3, abs=0.02)
    assert found["energy"].value == pytest.approx(2.2**2 / 9, abs=0.02)
    assert found["interpenetration"].value == pytest.approx(0, abs=0.02)


def test_a_lawful_collision_keeps_momentum_and_energy() -> None:
    found = probes(drawn(crash(0.0, 2.9999)), "collision", (RED, BLUE))
    assert found["momentum"].value < 0.03 and found["energy"].value == pytest.approx(1, abs=0.03)


def test_energy_gain_is_seen() -> None:
    assert probes(drawn(crash(-2.0, 3.0)), "collision", (RED, BLUE))["energy"].value == pytest.approx(13 / 9, abs=0.05)


def test_passing_through_keeps_momentum_but_overlaps() -> None:
    position = crash(3.0, 0.0)
    found = probes(drawn(position), "collision", (RED, BLUE))
    assert found["interpenetration"].value > 0.9  # also while one ball is covered by the other
    assert not physics.passes(found, SceneSpec("collision", (RED, BLUE)), bands())


def test_what_goes_into_another_object_and_stays_there_overlaps() -> None:
    position = crash(3.0, 0.0)
    inside = int(np.argmin(np.abs(position[:, 0, 0] - position[:, 1, 0])))
    position[inside:] = position[inside]
    assert probes(drawn(position), "collision", (RED, BLUE))["interpenetration"].value > 0.9


def test_what_vanishes_far_from_another_object_does_not_overlap() -> None:
    position = np.concatenate([straight(2.0), straight(2.0) + (19.0, 0.0)], axis=1)
    alpha = np.ones(position.shape[:2], dtype=np.float32)
    alpha[6:, 0] = 0.0
    found = probes(drawn(position, alpha=alpha), "uniform", (RED, BLUE))
    assert found["interpenetration"].value == 0 and found["permanence"].value > 0.2


def test_a_collision_that_does_not_happen_says_so_and_fails() -> None:
    position = np.concatenate([straight(1.0, 14.0), straight(1.0, 50.0)], axis=1)
    found = probes(drawn(position), "collision", (RED, BLUE))
    assert found["momentum"].reason == found["energy"].reason == "no contact seen"
    assert not physics.passes(found, SceneSpec("collision", (RED, BLUE)), bands())


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.0])
def test_gravity_is_measured(ratio: float) -> None:
    body = Body("ball", 6.0, (10.0, 40.0), (1.5, -3.0))
    motion = simulate(Setup((body,), 0.8 * ratio, False))
    inside = motion.position[:, 0, 1] < 50
    assert inside.sum() > 8
    found = probes(drawn(motion.position[inside][:, :1]), "projectile")
    assert found["gravity"].value == pytest.approx(ratio, abs=0.02)
    assert (found["inertia"].value < 0.02) == (ratio == 1.0)


def test_bounce_energy_is_restitution_squared() -> None:
    motion = simulate(Setup((Body("ball", 6.0, (30.0, 14.0), (0.0, 0.0)),), 0.8, True))
    found = probes(drawn(motion.position, floor=True), "bounce")
    assert found["energy"].value == pytest.approx(0.75**2, abs=0.01) and found["gravity"].value == pytest.approx(
        1, abs=0.01
    )


def clips(family: str, count: int, start: int = 0) -> list[dataset.Clip]:
    found, index = [], start
    while len(found) < count:
        clip = dataset.make_clip(11, index, style="descriptive", most_objects=2)
        index += 1
        if clip.spec.family == family:
            found.append(clip)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_truth_mostly_passes_and_time_defects_never(family: str) -> None:
    truth, passed = clips(family, 6), 0
    rng = np.random.default_rng(0)
    for clip in truth:
        found = physics_probes.probe(reader.read(clip.frames), clip.spec)
        passed += physics.passes(found, clip.spec, bands())
        assert physics.grade(found, clip.spec) > 0.85
        if family == "static":
            continue
        broken: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "frozen": lambda frames: np.repeat(frames[:1], len(frames), 0),
            "frozen half-way": lambda frames: np.concatenate([frames[:4], np.repeat(frames[4:5], len(frames) - 4, 0)]),
            "shuffled": lambda frames: frames[rng.permutation(len(frames))],
        }
        for name, spoil in broken.items():
            spoilt = physics_probes.probe(reader.read(spoil(clip.frames)), clip.spec)
            assert not physics.passes(spoilt, clip.spec, bands()), name
            assert physics.grade(spoilt, clip.spec) < physics.grade(found, clip.spec), name
    assert passed >= 5  # a band holds 99 %, and there are ten of them


def test_static_scenes_must_not_move() -> None:
    spec = SceneSpec("static", (RED,))
    moving = physics_probes.probe(reader.read(drawn(straight())), spec)
    still = physics_probes.probe(reader.read(drawn(straight(0.0))), spec)
    assert physics.passes(still, spec, bands()) and not physics.passes(moving, spec, bands())
    assert physics.grade(still, spec) > 0.95 and physics.grade(moving, spec) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_video_never_passes_and_is_worth_nothing(family: str) -> None:
    frames = np.full((NUM_FRAMES, 3, 64, 64), 0.08, dtype=np.float32)
    spec = SceneSpec(family, (RED,))
    found = physics_probes.probe(reader.read(frames), spec)
    assert all(not probe.measured and probe.reason for probe in found.values())
    assert not physics.passes(found, spec, bands())
    assert physics.grade(found, spec) == 0 == physics.quality(frames, caption.caption(spec))


def test_quality_falls_as_a_defect_grows() -> None:
    prompt = "a medium red ball moves right at constant speed without gravity"
    scores = []
    for jitter in (0.0, 0.3, 1.0, 3.0):
        position = straight()
        position[::2, 0, 1] += jitter
        scores.append(physics.quality(drawn(position), prompt))
    assert scores[0] > 0.95 and all(a > b for a, b in zip(scores, scores[1:], strict=False))


def test_velocity_error_against_the_simulator() -> None:
    clip = clips("projectile", 1)[0]
    found = physics_probes.velocity_error(reader.read(clip.frames), clip.state)
    assert found.value < 0.08
    slowed = clip.frames[np.repeat(np.arange(9), 2)[:17]]
    assert physics_probes.velocity_error(reader.read(slowed), clip.state).value > 0.5


def test_a_prompt_outside_the_grammar_leaves_lawless_probes() -> None:
    found = physics_probes.probe(reader.read(drawn(straight())), None)
    assert found["permanence"].measured and not found["inertia"].measured
    assert physics.quality(drawn(straight()), "waves on a beach at dusk") > 0.9


@pytest.mark.slow
def test_probes_cost_less_than_ten_milliseconds_a_clip() -> None:
    import time

    spec, rng = SceneSpec("bounce", (RED, BLUE)), numpy_generator(0, "test")
    setup = None
    while setup is None:
        setup = draw_setup(spec, [6.0, 6.0], rng)
    observation = reader.read(drawn(simulate(setup).position, floor=True))
    start = time.process_time()
    for _ in range(50):
        physics_probes.probe(observation, spec)
    assert (time.process_time() - start) / 50 < 0.010


def test_state_defects_of_the_world_are_caught() -> None:
    """Defects as the pretraining data has them, drawn through the world's own code."""
    from base_model.world.corrupt import spoil_state

    clip_rng = np.random.default_rng(3)
    for defect in ("teleport", "vanish", "flicker"):
        item = Drawn(
            straight(2.0).copy(),
            np.repeat(np.array([[COLOURS["red"]]], dtype=np.float32), NUM_FRAMES, 0),
            np.ones((NUM_FRAMES, 1), dtype=np.float32),
        )
        spoil_state(defect, item, [6.0], clip_rng)
        found = probes(drawn(item.position, rgb=item.rgb, alpha=item.alpha))
        assert not physics.passes(found, SceneSpec("uniform", (RED,)), bands()), defect
