"""What a metric is: a name, a version, what it needs, which way is better, what it cannot see - and a function.

A metric judges one video (`per_video`), a video among others (`per_group`) or a whole set against a reference
(`per_set`), never two of these. Its name carries the protocol in brackets (`fvd[i3d,16f,224,bilinear]`), so that two
numbers with one name may be compared. A value that cannot be computed is NaN with a reason; nothing is guessed and
nothing crashes a run. Importable without torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from base_model.world import caption, reader
from base_model.world.spec import HEIGHT, WIDTH, SceneSpec
from reward import physics_probes

Array = NDArray[np.float64]
Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """One value of one metric: NaN comes with the `reason` why it could not be computed, a failure with what failed."""

    value: float
    reason: str | None = None


def missing(reason: str) -> Score:
    return Score(float("nan"), reason)


class Backbone(Protocol):
    """Turns frames and prompts into features. `name` goes into metric names, `sha256` into results and cache keys.

    Videos of fewer than `min_frames` frames get no features.
    """

    name: str
    sha256: str
    preprocessing: str
    min_frames: int

    def encode_frames(self, frames: Frames) -> Array:
        """Features [rows, dim] of one clip [time, 3, height, width] in [0, 1]; a row per frame or one for the clip."""
        ...

    def encode_text(self, prompt: str) -> Array | None:
        """Features [dim] of one prompt, of length one; None from a backbone that does not read."""
        ...


class FlowEstimator(Protocol):
    """Where every pixel goes from one frame to another."""

    name: str
    sha256: str

    def flow(self, first: Frames, second: Frames) -> Array:
        """Displacement (x, y) in px, [height, width, 2], of two frames [3, height, width] in [0, 1]."""
        ...


@dataclass
class Sample:
    """One decoded video with everything that several metrics share, each part computed at most once.

    Args:
        frames: [time, 3, height, width] in [0, 1].
        features: [rows, dim] by the backbone of the metric that is asked, or None without one.
        text: its features of the prompt [dim], or of what the metric reads of it, or None.
        estimator: of optical flow, as the metric that is asked wants it.
        real: the video of the reference with the same prompt and seed, or None.
    """

    id: str
    prompt: str
    seed: int | None
    frames: Frames
    features: Array | None = None
    text: Array | None = None
    state: dict[str, NDArray[Any]] | None = None
    estimator: FlowEstimator | None = None
    real: Frames | None = None
    _flows: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    @cached_property
    def spec(self) -> SceneSpec | None:
        """What the prompt asks for, or None when it is not a sandbox prompt."""
        return caption.parse(self.prompt)

    @cached_property
    def observation(self) -> reader.Observation | None:
        """What the reader sees; None for videos that cannot be of the sandbox."""
        height, width = self.frames.shape[-2:]
        if (height, width) == (HEIGHT, WIDTH) or (self.spec is not None and height >= HEIGHT and width >= WIDTH):
            return reader.read(self.frames)
        return None

    @cached_property
    def probes(self) -> dict[str, physics_probes.Probe]:
        """All physics probes of this video."""
        if self.observation is None:
            return dict.fromkeys(physics_probes.PROBES, physics_probes.missing(self.unreadable))
        return physics_probes.probe(self.observation, self.spec)

    @property
    def unreadable(self) -> str:
        """Why there is no observation."""
        height, width = self.frames.shape[-2:]
        return f"the reader sees sandbox videos from {WIDTH}x{HEIGHT}, this one is {width}x{height}"

    def flows(self) -> tuple[Array, Array]:
        """Flow of every neighbouring pair forwards and backwards, each [time - 1, height, width, 2] px."""
        assert self.estimator is not None
        if self.estimator.name not in self._flows:
            pairs = list(zip(self.frames[:-1], self.frames[1:], strict=True))
            forward = np.stack([self.estimator.flow(first, second) for first, second in pairs])
            backward = np.stack([self.estimator.flow(second, first) for first, second in pairs])
            self._flows[self.estimator.name] = forward, backward
        return self._flows[self.estimator.name]


@dataclass(frozen=True)
class Member:
    """One video among others: features [rows, dim] and text [dim] by the metric's backbone."""

    prompt: str
    features: Array
    text: Array | None


Distance = Callable[[Array, Array], float]


@dataclass(frozen=True)
class Pool:
    """What one video gives to a set: its features [rows, dim] become vectors [k, dim]."""

    name: str
    vectors: Callable[[Array], Array]


@dataclass(frozen=True)
class Metric:
    """A judge and its fine print.

    Args:
        needs: what must be there: "frames", "prompt", "scene" (a sandbox prompt), "state", "reference", "paired" (the
            reference's video of the same prompt and seed), "siblings" (other seeds of the prompt).
        higher_is_better: None when neither direction is (a control value, a two-sided measure).
        failure: the value a video gets that could not be decoded; None leaves it out of the mean, counted as failed.
        per_video: Sample -> Score.
        per_group: the videos of one prompt, or of the whole set (see `group`) -> as many scores.
        per_set: (vectors [n, dim], reference [m, dim]) -> distance; `pool` makes the vectors.
        backbone: name in eval.backbones.BACKBONES.
        words: what of a prompt the backbone reads; nothing of an empty string.
        estimator: name in eval.flow.ESTIMATORS.
    """

    name: str
    version: str
    unit: str
    range: tuple[float, float]
    higher_is_better: bool | None
    needs: tuple[str, ...]
    blind_spots: str
    per_video: Callable[[Sample], Score] | None = None
    per_group: Callable[[Sequence[Member]], Sequence[Score]] | None = None
    group: Literal["prompt", "set"] = "prompt"
    per_set: Distance | None = None
    pool: Pool | None = None
    backbone: str | None = None
    words: Callable[[str], str] = str
    estimator: str | None = None
    failure: float | None = None
    preprocessing: str = "frames as decoded, [0, 1]"

    @property
    def kind(self) -> str:
        """Which vectors a set metric compares: backbone and pooling."""
        return f"{self.backbone},{self.pool.name if self.pool else ''}"
