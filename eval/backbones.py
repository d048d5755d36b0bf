"""What turns frames into features. Weights are files with a sha256, which travels with every number made from them.

Only the sandbox CLIP ships. The others are files of the user's, given as `--weights NAME=PATH`, with `#SHA256` behind
the path to insist on a file; nothing is ever downloaded. A backbone of several preparations has one name for each
("i3d", "i3d,centre") and one file, named by what stands before the comma.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import UserError
from core.registry import resolve
from core.video import sha256
from eval.features import thumbnail
from eval.protocol import Array, Backbone, Frames

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# name -> what makes it of a path; those of OWN need none.
BACKBONES: dict[str, str] = {
    "thumbnail": "eval.backbones:Thumbnail",
    "sandbox": "eval.backbones:SandboxClip",
    "i3d": "eval.i3d:stretched",
    "i3d,centre": "eval.i3d:centred",
    "i3d,own": "eval.i3d:as_stylegan_v",
    "videomae": "eval.videomae:VideoMAE",
    "open_clip": "eval.image_backbones:OpenClip",
    "dino": "eval.image_backbones:Dino",
    "mobilenet_v2": "eval.image_backbones:MobileNetV2",
    "viclip": "eval.vbench:ViCLIP",
    "laion": "eval.vbench:Aesthetic",
    "umt": "eval.human_action:UMT",
}
OWN = ("thumbnail", "sandbox")
FEWEST_DIGITS = 8  # of a sha256 that is asked for


class Thumbnail:
    """No weights: 16x16 area means."""

    name = "thumbnail"
    sha256 = "none"
    preprocessing = "16x16 area means per frame"
    min_frames = 1

    def __init__(self, path: str | None = None) -> None:
        pass

    def encode_frames(self, frames: Frames) -> Array:
        return thumbnail(frames)

    def encode_text(self, prompt: str) -> None:
        return None


class SandboxClip:
    """The sandbox CLIP: per-frame and prompt embeddings of length one. Frames of another size are resized by it."""

    name = "sandbox"
    preprocessing = "to [-1, 1]; other sizes than 64x64 resized bilinear, antialiased"
    min_frames = 1

    def __init__(self, folder: Path | str | None = None) -> None:
        if folder is None:
            from base_model.options import WEIGHTS

            folder = WEIGHTS / "clip"
        where = Path(folder)
        weights = sorted(where.glob("*.safetensors"))
        if not weights:
            raise UserError(
                f"{where}: no *.safetensors; the sandbox CLIP comes from `soralign pretrain` or the release"
            )
        digest = hashlib.sha256("".join(sha256(path) for path in weights).encode()).hexdigest()
        self.sha256 = sha256(weights[0]) if len(weights) == 1 else digest
        from base_model.text import load_clip

        self.clip = load_clip(where)

    def encode_frames(self, frames: Frames) -> Array:
        import torch

        with torch.inference_mode():
            return self.clip.encode_frames(torch.from_numpy(np.ascontiguousarray(frames))[None])[0].double().numpy()

    def encode_text(self, prompt: str) -> Array:
        import torch

        with torch.inference_mode():
            return self.clip.encode_text([prompt])[0].double().numpy()


def load(name: str, weights: Mapping[str, str] | None = None) -> Backbone:
    """A backbone by its name in BACKBONES.

    Args:
        weights: name before the comma -> PATH or PATH#SHA256, in the form that the backbone's class documents.
    Raises: UserError when its file is not given, missing, of another sha256 or of another layout.
    """
    key = name.partition(",")[0]
    path = (weights or {}).get(key)
    if path is None and key not in OWN:
        raise UserError(f"no weights; give --weights {key}=PATH")
    return resolve(BACKBONES, name, "backbone")(path)


def checked(path: str) -> tuple[Path, str]:
    """The file of PATH or PATH#SHA256 and its sha256.

    Raises: UserError when it is missing or has another sha256.
    """
    where, _, wanted = path.partition("#")
    if not Path(where).is_file():
        raise UserError(f"weights {where!r} do not exist")
    found = sha256(where)
    if wanted and (len(wanted) < FEWEST_DIGITS or not found.startswith(wanted.lower())):
        raise UserError(f"weights {where!r} have sha256 {found[:16]}..., not {wanted}")
    return Path(where), found


def network_of(
    path: str,
    what: str,
    make: Callable[[dict[str, Any]], Any],
    tensors: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> tuple[Any, str]:
    """The network that `make` builds for the state dict in PATH or PATH#SHA256, with its weights, and their sha256.

    Args:
        tensors: finds the state dict in what the file holds; by default the file is one.
    Raises: UserError when the file is missing, another one, or does not hold the weights of `what`.
    """
    import torch

    file, digest = checked(path)
    try:
        state = tensors(torch.load(file, map_location="cpu", weights_only=True))
        model = make(state)
        model.load_state_dict(state)
    except Exception as error:  # torch has no one error for a file that is no state dict
        raise UserError(f"weights {str(file)!r} are not those of {what} ({type(error).__name__})") from None
    return model.eval().to(device()), digest


@functools.cache
def device() -> torch.device:
    """The GPU of this process where there is one."""
    import os

    import torch

    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def resized(frames: Frames, size: int, *, crop: bool, antialias: bool = False, mode: str = "bilinear") -> Tensor:
    """Frames [time, 3, size, size] in [0, 1] on the device: stretched, or short side to size and the centre.

    Pixel centres are kept in place (align_corners=False).
    """
    import torch
    from torch.nn.functional import interpolate

    clip = torch.from_numpy(np.ascontiguousarray(frames, dtype=np.float32)).to(device())
    height, width = clip.shape[2:]
    target = (size, size)
    if crop:
        short = min(height, width)
        target = (max(size, height * size // short), max(size, width * size // short))
    if (height, width) != target:
        clip = interpolate(clip, target, mode=mode, align_corners=False, antialias=antialias).clamp(0, 1)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return clip[:, :, top : top + size, left : left + size]


def standardised_pixels(clip: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(pixel - mean) / std per channel of frames [time, 3, height, width]."""
    import torch

    shape = (3, 1, 1)
    return (clip - torch.tensor(mean, device=clip.device).reshape(shape)) / torch.tensor(
        std, device=clip.device
    ).reshape(shape)
