"""Physics as metrics, and the band of truth they are held against.

`physics_pass_rate` is the share of videos in which every probe that applies to the scene lies inside the band that 99 %
of real simulations fill. The band is measured, not chosen: clips of the world, drawn at whole pixels, through the mp4
file that every judged video went through. A law obeyed to the pixel passes: the reader is twenty times finer than a
64-pixel screen, a viewer is not. `--codec` sends the clips through the shipped autoencoder too, for a band that a
generator with perfect latents meets; on the demo it moved the pass rates by less than .01.

    python -m eval.physics        # writes eval/physics_band.json
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from base_model.world import dataset, reader
from base_model.world.spec import FAMILIES, FPS, SceneSpec
from core import video
from core.files import atomic_write
from core.progress import track
from core.randomness import numpy_generator
from eval.protocol import Frames, Metric, Sample, Score, missing
from reward import physics, physics_probes

Codec = Callable[[Frames], Frames]
BAND_FILE = Path(__file__).with_name("physics_band.json")
SHARE = 0.99  # of real simulations inside the band of one probe
TWO_SIDED = ("gravity", "energy", "motion")
# No band is narrower than what a viewer could tell: a third of a pixel of jitter, half a pixel of radius, one frame of
# 17, a barely visible change of colour, a tenth of an acceleration or an energy.
RESOLUTION = {
    "inertia": 0.15,
    "continuity": 0.15,
    "size": 0.10,
    "interpenetration": 0.06,
    "permanence": 1 / 17,
    "identity": 0.08,
    "motion": 1 / 16,
    "gravity": 0.10,
    "energy": 0.10,
}


@functools.cache
def bands() -> dict[str, dict[str, tuple[float, float]]]:
    """family -> probe -> (low, high), as shipped."""
    saved = json.loads(BAND_FILE.read_text(encoding="utf-8"))["bands"]
    return {
        family: {probe: (float(low), float(high)) for probe, (low, high) in rows.items()}
        for family, rows in saved.items()
    }


def passed(sample: Sample) -> Score:
    """1 when every probe that applies is inside the band of truth, else 0 and the names of those outside."""
    if sample.spec is None:
        return _lawless(sample)
    if physics.passes(sample.probes, sample.spec, bands()):
        return Score(1.0)
    verdicts = physics.verdicts(sample.probes, sample.spec, bands())
    return Score(0.0, ", ".join(name for name, is_inside in verdicts.items() if not is_inside))


def measurable(sample: Sample) -> Score:
    """Share of the probes that must be measurable in a right video and were."""
    if sample.spec is None:
        return _lawless(sample)
    count = len(sample.spec.objects)
    wanted = [name for name in physics_probes.PROBES if physics.required(name, sample.spec.family, count)]
    return Score(float(np.mean([sample.probes[name].measured for name in wanted])))


def quality(sample: Sample) -> Score:
    """Graded plausibility in [0, 1]; see reward.physics.grade."""
    if sample.spec is None:
        return _lawless(sample)
    return Score(physics.grade(sample.probes, sample.spec))


def _lawless(sample: Sample) -> Score:
    return missing("the prompt names no scene with a known law" if sample.prompt else "the video has no prompt")


def probe(name: str) -> Callable[[Sample], Score]:
    """The raw value of one probe, where it applies to the scene."""

    def score(sample: Sample) -> Score:
        if sample.spec is not None and not physics.applies(name, sample.spec.family, len(sample.spec.objects)):
            return missing(f"says nothing about this {sample.spec.family} scene")
        found = sample.probes[name]
        return Score(found.value, found.reason)

    return score


def velocity_error(sample: Sample) -> Score:
    """Mean |velocity read - simulated| in px / frame, for videos that come with ground truth."""
    if not sample.state:
        return missing("no ground-truth state beside the video")
    if sample.observation is None:
        return missing(sample.unreadable)
    found = physics_probes.velocity_error(sample.observation, sample.state)
    return Score(found.value, found.reason)


def _probe_metric(name: str, blind_spots: str, version: str = "1") -> Metric:
    return Metric(
        name=f"physics/{name}",
        version=version,
        unit=physics_probes.PROBES[name],
        range=(0.0, float("inf")),
        higher_is_better=None if name in TWO_SIDED else False,
        needs=("frames",),
        blind_spots=blind_spots,
        per_video=probe(name),
    )


INERTIA = _probe_metric("inertia", "perfect for a frozen video: read with physics/motion")
GRAVITY = _probe_metric("gravity", "needs a stretch of free motion")
MOMENTUM = _probe_metric("momentum", "objects that pass through each other keep it: read with physics/interpenetration")
ENERGY = _probe_metric("energy", "kept by objects that pass through each other or never move")
PERMANENCE = _probe_metric("permanence", "an object that was never there is not missed: see attributes/count")
SIZE = _probe_metric("size", "leaks colour drift: read with physics/identity")
INTERPENETRATION = _probe_metric("interpenetration", "objects that stop at a distance do not overlap", version="2")
CONTINUITY = _probe_metric("continuity", "small jumps hide below a scene's own changes of speed")
IDENTITY = _probe_metric("identity", "slow drift shows at half its size")
MOTION = _probe_metric("motion", "any motion counts, lawful or not")
VELOCITY = Metric(
    name="physics/velocity",
    version="1",
    unit="px / frame",
    range=(0.0, float("inf")),
    higher_is_better=False,
    needs=("frames", "state"),
    blind_spots="only for videos with ground truth",
    per_video=velocity_error,
)
PASS_RATE = Metric(
    name="physics_pass_rate",
    version=f"2, band {video.sha256(BAND_FILE)[:8]}",  # another band is another metric: nothing cached or compared
    unit="share of videos",
    range=(0.0, 1.0),
    higher_is_better=True,
    needs=("frames", "scene"),
    blind_spots="the law of the scene only, not whether its colours and shapes are those of the prompt",
    per_video=passed,
    failure=0.0,
    preprocessing="state read from pixels; 99 % band of real simulations per probe and family (physics_band.json)",
)
COVERAGE = Metric(
    name="physics_coverage",
    version="1",
    unit="share of probes",
    range=(0.0, 1.0),
    higher_is_better=True,
    needs=("frames", "scene"),
    blind_spots="measurable is not right",
    per_video=measurable,
    failure=0.0,
)
QUALITY = Metric(
    name="physics_quality",
    version="2",
    unit="graded score",
    range=(0.0, 1.0),
    higher_is_better=True,
    needs=("frames", "scene"),
    blind_spots="half-lives of its parts are set by hand",
    per_video=quality,
    failure=0.0,
)


def band_of(values: list[float], name: str) -> tuple[float, float]:
    """The band that holds SHARE of the true values: between two quantiles, or from 0 up to one; RESOLUTION at least."""
    if name not in TWO_SIDED:
        return 0.0, max(float(np.quantile(values, SHARE)), RESOLUTION.get(name, 0.0))
    low, middle, high = np.quantile(values, [(1 - SHARE) / 2, 0.5, (1 + SHARE) / 2])
    room = RESOLUTION[name] * (middle if name != "motion" else 1.0)
    return float(min(low, middle - room)), float(max(high, middle + room))


def truth(num_clips: int, seed: int, codec: Codec | None) -> Iterator[tuple[SceneSpec, reader.Observation]]:
    """What the reader sees of `num_clips` simulations of every family, as a screen of whole pixels shows them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for family in FAMILIES:
            for index in range(num_clips):
                rng = numpy_generator(seed, f"eval/band/{family}", index)
                spec, motion = None, None
                while spec is None or motion is None:
                    spec = dataset.draw_spec(rng, most_objects=2)
                    motion = dataset.draw_motion(spec, rng) if spec.family == family else None
                motion.position = np.rint(motion.position)
                frames, _ = dataset.draw(spec, motion, None, rng)
                video.write(path, codec(frames) if codec else frames, FPS)
                yield spec, reader.read(video.read(path).frames)


def measure_band(num_clips: int, seed: int = 0, codec: Codec | None = None) -> dict[str, object]:
    """What physics_band.json holds: the band, how often each probe could be measured, and how the clips were made.

    Args:
        codec: frames [time, 3, height, width] -> what the generator's autoencoder makes of them.
    """
    values: dict[str, dict[str, list[float]]] = {family: defaultdict(list) for family in FAMILIES}
    for spec, observation in track(truth(num_clips, seed, codec), "band of truth", total=num_clips * len(FAMILIES)):
        for name, found in physics_probes.probe(observation, spec).items():
            if physics.applies(name, spec.family, len(spec.objects)):
                values[spec.family][name].append(found.value)
    rows, coverage = {}, {}
    for family, probes in values.items():
        finite = {name: [v for v in found if np.isfinite(v)] for name, found in probes.items()}
        rows[family] = {name: band_of(found, name) for name, found in finite.items() if found}
        coverage[family] = {name: len(finite[name]) / len(probes[name]) for name in probes}
    return {
        "about": "band of real simulations; see eval/physics.py",
        "share": SHARE,
        "num_clips_per_family": num_clips,
        "seed": seed,
        "positions": "whole pixels",
        "codec": "shipped autoencoder, then H.264" if codec else "H.264",
        "bands": rows,
        "coverage": coverage,
    }


def _shipped_codec() -> Codec:
    import torch

    import base_model

    generator = base_model.load("sandbox")

    def reconstruct(frames: Frames) -> Frames:
        with torch.inference_mode():
            latents = generator.encode(torch.from_numpy(frames)[None])
            return generator.decode(latents)[0].clamp(0, 1).numpy()

    return reconstruct


def main() -> None:
    """Measure the band and write it."""
    parser = argparse.ArgumentParser(description="Measure the band of truth of the physics probes.")
    parser.add_argument(
        "--num-clips", type=int, default=210, help="clips per family (default 210, of the shipped band)"
    )
    parser.add_argument("--seed", type=int, default=1_000, help="of the world (default 1000)")
    parser.add_argument("--codec", action="store_true", help="through the shipped autoencoder first")
    parser.add_argument("--out", type=Path, default=BAND_FILE, help="file to write (default: the shipped one)")
    options = parser.parse_args()
    measured = measure_band(options.num_clips, options.seed, _shipped_codec() if options.codec else None)
    atomic_write(options.out, json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
