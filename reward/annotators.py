"""The sandbox's gold taste, and people simulated from it.

Gold utility is computed from what the prompt says and what the reader sees: are the right things there (text), do they
move as they must (motion), are they whole and constant (visual). It labels the demo's pairs, with human-like noise and
ties, and it judges at the very end. A reward that is optimised must never see it, or nothing would be learned from
preferences; a test watches who imports this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from base_model.world import caption, motion, reader
from base_model.world.spec import SceneSpec
from core.errors import UserError
from core.preferences import ASPECTS
from core.randomness import numpy_generator
from reward import physics
from reward.physics_probes import Probe, probe

# What makes a video be about its prompt; the sum is 1.
TEXT_WEIGHTS = {"colour": 0.25, "shape": 0.2, "size": 0.1, "count": 0.15, "family": 0.2, "direction": 0.1}
# What people name first: is it what I asked for, does it move as it should.
OVERALL_WEIGHTS = {"text_alignment": 0.4, "motion_quality": 0.4, "visual_quality": 0.2}


def gold_utility(frames: NDArray[np.floating], prompt: str) -> dict[str, float]:
    """How good a sandbox video is, per aspect and overall, each in [0, 1].

    Args: frames [time, 3, 64, 64] in [0, 1].
    Raises: UserError when the prompt is not of the sandbox: nothing is known about it then.
    """
    spec = caption.parse(prompt)
    if spec is None:
        raise UserError(f"prompt {prompt!r} is not of the sandbox, so its truth is unknown; see `soralign world`")
    observation = reader.read(np.asarray(frames))
    return utility(observation, spec, probe(observation, spec))


def utility(observation: reader.Observation, spec: SceneSpec, probes: Mapping[str, Probe]) -> dict[str, float]:
    """Gold utility of a video that was read and probed already."""
    aspects = {
        "text_alignment": text_alignment(observation, spec),
        "motion_quality": physics.grade(probes, spec),
        "visual_quality": visual_quality(observation, spec),
    }
    return aspects | {"overall": sum(weight * aspects[aspect] for aspect, weight in OVERALL_WEIGHTS.items())}


def text_alignment(observation: reader.Observation, spec: SceneSpec) -> float:
    """Weighted share of the stated attributes that are there, in [0, 1]; an empty video has none of them."""
    if not observation.tracks:
        return 0.0
    right = motion.match(observation, spec)
    return sum(weight for key, weight in TEXT_WEIGHTS.items() if right[key])


def visual_quality(observation: reader.Observation, spec: SceneSpec) -> float:
    """Are the objects whole, constant in size and colour, and the rest of the picture clean? In [0, 1].

    The mean over expected objects of a product of three shares (frames in which the object is whole, that is seen or
    behind something; constancy of area; constancy of colour), times the cleanliness. A missing object scores 0.
    """
    shares = sorted((_constancy(track) for track in observation.tracks), reverse=True)[: len(spec.objects)]
    shares += [0.0] * (len(spec.objects) - len(shares))
    dirt = min(1.0, observation.residual / 0.1)
    return float(np.mean(shares)) * (1 - dirt)


def _constancy(track: reader.Track) -> float:
    seen = track.seen
    whole = float(np.mean([status in ("seen", "hidden") for status in track.status]))
    if seen.sum() < 2:
        return 0.0
    area = track.area[seen]
    size = 1 - min(1.0, float(area.std() / area.mean()) / 0.3)
    rgb = track.rgb[seen]
    drift = np.nanmax(np.abs(rgb - np.nanmedian(rgb, axis=0))) if np.isfinite(rgb).any() else 1.0
    colour = 1 - min(1.0, float(drift) / 0.4)
    return whole * size * colour


@dataclass(frozen=True)
class SimulatedAnnotator:
    """A person with gold taste and human failings.

    Args:
        seed: with `name` and the pair it decides every slip, so a label does not depend on what was labelled before.
        noise: chance that a vote comes out wrong: the other video, or for a tie one of the two; in [0, 0.5].
        tie_band: utilities closer than this are a tie; utilities lie in [0, 1].
        position_bias: utility added to the video on the left; which one that is, is drawn per pair.
    """

    name: str = "simulated"
    seed: int = 0
    noise: float = 0.1
    tie_band: float = 0.02
    position_bias: float = 0.0

    def left_is(self, pair_id: int) -> str:
        """Which video stands left for this annotator: "a" or "b"."""
        return "ab"[int(self._rng(pair_id, "side").integers(2))]

    def label(self, utility_a: dict[str, float], utility_b: dict[str, float], pair_id: int) -> dict[str, str]:
        """Choice "a", "b" or "tie" for every aspect of two gold utilities."""
        bias = self.position_bias * (1 if self.left_is(pair_id) == "a" else -1)
        rng = self._rng(pair_id, "votes")
        choices = {}
        for aspect in ASPECTS:
            slips, instead = rng.random() < self.noise, "ab"[int(rng.integers(2))]
            difference = utility_a[aspect] - utility_b[aspect] + bias
            choice = "tie" if abs(difference) <= self.tie_band else "a" if difference > 0 else "b"
            if slips:
                choice = {"a": "b", "b": "a", "tie": instead}[choice]
            choices[aspect] = choice
        return choices

    def _rng(self, pair_id: int, purpose: str) -> np.random.Generator:
        return numpy_generator(self.seed, f"annotator {self.name} {purpose}", pair_id)
