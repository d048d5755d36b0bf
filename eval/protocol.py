"""What a metric is: a name, a version, what it needs, which way is better, what it cannot see - and a function.

A metric judges one video (`per_video`) or a whole set against a reference (`per_set`), never both. Its name carries the
protocol in brackets (`fvd[sandbox,dct]`), so that two numbers with one name may be compared. A value that cannot be
computed is NaN with a reason; nothing is guessed and nothing crashes a run. Importable without torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from base_model.world import caption, reader
from base_model.world.spec import HEIGHT, WIDTH, SceneSpec
from reward import physics

Array = NDArray[np.float64]
Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """One value of one metric: NaN comes with the `reason` why it could not be computed."""

    value: float
    reason: str | None = None


def missing(reason: str) -> Score:
    return Score(float("nan"), reason)


class Backbone(Protocol):
    """Turns frames and prompts into features. `name` goes into metric names, `sha256` into results and cache keys."""

    name: str
    sha256: str
    preprocessing: str

    def encode_frames(self, frames: Frames) -> Array:
        """Features [time, dim] of one clip [time, 3, height, width] in [0, 1], each row of length one."""
        ...

    def encode_text(self, prompt: str) -> Array:
        """Features [dim] of one prompt, of length one."""
        ...


@dataclass
class Sample:
    """One decoded video with everything that several metrics share, each part computed at most once.

    Args:
        frames: [time, 3, height, width] in [0, 1].
        features: backbone features [time, dim], or None when no backbone is at hand.
        text: backbone features of the prompt [dim], or None.
    """

    id: str
    prompt: str
    seed: int | None
    frames: Frames
    features: Array | None = None
    text: Array | None = None
    state: dict[str, NDArray[Any]] | None = None

    @cached_property
    def spec(self) -> SceneSpec | None:
        """What the prompt asks for, or None when it is not a sandbox prompt."""
        return caption.parse(self.prompt)

    @cached_property
    def observation(self) -> reader.Observation | None:
        """What the reader sees; None for videos that are not of the sandbox's size."""
        if self.frames.shape[-2:] != (HEIGHT, WIDTH):
            return None
        return reader.read(self.frames)

    @cached_property
    def probes(self) -> dict[str, physics.Probe]:
        """All physics probes of this video."""
        if self.observation is None:
            height, width = self.frames.shape[-2:]
            reason = f"the reader sees {WIDTH}x{HEIGHT} sandbox videos, this one is {width}x{height}"
            return {name: physics.Probe(float("nan"), reason) for name in physics.PROBES}
        return physics.probe(self.observation, self.spec)


Distance = Callable[[Array, Array], float]


@dataclass(frozen=True)
class Metric:
    """A judge and its fine print.

    Args:
        needs: what must be there: "frames", "prompt", "scene" (a sandbox prompt), "state", "backbone", "reference",
            "siblings" (other seeds of the prompt).
        higher_is_better: None when neither direction is (a control value, a two-sided measure).
        failure: the value a video gets that could not be decoded; None leaves it out of the mean, counted as failed.
        per_video: Sample -> Score.
        per_group: the n videos of one prompt, each [time, dim] in the form that `group_features` names -> n scores.
        group_features: "clip" (backbone features) or "thumbnail" (16x16 pixels a frame).
        per_set: (vectors [n, dim], reference [m, dim]) -> distance.
    """

    name: str
    version: str
    unit: str
    range: tuple[float, float]
    higher_is_better: bool | None
    needs: tuple[str, ...]
    blind_spots: str
    per_video: Callable[[Sample], Score] | None = None
    per_group: Callable[[Sequence[Array]], Sequence[Score]] | None = None
    per_set: Distance | None = None
    group_features: str = "clip"
    failure: float | None = None
    preprocessing: str = "frames as decoded, [0, 1]"
