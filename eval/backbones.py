"""What turns frames into features. Weights are files with a sha256, which travels with every number made from them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.video import sha256
from eval.protocol import Array, Backbone, Frames


class SandboxClipBackbone:
    """The sandbox CLIP: per-frame and prompt embeddings of length one. Frames of another size are resized by it."""

    name = "sandbox"
    preprocessing = "to [-1, 1]; other sizes than 64x64 resized bilinear, antialiased"

    def __init__(self, folder: Path | str | None = None) -> None:
        if folder is None:
            from base_model.pipeline import WEIGHTS

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


def load(name_or_folder: str = "sandbox") -> Backbone:
    """The shipped sandbox CLIP, or one saved elsewhere.

    Raises: UserError when there are no weights.
    """
    return SandboxClipBackbone(None if name_or_folder == "sandbox" else name_or_folder)
