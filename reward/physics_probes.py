"""What the motion in a video measures, read from pixels, no simulator needed: ten probes of object tracks.

Each answers with a number, or with NaN and the reason why it cannot be measured: no contact seen, object lost. Alone
each probe is blind somewhere (a frozen video has perfect inertia); they cover each other in pairs: inertia with motion,
momentum and energy with interpenetration, size with identity. What the numbers should be is in `physics.py`. Left out:
everything about the prompt's colours, shapes and directions, which is text alignment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from base_model.world import reader
from base_model.world.simulate import SLIDE_FRICTION
from base_model.world.spec import FLOOR, GRAVITY, SceneSpec, below, reach
from reward.physics_paths import Array, Path, closest_distance, flights, meeting, swing, travel

MOVING = 0.3  # px / frame: a pair of frames counts as moving above this speed; jitter of a codec stays below
PROBES: dict[str, str] = {  # name -> unit
    "inertia": "rms departure from the law of motion, radii / frame^2",
    "gravity": "acceleration / that of the world",
    "momentum": "change at the contact / momentum before",
    "energy": "energy after / before",
    "permanence": "share of object-frames missing",
    "size": "coefficient of variation of area",
    "interpenetration": "deepest overlap / smaller diameter",
    "continuity": "largest excess speed, radii / frame",
    "identity": "largest colour change, [0, 1]",
    "motion": "share of frame pairs that move",
}


@dataclass(frozen=True)
class Probe:
    """One measurement: `value` in the unit given by PROBES, or NaN and the `reason` why it could not be taken."""

    value: float
    reason: str | None = None

    @property
    def measured(self) -> bool:
        return math.isfinite(self.value)


def missing(reason: str) -> Probe:
    return Probe(math.nan, reason)


def probe(observation: reader.Observation, spec: SceneSpec | None) -> dict[str, Probe]:
    """All probes of one video, in the order of PROBES.

    Args:
        spec: the scene that the prompt names; None leaves the probes that need no law of motion.
    """
    paths = [Path.of(track, observation.height) for track in observation.tracks]
    paths = [path for path in paths if len(path.frame) >= 3]
    if not paths:
        return dict.fromkeys(PROBES, missing("no object was seen in three frames"))
    family = spec.family if spec is not None else None
    found = {
        "permanence": permanence(observation),
        "size": size(observation),
        "interpenetration": interpenetration(paths),
        "continuity": continuity(paths),
        "identity": identity(observation),
        "motion": motion(paths),
    }
    if family is None:
        found |= dict.fromkeys(PROBES.keys() - found.keys(), missing("the prompt names no scene with a known law"))
    else:
        found |= {
            "inertia": inertia(paths, family, observation.props.wall),
            "gravity": gravity(paths, family),
            "momentum": momentum(paths) if family == "collision" else missing(f"no law of it in a {family} scene"),
            "energy": energy(paths, family),
        }
    return {name: found[name] for name in PROBES}


def inertia(paths: list[Path], family: str, wall: tuple[float, float] | None = None) -> Probe:
    """rms |acceleration - law| / radius of the worst object; frames that may hold a contact are cut.

    Args:
        wall: left and right edge of an occluder, px. What went behind it must have come out, or nothing is measured.
    """
    if family == "occluder" and wall is not None and not all(_crosses(path, wall) for path in paths):
        return missing("an object did not come out from behind the wall")
    worst = [departure for path in paths if math.isfinite(departure := _departure(path, paths, family))]
    return Probe(max(worst)) if worst else missing("no three frames in a row without a contact")


def _crosses(path: Path, wall: tuple[float, float]) -> bool:
    x = path.position[:, 0]
    return bool((x < wall[0]).any() and (x > wall[1]).any())


def _departure(path: Path, paths: list[Path], family: str) -> float:
    if len(path.frame) < 3:
        return math.nan
    if family == "pendulum":
        return _pendulum_departure(path)
    free = ~_may_touch(path, paths, family)[1:-1]
    error = path.acceleration - _law(path, family)
    return float(np.sqrt((error[free] ** 2).sum(axis=1).mean()) / path.radius) if free.any() else math.nan


def _law(path: Path, family: str) -> Array:
    """Acceleration that the family's law gives at the inner seen frames, [n - 2, 2] px / frame^2."""
    expected = np.zeros((len(path.frame) - 2, 2))
    if family in ("bounce", "projectile"):
        expected[:, 1] = GRAVITY
    elif family == "slide":
        speed = path.velocity[:, 0]
        expected[:, 0] = -SLIDE_FRICTION * GRAVITY * np.sign(speed[:-1]) * (np.abs(speed[:-1]) > MOVING)
    return expected


def _may_touch(path: Path, paths: list[Path], family: str) -> NDArray[np.bool_]:
    """[n] seen frames whose second difference a contact may have changed."""
    n = len(path.frame)
    if family in ("bounce", "projectile"):
        bottom = path.position[:, 1] + below(path.shape, path.radius)
        step = np.abs(path.velocity[:, 1])
        return bottom + travel(step) > FLOOR - 1.0
    if family == "slide":  # the frame in which it comes to rest
        speed = np.abs(path.velocity[:, 0])
        slow = np.r_[speed, 0.0] < 2 * SLIDE_FRICTION * GRAVITY
        fast = np.r_[0.0, speed] > MOVING
        return slow & fast
    touch = np.zeros(n, dtype=bool)
    if family == "collision":
        for other in paths:
            if other is path:
                continue
            common, mine, theirs = np.intersect1d(path.frame, other.frame, return_indices=True)
            if len(common) < 2:
                continue
            distance = np.linalg.norm(path.position[mine] - other.position[theirs], axis=1)
            step = np.abs(np.diff(distance))
            near = distance - travel(step) < reach(path.shape, path.radius) + reach(other.shape, other.radius) + 0.5
            touch[mine] |= near
    return touch


def _pendulum_departure(path: Path) -> float:
    """Tangential departure from length x angle'' = -g sin(angle), and radial departure from the circle."""
    found = swing(path)
    if found is None or len(path.frame) < 5:
        return math.nan
    angle, arm, length = found
    gap = np.diff(path.frame)
    spacing = (gap[1:] + gap[:-1]) / 2
    tangential = length * np.diff(np.diff(angle) / gap) / spacing + GRAVITY * np.sin(angle[1:-1])
    radial = np.diff(np.diff(arm) / gap) / spacing
    return float(np.sqrt((tangential**2 + radial**2).mean()) / path.radius)


def gravity(paths: list[Path], family: str) -> Probe:
    """Acceleration felt / acceleration of this world (1 is right): in flight, on a rod, or as friction on the floor."""
    if family not in ("bounce", "projectile", "pendulum", "slide"):
        return missing(f"no gravity shows in a {family} scene")
    estimates = [pair for path in paths for pair in _pulls(path, family)]
    weight = sum(pair[1] for pair in estimates)
    if not estimates or weight == 0:
        return missing("no stretch long enough to measure an acceleration")
    return Probe(float(sum(value * share for value, share in estimates) / weight))


def _pulls(path: Path, family: str) -> list[tuple[float, float]]:
    """(acceleration ratio, weight) of every stretch of one object; the variance of a curvature falls with length^5."""
    if family == "pendulum":
        found = swing(path)
        if found is None or len(path.frame) < 5:
            return []
        angle, _, length = found
        gap = np.diff(path.frame)
        pull = -length * np.diff(np.diff(angle) / gap) / ((gap[1:] + gap[:-1]) / 2)
        lever = np.sin(angle[1:-1])
        power = float(lever @ lever)
        return [(float(pull @ lever) / power / GRAVITY, power)] if power > 1e-6 else []
    if family == "slide":
        speed = np.abs(path.velocity[:, 0])
        moving = int(np.argmax(speed < 0.5)) if (speed < 0.5).any() else len(speed)
        if moving < 4:
            return []
        middle = (path.frame[1:] + path.frame[:-1])[:moving] / 2
        slope = np.polyfit(middle, speed[:moving], 1)[0]
        return [(float(-slope) / (SLIDE_FRICTION * GRAVITY), float(moving**3))]
    pulls = []
    for stretch in flights(path):
        if len(stretch) >= 4:
            bend = 2 * np.polyfit(path.frame[stretch], path.position[stretch, 1], 2)[0]
            pulls.append((float(bend) / GRAVITY, float(np.ptp(path.frame[stretch]) ** 5)))
    return pulls


def momentum(paths: list[Path]) -> Probe:
    """|change of total momentum at the contact| / sum of |momenta| before."""
    met = meeting(paths)
    if isinstance(met, str):
        return missing(met)
    scale = float((met.mass * np.linalg.norm(met.before, axis=1)).sum())
    if scale < MOVING * met.mass.min():
        return missing("nothing moved before the contact")
    return Probe(float(np.linalg.norm(met.mass @ (met.after - met.before))) / scale)


def energy(paths: list[Path], family: str) -> Probe:
    """Energy after / before: of the pair in a collision, across the first bounce, between the halves of a swing."""
    if family == "collision":
        met = meeting(paths)
        if isinstance(met, str):
            return missing(met)
        before = float(met.mass @ (met.before**2).sum(axis=1))
        after = float(met.mass @ (met.after**2).sum(axis=1))
        return Probe(after / before) if before > 1e-3 else missing("nothing moved before the contact")
    if family in ("bounce", "pendulum"):
        pairs = [pair for path in paths if (pair := (_bounce if family == "bounce" else _halves)(path)) is not None]
        before = sum(pair[0] for pair in pairs)
        if before > 1e-3:
            return Probe(sum(pair[1] for pair in pairs) / before)
        return missing("no bounce seen" if family == "bounce" else "no swing seen")
    return missing(f"no energy is exchanged in a {family} scene")


def _bounce(path: Path) -> tuple[float, float] | None:
    """Mass x (height + motion energy) before and after the first bounce, from parabolas of the world's gravity."""
    around = [stretch for stretch in flights(path) if len(stretch) >= 3][:2]
    if len(around) < 2:
        return None
    energies = []
    for stretch in around:
        t = path.frame[stretch] - path.frame[stretch[0]]
        slope, start = np.polyfit(t, path.position[stretch, 1] - GRAVITY * t**2 / 2, 1)
        height = FLOOR - below(path.shape, path.radius) - start
        energies.append(path.radius**2 * (slope**2 / 2 + GRAVITY * height))
    return energies[0], energies[1]


def _halves(path: Path) -> tuple[float, float] | None:
    """Mass x mean energy above the lowest point in the first and in the second half of a swing."""
    if len(path.frame) < 8:
        return None
    span = (path.frame[2:] - path.frame[:-2])[:, None]
    speed = (path.position[2:] - path.position[:-2]) / span
    height = path.position[:, 1].max() - path.position[1:-1, 1]
    total = path.radius**2 * ((speed**2).sum(axis=1) / 2 + GRAVITY * height)
    half = len(total) // 2
    return float(total[:half].mean()), float(total[half:].mean())


def permanence(observation: reader.Observation) -> Probe:
    """Share of object-frames in which an object is gone or torn though nothing stands before it."""
    gone = np.array([_gone(track, observation) for track in observation.tracks])
    return Probe(float(gone.mean()))


def _gone(track: reader.Track, observation: reader.Observation) -> NDArray[np.bool_]:
    wall = observation.props.wall
    gone = np.array([status in ("absent", "torn") for status in track.status])
    frame = np.flatnonzero(track.seen)
    if wall is None or len(frame) < 2:
        return gone
    # Behind the wall for longer than its own speed explains: it should have come out.
    last, before = frame[-1], frame[-2]
    speed = (track.position[last, 0] - track.position[before, 0]) / (last - before)
    later = np.arange(last + 1, len(gone))
    x = track.position[last, 0] + speed * (later - last)
    radius = 1.5 * float(np.median(track.radius[frame])) + 1
    outside = (x < wall[0] - radius) | (x > wall[1] + radius)
    gone[later] |= outside & (x > 0) & (x < observation.width)
    return gone


def size(observation: reader.Observation) -> Probe:
    """Standard deviation / mean of the area while seen, of the worst object."""
    spreads = [
        float(np.std(track.area[track.seen]) / np.mean(track.area[track.seen]))
        for track in observation.tracks
        if track.seen.sum() >= 2
    ]
    return Probe(max(spreads)) if spreads else missing("no object was seen twice")


def interpenetration(paths: list[Path]) -> Probe:
    """Deepest overlap of two objects' inscribed discs / smaller diameter, also while one covers the other."""
    if len(paths) < 2:
        return missing("fewer than two objects were seen")
    deepest = 0.0
    for first, second in combinations(paths, 2):
        inner = below(first.shape, first.radius) + below(second.shape, second.radius)
        overlap = inner - closest_distance(first, second)
        deepest = max(deepest, overlap / (2 * min(first.radius, second.radius)))
    return Probe(deepest)


def continuity(paths: list[Path]) -> Probe:
    """Largest speed above the median speed of the same object, in its radii / frame."""
    excess = []
    for path in paths:
        speed = np.linalg.norm(path.velocity, axis=1)
        excess.append((speed.max() - np.median(speed)) / path.radius)
    return Probe(float(max(excess)))


def identity(observation: reader.Observation) -> Probe:
    """Largest departure of an object's mean colour from its own median colour, over channels."""
    drifts = []
    for track in observation.tracks:
        rgb = track.rgb[track.seen]
        rgb = rgb[np.isfinite(rgb).all(axis=1)]
        if len(rgb) >= 2:
            drifts.append(float(np.abs(rgb - np.median(rgb, axis=0)).max()))
    return Probe(max(drifts)) if drifts else missing("no object's colour was seen twice")


def motion(paths: list[Path]) -> Probe:
    """Share of neighbouring frame pairs in which some object moves by more than MOVING."""
    pairs: dict[int, bool] = {}
    for path in paths:
        for frame, speed in zip(path.frame[:-1], np.linalg.norm(path.velocity, axis=1), strict=True):
            pairs[int(frame)] = pairs.get(int(frame), False) or bool(speed > MOVING)
    return Probe(float(np.mean(list(pairs.values()))))


def velocity_error(observation: reader.Observation, state: Mapping[str, NDArray], start: int = 0) -> Probe:
    """Mean |velocity read - velocity simulated| in px / frame, objects paired by colour, while wholly visible.

    Args:
        state: ground truth as base_model.world.dataset gives it; position [time, object, 2], colour [object], visible.
        start: first frame that counts.
    """
    tracks = {track.colour: track for track in observation.tracks}
    errors = []
    for index, colour in enumerate(state["colour"]):
        if str(colour) not in tracks:
            return missing(f"the {colour} object was not seen")
        read = np.diff(tracks[str(colour)].position, axis=0)
        true = np.diff(state["position"][:, index], axis=0)
        whole = (state["visible"][1:, index] > 0.99) & (state["visible"][:-1, index] > 0.99)
        length = min(len(read), len(true))
        error = np.linalg.norm(read[:length] - true[:length], axis=1)
        errors.append(error[start:][whole[start:length] & np.isfinite(error[start:])])
    pooled = np.concatenate(errors)
    return Probe(float(pooled.mean())) if len(pooled) else missing("no object was seen whole in two frames in a row")
