"""Judges of single images, asked about a few frames of a video: preprocessing, sampling and where weights come from.

What a judge does with an image is in the file of its family; here is what they share. Resizing is bicubic with
antialiasing as in PIL, but in floats and with a gradient, so a score differs from the authors' 8-bit pipeline by less
than a rounding of pixels does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError, first_line
from core.video import CLIP_MEAN, CLIP_STD
from reward.protocol import Scores, check, evenly_spaced, only_finite

NUM_IMAGES = 5  # frames judged of a video
Judge = Callable[[Tensor, Sequence[str]], Tensor]
"""Prepared images [n, 3, size, size] and one prompt each -> scores [n]."""


@dataclass(frozen=True)
class FrameReward:
    """Mean score of a few evenly spaced frames; a `Reward`, blind to their order.

    Args:
        judge: scores of prepared images. modules: what moves to the device of the frames.
        size: side in pixels of what the judge sees: the shorter side is brought to it and the middle is cut out.
    """

    name: str
    version: str
    unit: str
    range: tuple[float, float]
    judge: Judge
    modules: tuple[nn.Module, ...]
    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    num_images: int = NUM_IMAGES
    higher_is_better: bool = True
    differentiable: bool = True
    aspects: tuple[str, ...] = ()

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        check(frames, prompts)
        for module in self.modules:
            module.to(frames.device)
        seen = frames[:, evenly_spaced(frames.shape[1], self.num_images).unique()]
        count = seen.shape[1]
        images = prepared(seen.flatten(0, 1), self.size, self.mean, self.std)
        scores = self.judge(images, [text for text in prompts for _ in range(count)])
        return Scores(only_finite(scores.float().unflatten(0, (-1, count)).mean(1), frames), {})


def prepared(images: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images [n, 3, height, width] in [0, 1], shorter side brought to `size`, middle square, normalised per channel."""
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    new = (size, int(scale * width)) if height <= width else (int(scale * height), size)
    if new != (height, width):
        images = F.interpolate(images, new, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = round((new[0] - size) / 2), round((new[1] - size) / 2)
    images = images[..., top : top + size, left : left + size]
    middle, spread = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    return (images - middle) / spread


def weight_file(weights: str, name: str) -> Path:
    """The file `name` of `weights`: itself when that is a file, inside it when a folder, else of the hub id.

    Raises: UserError when it cannot be had.
    """
    path = Path(weights)
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / name).is_file():
            raise UserError(f"{path} holds no {name}; give the file, a folder with it, or a hub id")
        return path / name
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(weights, name))
    except Exception as error:  # offline, unknown id, gated: the hub library has a class for each
        raise UserError(
            f"{name} of {weights!r} cannot be had: {first_line(error)}; give a local file or folder"
        ) from None


def state_of(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a torch file, read without running anything that is in it.

    Raises: UserError for a damaged file or one that holds more than tensors.
    """
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip have each their own
        raise UserError(f"{path} cannot be read as weights: {first_line(error)}") from None
    return dict(loaded.get("state_dict", loaded))


def fill(module: nn.Module, state: dict[str, Tensor], source: Path | str) -> None:
    """Load all weights of `module`, freeze it, set it to judge.

    Raises: UserError when one is missing or of another shape; what the file holds besides is left.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state or state[name].shape != wanted[name].shape]
    if missing:
        raise UserError(f"{source} is of another layout: {len(missing)} of {len(wanted)} weights, such as {missing[0]}")
    module.load_state_dict({name: state[name] for name in wanted})
    module.float().eval().requires_grad_(False)


def pretrained(kind: Any, weights: str, **options: Any) -> Any:
    """`kind.from_pretrained(weights)`. Raises: UserError instead of what transformers raises."""
    try:
        return kind.from_pretrained(weights, **options)
    except Exception as error:  # from OSError to KeyError, whatever a wrong folder makes it trip over
        raise UserError(f"no {kind.__name__} at {weights!r}: {first_line(error)}") from None
