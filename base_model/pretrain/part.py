"""What the loop asks of a network that is trained, and what those trained on the sandbox world share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from base_model.pretrain.config import PretrainConfig
from base_model.world.dataset import Clip, make_clip
from core.progress import track
from core.randomness import seed_for


class Part(Protocol):
    """A network, and the loss of one step. Made on the CPU; what the loss sees lies on the accelerator's device."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def provenance(self) -> dict[str, Any]:
        """What the weights are made from; goes into every checkpoint."""
        ...

    def begin(self, folder: Path) -> None:
        """Called with the run folder before the first step. Raises: UserError where the run cannot go on."""
        ...

    def loss(self, step: int, draw: int) -> Tensor:
        """Loss of training step `step` on batch `draw`; seed and `draw` alone say what is in the batch."""
        ...

    def clips_in(self, draw: int) -> int:
        """How many clips batch `draw` holds."""
        ...

    def save(self, folder: Path) -> None: ...


class FromTheWorld:
    """A part whose data are drawn from the sandbox: seed and recipe say all."""

    def __init__(self, config: PretrainConfig, accelerator: Accelerator) -> None:
        self.config, self.device = config, accelerator.device

    @property
    def provenance(self) -> dict[str, Any]:
        """What the weights are made from; goes into every checkpoint."""
        names = ("seed", "num_clips", "noise", "families", "sizes")
        return {"data": "sandbox world", **{name: getattr(self.config, name) for name in names}}

    def begin(self, folder: Path) -> None:
        """Nothing can have changed since the run began."""

    def clips_in(self, draw: int) -> int:
        return self.config.batch


def pool(config: PretrainConfig, count: int, stride: int = 1) -> Iterator[tuple[np.ndarray, Clip]]:
    """(frames as bytes [time, 3, 64, 64], clip) of the training pool, with a progress bar."""
    for index in track(range(count), "drawing clips"):
        clip = make_clip(seed_for(config.seed, f"pretrain/{config.part}"), index, noise=config.noise)
        yield np.rint(clip.frames[::stride] * 255.0).astype(np.uint8), clip
