"""Clips and prompts from seeds: the same (seed, split, index) gives the same bytes on any machine order.

Splits: "train" leaves out one sixth of the (colour, shape, family) triples and three (colour, shape) pairs; "heldout"
has an object from the left-out triples; "unseen" has an object from the left-out pairs; "velocity", "radius" and "both"
leave the training ranges, as PhyWorld does (Kang et al. 2024, arXiv 2411.02385).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from base_model.world.caption import caption
from base_model.world.corrupt import Drawn, choose_defect, spoil_state, spoil_time
from base_model.world.render import render
from base_model.world.setups import acceptable, draw_setup
from base_model.world.simulate import Motion, Setup, simulate
from base_model.world.spec import (
    COLOURS,
    FAMILIES,
    HEIGHT,
    NUM_FRAMES,
    SHAPES,
    SIZES,
    WIDTH,
    ObjectSpec,
    SceneSpec,
    directions,
    reach,
)
from core.errors import UserError
from core.randomness import numpy_generator

SPLITS = ("train", "heldout", "unseen", "velocity", "radius", "both")
UNSEEN_PAIRS = frozenset({("purple", "triangle"), ("orange", "square"), ("cyan", "ball")})
NUM_OBJECTS = {1: 0.55, 2: 0.39, 3: 0.06}
MOST_OBJECTS = {"uniform": 3, "bounce": 3, "static": 3, "projectile": 2, "pendulum": 2, "slide": 2, "occluder": 2}
# Outside the training ranges (about 1.2-3.4 px/frame, 4.2-8.2 px), as far as the frame allows.
FAST = {
    "uniform": (2.9, 3.2),
    "projectile": (2.7, 3.0),
    "slide": (4.6, 5.0),
    "collision": (2.9, 3.2),
    "occluder": (3.15, 3.35),
}
ODD_RADII = {"small": (3.0, 3.6), "large": (9.2, 10.2)}
FRUITLESS = 1000  # draws in a row without a new prompt that end the search


@dataclass(frozen=True)
class Clip:
    """One clip: frames float32 [time, 3, height, width] in [0, 1], its prompt, spec and ground-truth state.

    `state`: position [time, object, 2] px, velocity [time, object, 2] px/frame, radius [object] px, colour and shape
    [object], visible [time, object] share of the area seen, contact [time, object, object + 1] (last column: floor).
    `corruption` names the defect of a spoilt clip; its state is then that of the unspoilt run.
    """

    frames: np.ndarray
    prompt: str
    spec: SceneSpec
    state: dict[str, np.ndarray]
    corruption: str | None


def check_split(split: str) -> None:
    """Raises: UserError on an unknown split."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is unknown; known: {', '.join(SPLITS)}")


def is_heldout(family: str, item: ObjectSpec) -> bool:
    """Is this (colour, shape, family) triple kept out of training? One sixth of them, by a stable hash."""
    digest = hashlib.blake2b(f"{item.colour} {item.shape} {family}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 6 == 0


def _has_heldout(family: str) -> bool:
    pairs = {(colour, shape) for colour in COLOURS for shape in SHAPES} - UNSEEN_PAIRS
    return any(is_heldout(family, ObjectSpec(colour, shape)) for colour, shape in pairs)


def _belongs(spec: SceneSpec, split: str) -> bool:
    unseen = any((item.colour, item.shape) in UNSEEN_PAIRS for item in spec.objects)
    if split == "unseen":
        return unseen
    heldout = any(is_heldout(spec.family, item) for item in spec.objects)
    return not unseen and heldout == (split == "heldout")


def draw_spec(
    rng: np.random.Generator, split: str = "train", most_objects: int = 3, families: Sequence[str] = FAMILIES
) -> SceneSpec:
    """A random scene of a split: families are equally likely in it, then objects are drawn until they belong to it.

    Args:
        families: drawn from; a name given twice is drawn twice as often.
    """
    families = [f for f in families if f in FAST] if split in ("velocity", "both") else list(families)
    families = [f for f in families if f != "collision" or most_objects > 1]
    if split == "heldout":  # the hash left no triple of some family out
        families = [f for f in families if _has_heldout(f)]
    family = families[int(rng.integers(len(families)))]
    counts = {n: share for n, share in NUM_OBJECTS.items() if n <= most_objects}
    shares = np.array(list(counts.values()))
    count = int(rng.choice(list(counts), p=shares / shares.sum()))
    count = 2 if family == "collision" else min(count, MOST_OBJECTS[family])
    while True:
        colours = rng.choice(list(COLOURS), size=count, replace=False)
        known = ODD_RADII if split in ("radius", "both") else SIZES
        sizes = [size for size in known if count < 3 or size != "large"]  # three large ones do not fit
        objects = tuple(
            ObjectSpec(str(c), SHAPES[int(rng.integers(3))], sizes[int(rng.integers(len(sizes)))]) for c in colours
        )
        ways = directions(family)
        direction = ways[int(rng.integers(len(ways)))] if ways else None
        spec = SceneSpec(family, objects, direction)
        if _belongs(spec, split):
            return spec


def draw_motion(
    spec: SceneSpec, rng: np.random.Generator, split: str = "train", num_frames: int = NUM_FRAMES
) -> Motion | None:
    """A run of the scene, or None if sixteen draws found no start that fits."""
    for _ in range(16):
        radii = []
        for item in spec.objects:
            bands = ODD_RADII if split in ("radius", "both") else SIZES
            radii.append(float(rng.uniform(*bands[item.size or "medium"])))
        speeds = FAST[spec.family] if split in ("velocity", "both") else None
        setup = draw_setup(spec, radii, rng, speeds)
        if setup is None:
            continue
        motion = simulate(setup, num_frames)
        if acceptable(spec, motion):
            return motion
    return None


def draw(
    spec: SceneSpec,
    motion: Motion,
    defect: str | None,
    rng: np.random.Generator,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a run [time, 3, height, width], spoilt by `defect` if given, and the share of each object seen.

    The share is [time, object] in [0, 1].
    """
    setup = motion.setup
    num_frames, count = motion.position.shape[:2]
    rgb = np.array([COLOURS[item.colour] for item in spec.objects], dtype=np.float32)
    drawn = Drawn(
        motion.position.copy(), np.repeat(rgb[None], num_frames, 0), np.ones((num_frames, count), dtype=np.float32)
    )
    shapes, radii = [b.shape for b in setup.bodies], [b.radius for b in setup.bodies]
    if defect is not None:
        spoil_state(defect, drawn, [reach(s, r) for s, r in zip(shapes, radii, strict=True)], rng)
    pivots = [b.pivot for b in setup.bodies]
    frames = render(
        drawn.position,
        drawn.rgb,
        drawn.alpha,
        shapes,
        radii,
        floor=setup.floor,
        wall=setup.wall,
        pivots=pivots,
        height=height,
        width=width,
    )
    visible = drawn.alpha.copy()
    if setup.wall is not None:
        for i, radius in enumerate(radii):
            hidden = np.minimum(motion.position[:, i, 0] + radius, setup.wall[1]) - np.maximum(
                motion.position[:, i, 0] - radius, setup.wall[0]
            )
            visible[:, i] *= 1 - np.clip(hidden / (2 * radius), 0, 1)
    if defect in ("freeze", "reverse"):
        frames = frames[spoil_time(defect, frames, rng)]
    return frames, visible


def make_clip(
    seed: int,
    index: int,
    *,
    split: str = "train",
    noise: float = 0.0,
    style: str | None = None,
    most_objects: int = 3,
    families: Sequence[str] = FAMILIES,
    num_frames: int = NUM_FRAMES,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> Clip:
    """Clip number `index` of a seed.

    Args:
        noise: share of spoilt clips, in [0, 1].
        style: caption style; None draws short (2 of 5) or descriptive (3 of 5).
        families: drawn from; a name given twice is drawn twice as often.
        num_frames: from 17; what leaves the frame in a longer time is drawn again.
        height, width: from 64; the scene is staged in a 64 x 64 part of a larger frame, on the floor where it has one.
    Raises: UserError on an unknown split, ValueError for a smaller clip.
    """
    check_split(split)
    if num_frames < NUM_FRAMES or height < HEIGHT or width < WIDTH:
        raise ValueError(f"a clip is at least {NUM_FRAMES}x{HEIGHT}x{WIDTH}, not {num_frames}x{height}x{width}")
    rng = numpy_generator(seed, f"world/{split}", index)
    motion = None
    while motion is None:
        spec = draw_spec(rng, split, most_objects, families)
        motion = draw_motion(spec, rng, split, num_frames)
    defect = choose_defect(rng) if rng.random() < noise else None
    if defect == "gravity":
        motion = _wrong_gravity(motion, rng)
    chosen = style or ("short" if rng.random() < 0.4 else "descriptive")
    prompt = caption(draw_spec(rng, split, most_objects, families) if defect == "caption" else spec, chosen)
    if (height, width) != (HEIGHT, WIDTH):
        motion = _staged(motion, height, width, rng)
    frames, visible = draw(spec, motion, defect, rng, height, width)
    state = {
        "position": motion.position,
        "velocity": motion.velocity,
        "radius": np.array([b.radius for b in motion.setup.bodies]),
        "colour": np.array([item.colour for item in spec.objects]),
        "shape": np.array([item.shape for item in spec.objects]),
        "visible": visible,
        "contact": motion.contact,
    }
    return Clip(frames, prompt, spec, state, defect)


def _wrong_gravity(motion: Motion, rng: np.random.Generator) -> Motion:
    setup = motion.setup
    wrong = float(rng.choice([0.0, 0.25])) * setup.gravity if setup.gravity else 0.35
    return simulate(Setup(setup.bodies, wrong, setup.floor, setup.wall), len(motion.position))


def _staged(motion: Motion, height: int, width: int, rng: np.random.Generator) -> Motion:
    """The run moved to its place in a larger frame: anywhere across; on the floor, under the ceiling, or anywhere."""
    setup = motion.setup
    hangs = any(body.pivot is not None for body in setup.bodies)
    down = 0 if hangs else height - HEIGHT if setup.floor else int(rng.integers(height - HEIGHT + 1))
    right = int(rng.integers(width - WIDTH + 1))

    def moved(place: tuple[float, float]) -> tuple[float, float]:
        return place[0] + right, place[1] + down

    bodies = tuple(
        replace(body, position=moved(body.position), pivot=body.pivot and moved(body.pivot)) for body in setup.bodies
    )
    wall = setup.wall and (setup.wall[0] + right, setup.wall[1] + right)
    return Motion(
        motion.position + (right, down), motion.velocity, motion.contact, replace(setup, bodies=bodies, wall=wall)
    )


def prompts(
    seed: int, count: int, split: str = "train", *, style: str | None = None, most_objects: int = 2
) -> list[str]:
    """Distinct prompts of a split. Every prompt's scene is one that the world can stage.

    Raises: UserError on an unknown split, or where the split has no more prompts to give.
    """
    check_split(split)
    found: dict[str, None] = {}
    index = newest = 0
    while len(found) < count:
        if index - newest > FRUITLESS:
            raise UserError(
                f"{count} distinct {split} prompts were asked for, there are about {len(found)} "
                f"with at most {most_objects} objects; ask for fewer"
            )
        rng = numpy_generator(seed, f"prompts/{split}", index)
        index += 1
        spec = draw_spec(rng, split, most_objects)
        if draw_motion(spec, rng) is None:
            continue
        text = caption(spec, style or ("short" if rng.random() < 0.4 else "descriptive"))
        if text not in found:
            found[text], newest = None, index
    return list(found)
