"""What a codec is trained on: crops of the sandbox's clips around objects, or of people's own clips anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from base_model.pretrain.config import CROP, PretrainConfig
from base_model.pretrain.part import FromTheWorld, pool
from base_model.pretrain.reading import Ahead, ClipSet, read_piece
from base_model.world.spec import NUM_FRAMES
from core.errors import UserError
from core.randomness import numpy_generator
from core.video import to_signed


class Crops(Protocol):
    """Crops are pixels in [-1, 1], [count, time, 3, CROP, CROP]."""

    @property
    def provenance(self) -> dict[str, Any]:
        """As of `base_model.pretrain.part.Part`; so is `begin`."""
        ...

    def begin(self, folder: Path) -> None: ...

    def batch(self, draw: int) -> Tensor:
        """Crops of a training batch, which its number alone decides."""
        ...

    def some(self, count: int, rng: np.random.Generator) -> Tensor: ...

    def clips(self) -> Iterator[Tensor]:
        """Frames in [0, 1] [n, time, 3, height, width] from which the statistics of latents are taken."""
        ...

    def close(self) -> None:
        """Training is over."""


class WorldCrops(FromTheWorld):
    """Crops around objects: most of a sandbox frame is ground and teaches nothing."""

    def __init__(self, config: PretrainConfig, accelerator: Accelerator) -> None:
        super().__init__(config, accelerator)
        frames, centres = [], []
        for pixels, clip in pool(config, config.num_clips):
            frames.append(pixels)
            centres.append(clip.state["position"][:, 0])
        self.frames, self.centres = np.stack(frames), np.stack(centres)

    def batch(self, draw: int) -> Tensor:
        return self.some(self.config.batch, numpy_generator(self.config.seed, "codec step", draw))

    def some(self, count: int, rng: np.random.Generator) -> Tensor:
        height = self.frames.shape[-1]
        cut = []
        for which in rng.integers(len(self.frames), size=count):
            centre = self.centres[which][rng.integers(self.frames.shape[1])] + rng.normal(0, 4, 2)
            x, y = np.clip(centre - CROP / 2, 0, height - CROP).astype(int)
            cut.append(self.frames[which][:, :, y : y + CROP, x : x + CROP])
        return to_signed(torch.from_numpy(np.stack(cut)).float() / 255.0)

    def clips(self) -> Iterator[Tensor]:
        for start in range(0, min(512, len(self.frames)), 16):
            yield torch.from_numpy(self.frames[start : start + 16]).float() / 255.0

    def close(self) -> None:
        """Nothing is open."""


class OwnCrops:
    """Crops from anywhere in the clips of a folder, several from each stretch that is read. Batches are read ahead."""

    FROM_EACH = 4

    def __init__(self, config: PretrainConfig, accelerator: Accelerator) -> None:
        self.config = config
        self.set = ClipSet(config.videos, NUM_FRAMES, config.largest_side, config.max_bad, config.frame_stride)
        self.ahead = Ahead(self._batch, config.workers, stride=accelerator.num_processes)

    @property
    def provenance(self) -> dict[str, Any]:
        return self.set.provenance

    def begin(self, folder: Path) -> None:
        self.set.begin(folder)

    def batch(self, draw: int) -> Tensor:
        return self.ahead[draw]

    def _batch(self, draw: int) -> Tensor:
        return self.some(self.config.batch, numpy_generator(self.config.seed, "codec step", draw))

    def some(self, count: int, rng: np.random.Generator) -> Tensor:
        cut: list[NDArray[np.float32]] = []
        while len(cut) < count:
            piece = self.set.pieces[rng.integers(len(self.set.pieces))]
            try:
                frames = read_piece(piece, 1, CROP)
            except UserError as error:
                self.set.rejects.add(piece.item, error)
                continue
            frames = np.pad(frames, ((0, NUM_FRAMES - len(frames)), (0, 0), (0, 0), (0, 0)), mode="edge")
            for _ in range(min(self.FROM_EACH, count - len(cut))):
                y, x = (rng.integers(side - CROP + 1) for side in frames.shape[2:])
                cut.append(frames[:, :, y : y + CROP, x : x + CROP])
        return to_signed(torch.from_numpy(np.stack(cut)))

    def clips(self) -> Iterator[Tensor]:
        rng = numpy_generator(self.config.seed, "codec statistics")
        for _ in range(16):
            yield (self.some(16, rng) + 1.0) / 2.0

    def close(self) -> None:
        self.ahead.close()
