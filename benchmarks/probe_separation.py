"""Does every physics probe tell its own defect from the truth, and how long does it take? Aim: AUC .99, 10 ms a clip.

    python benchmarks/probe_separation.py [--num-clips 200] [--out FILE]

Per probe: true clips of the families it speaks about, and the same clips with the one defect it is for, put into the
state before drawing. All go through an mp4 file. A probe's score is its distance from the middle of the truth's band.
Also: no frozen clip of a moving scene and no empty clip may pass. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats

from base_model.world import dataset, reader
from base_model.world.corrupt import Drawn
from base_model.world.render import render
from base_model.world.spec import COLOURS, FPS
from core import video
from core.files import atomic_write
from core.randomness import numpy_generator
from eval import physics as metrics
from reward import physics, physics_probes

Spoil = Callable[[Drawn, np.random.Generator], None]
START = 6  # frame from which a defect holds


def jitter(drawn: Drawn, rng: np.random.Generator) -> None:
    drawn.position += rng.normal(0, 1.0, drawn.position.shape)


def jump(drawn: Drawn, rng: np.random.Generator) -> None:
    drawn.position[START:] += np.where(drawn.position[START].mean(axis=0) > 32, -11.0, 11.0)


def half_weight(drawn: Drawn, rng: np.random.Generator) -> None:
    """The vertical way takes twice as long; a slide hardly slows down."""
    time = np.arange(len(drawn.position)) / 2
    for one in range(drawn.position.shape[1]):
        for axis in (0, 1):
            drawn.position[:, one, axis] = np.interp(time, np.arange(len(time)), drawn.position[:, one, axis])


def one_stops(drawn: Drawn, rng: np.random.Generator) -> None:
    """After the contact the second object stays where it was hit."""
    gap = np.linalg.norm(drawn.position[:, 0] - drawn.position[:, 1], axis=1)
    touch = int(np.argmin(gap))
    drawn.position[touch:, 1] = drawn.position[touch, 1]


def too_lively(drawn: Drawn, rng: np.random.Generator) -> None:
    """After the contact, first bounce or half swing everything moves half as fast again."""
    half = len(drawn.position) // 2
    if drawn.position.shape[1] > 1:
        half = int(np.argmin(np.linalg.norm(drawn.position[:, 0] - drawn.position[:, 1], axis=1)))
    drawn.position[half:] = drawn.position[half] + 1.5 * (drawn.position[half:] - drawn.position[half])


def vanish(drawn: Drawn, rng: np.random.Generator) -> None:
    drawn.alpha[START : START + 4, 0] = 0.0


def hue_drift(drawn: Drawn, rng: np.random.Generator) -> None:
    others = [np.array(rgb) for rgb in COLOURS.values()]
    now = drawn.rgb[0, 0]
    target = min((rgb for rgb in others if not np.allclose(rgb, now)), key=lambda rgb: np.abs(rgb - now).max())
    drawn.rgb[:, 0] = now + np.linspace(0, 0.8, len(drawn.rgb))[:, None] * (target - now)


def freeze(drawn: Drawn, rng: np.random.Generator) -> None:
    drawn.position[:] = drawn.position[:1]


def slower(drawn: Drawn, rng: np.random.Generator) -> None:
    drawn.position[:] = drawn.position[0] + 0.6 * (drawn.position - drawn.position[0])


def pass_through(drawn: Drawn, rng: np.random.Generator) -> None:
    """Objects go on as before the contact, into each other."""
    gap = np.linalg.norm(drawn.position[:, 0] - drawn.position[:, 1], axis=1)
    touch = int(np.argmin(gap))
    step = drawn.position[1] - drawn.position[0]
    ahead = np.arange(len(gap) - touch)[:, None, None]
    drawn.position[touch:] = drawn.position[touch] + ahead * step


MOVING = ("uniform", "bounce", "projectile", "collision", "pendulum", "slide")
# probe -> families, defect; "size" is drawn with a pulsing radius.
DEFECTS: dict[str, tuple[tuple[str, ...], Spoil | None]] = {
    "inertia": (MOVING, jitter),
    "gravity": (("bounce", "projectile", "slide"), half_weight),
    "momentum": (("collision",), one_stops),
    "energy": (("collision",), too_lively),
    "permanence": (MOVING, vanish),
    "size": (MOVING, None),
    "interpenetration": (("collision",), pass_through),
    "continuity": (MOVING, jump),
    "identity": (MOVING, hue_drift),
    "motion": (MOVING, freeze),
    "velocity": (MOVING, slower),
}


def draw(clip: dataset.Clip, spoil: Spoil | None, pulse: bool, rng: np.random.Generator) -> np.ndarray:
    """The clip from its state, spoilt; floor, wall and rods as the truth has them."""
    state = clip.state
    count = len(state["radius"])
    rgb = np.array([COLOURS[str(name)] for name in state["colour"]])
    drawn = Drawn(
        state["position"].astype(float).copy(),
        np.repeat(rgb[None], len(state["position"]), axis=0),
        np.ones((len(state["position"]), count)),
    )
    radii = [float(radius) for radius in state["radius"]]
    if spoil is not None:
        spoil(drawn, rng)
    floor = clip.spec.family in ("bounce", "projectile", "slide")
    shapes = [str(shape) for shape in state["shape"]]
    if not pulse:
        return render(drawn.position, drawn.rgb, drawn.alpha, shapes, radii, floor=floor)
    frames = []
    for t in range(len(drawn.position)):
        scale = 1 + 0.18 * np.sin(t * 1.3)
        part = slice(t, t + 1)
        sizes = [radius * scale for radius in radii]
        frames.append(render(drawn.position[part], drawn.rgb[part], drawn.alpha[part], shapes, sizes, floor=floor))
    return np.concatenate(frames)


def measure(frames: np.ndarray, clip: dataset.Clip, path: Path) -> tuple[dict[str, float], bool, tuple[float, float]]:
    """Probe values, whether the clip passes, and the seconds of reading and of probing."""
    video.write(path, frames, FPS)
    frames = video.read(path).frames
    began = time.perf_counter()
    observation = reader.read(frames)
    read = time.perf_counter()
    probes = physics_probes.probe(observation, clip.spec)
    probed = time.perf_counter()
    values = {name: found.value for name, found in probes.items()}
    values["velocity"] = physics_probes.velocity_error(observation, clip.state).value
    passed = physics.passes(probes, clip.spec, metrics.bands())
    return values, passed, (read - began, probed - read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-clips", type=int, default=200, help="true clips and spoilt ones of each probe")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    seconds: list[tuple[float, float]] = []
    frozen_passes = empty_passes = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for name, (families, spoil) in DEFECTS.items():
            truth, broken = [], []
            for index in range(options.num_clips):
                most = 2 if families == ("collision",) else 1
                clip = dataset.make_clip(77, index, style="descriptive", most_objects=most, families=families)
                rng = numpy_generator(0, f"benchmark/{name}", index)
                right, _, took = measure(
                    draw(clip, None, False, rng) if clip.spec.family != "pendulum" else clip.frames, clip, path
                )
                wrong, passed, _ = measure(draw(clip, spoil, name == "size", rng), clip, path)
                truth.append(right[name])
                broken.append(wrong[name])
                seconds.append(took)
                if name == "motion":
                    frozen_passes += passed
                    empty_passes += measure(np.full_like(clip.frames, 0.08), clip, path)[1]
            rows[name] = separation(np.array(truth), np.array(broken))
    read, probed = np.median(np.array(seconds), axis=0) * 1000
    told = {
        "num_clips": options.num_clips,
        "probes": rows,
        "frozen_passes": int(frozen_passes),
        "empty_passes": int(empty_passes),
        "median_ms": {"reader": round(read, 2), "probes": round(probed, 2)},
    }
    print(json.dumps(told, indent=1))
    if options.out:
        atomic_write(options.out, json.dumps(told, indent=1) + "\n")


def separation(truth: np.ndarray, broken: np.ndarray) -> dict[str, float]:
    """AUC of |value - median of the truth|; a defect that makes a probe unmeasurable where it had to be is found."""
    middle = float(np.nanmedian(truth))
    one, two = np.abs(truth - middle), np.abs(broken - middle)
    known = one[np.isfinite(one)]
    two = np.where(np.isfinite(two), two, np.inf)
    auc = stats.mannwhitneyu(two, known).statistic / (len(two) * len(known))
    return {
        "auc": round(float(auc), 4),
        "truth_median": round(middle, 4),
        "broken_median": round(float(np.nanmedian(broken)), 4),
        "truth_measured": round(float(np.isfinite(truth).mean()), 3),
        "broken_measured": round(float(np.isfinite(broken).mean()), 3),
    }


if __name__ == "__main__":
    main()
