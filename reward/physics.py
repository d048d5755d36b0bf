"""Does the motion obey the laws of the scene that the prompt names? The probes of `physics_probes.py`, judged.

`passes` compares them with a band of real simulations, `grade` makes one graded score of them, `quality` of a video.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from base_model.world import caption, reader
from base_model.world.spec import RESTITUTION, SceneSpec
from reward.physics_probes import Probe, probe

Band = Mapping[str, tuple[float, float]]

# What a family's law speaks about; every probe named here must be measurable in a right video, unless in SOMETIMES.
_ALWAYS = ("inertia", "permanence", "size", "continuity", "identity", "motion")
APPLIES: dict[str, tuple[str, ...]] = {
    "uniform": _ALWAYS,
    "bounce": (*_ALWAYS, "gravity", "energy"),
    "projectile": (*_ALWAYS, "gravity"),
    "collision": (*_ALWAYS, "momentum", "energy"),
    "pendulum": (*_ALWAYS, "gravity", "energy"),
    "slide": (*_ALWAYS, "gravity"),
    "occluder": _ALWAYS,
    "static": _ALWAYS,
}
SOMETIMES = frozenset({("bounce", "energy"), ("projectile", "gravity")})


def applies(name: str, family: str | None, num_objects: int) -> bool:
    """Does the law of this family say anything about this probe?"""
    if name == "interpenetration":
        return num_objects > 1
    return name in APPLIES[family] if family in APPLIES else name in _ALWAYS[1:-1]


def required(name: str, family: str | None, num_objects: int) -> bool:
    """Must a right video of this family make the probe measurable? A video that avoids the event does not pass."""
    return applies(name, family, num_objects) and (family, name) not in SOMETIMES


def verdicts(probes: Mapping[str, Probe], spec: SceneSpec, bands: Mapping[str, Band]) -> dict[str, bool]:
    """Per probe that applies: inside the band of its family? A probe that had to be measurable and was not is outside.

    Args:
        bands: family -> probe -> (low, high).
    """
    verdict = {}
    for name, band in bands[spec.family].items():
        if not applies(name, spec.family, len(spec.objects)):
            continue
        if probes[name].measured:
            verdict[name] = band[0] <= probes[name].value <= band[1]
        elif required(name, spec.family, len(spec.objects)):
            verdict[name] = False
    return verdict


def passes(probes: Mapping[str, Probe], spec: SceneSpec, bands: Mapping[str, Band]) -> bool:
    """Is every probe that applies inside the band of real simulations? Never true for a video with nothing in it."""
    verdict = verdicts(probes, spec, bands)
    return bool(verdict) and all(verdict.values())


# The graded score: (best value, distance from it at which a probe is worth 1/2). Set between truth and broken videos:
# well above the error of codec and reader, well below a visible defect.
HALF: dict[str, tuple[float, float]] = {
    "inertia": (0.0, 0.10),
    "gravity": (1.0, 0.30),
    "momentum": (0.0, 0.25),
    "energy": (1.0, 0.40),
    "permanence": (0.0, 0.10),
    "size": (0.0, 0.12),
    "interpenetration": (0.0, 0.15),
    "continuity": (0.0, 0.60),
    "identity": (0.0, 0.25),
}
# Laws that change the speed have excess of their own: the most seen in 1,200 true clips.
LAWFUL_EXCESS = {"bounce": 0.95, "projectile": 0.80, "slide": 0.52, "collision": 0.46, "pendulum": 0.23}
FLOOR_SCORE = 0.05  # of one probe, so that a second defect still costs


def grade(probes: Mapping[str, Probe], spec: SceneSpec | None) -> float:
    """Geometric mean of soft probe scores, times the share of motion that the scene needs; in [0, 1].

    A frozen video of a moving scene and an empty video score 0. A probe that had to be measurable counts FLOOR_SCORE.
    """
    family = spec.family if spec is not None else None
    count = len(spec.objects) if spec is not None else 1
    if not probes["motion"].measured:
        return 0.0
    guard = min(1.0, 2 * probes["motion"].value)
    if family == "static":
        guard = 1.0 - probes["motion"].value
    scores = []
    for name, (best, half) in HALF.items():
        if not applies(name, family, count):
            continue
        if probes[name].measured:
            scores.append(max(FLOOR_SCORE, 1 / (1 + (_off(name, family, probes[name].value, best) / half) ** 2)))
        elif required(name, family, count):
            scores.append(FLOOR_SCORE)
    return float(guard * np.exp(np.mean(np.log(scores)))) if scores else 0.0


def _off(name: str, family: str | None, value: float, best: float) -> float:
    if name == "continuity":
        return max(0.0, value - LAWFUL_EXCESS.get(family or "", 0.0))
    return value - (RESTITUTION**2 if (name, family) == ("energy", "bounce") else best)


def quality(frames: NDArray[np.floating], prompt: str) -> float:
    """Graded physical plausibility of one sandbox video for its prompt, in [0, 1].

    Args:
        frames: [time, 3, height >= 64, width >= 64] in [0, 1].
        prompt: one outside the sandbox grammar leaves the lawless probes.
    """
    spec = caption.parse(prompt)
    return grade(probe(reader.read(np.asarray(frames)), spec), spec)
