"""VideoMAE through transformers: features that see motion where I3D's see content (Ge et al. 2024, arXiv
2404.12391)."""

from __future__ import annotations

from pathlib import Path

from core.errors import UserError
from core.video import IMAGENET_MEAN, IMAGENET_STD
from eval.backbones import checked, device, resized, standardised_pixels
from eval.protocol import Array, Frames


class VideoMAE:
    """The first frames of a clip -> mean of the last layer's tokens [1, dim].

    Args:
        path: a folder as `save_pretrained` writes it, or FOLDER#SHA256 of its model.safetensors.
    """

    name = "videomae"

    def __init__(self, path: str) -> None:
        from transformers import VideoMAEModel

        folder, _, wanted = path.partition("#")
        file = Path(folder) / "model.safetensors"
        _, self.sha256 = checked(f"{file}#{wanted}" if wanted else str(file))
        try:
            self.model = VideoMAEModel.from_pretrained(folder, local_files_only=True).eval().to(device())
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"weights {folder!r} are no VideoMAE ({error})") from None
        self.size, self.min_frames = self.model.config.image_size, self.model.config.num_frames
        self.preprocessing = (
            f"first {self.min_frames} frames stretched to {self.size}x{self.size}, bilinear, no antialias,"
            " ImageNet mean and deviation; mean of the last layer's tokens"
        )

    def encode_frames(self, frames: Frames) -> Array:
        import torch

        with torch.inference_mode():
            clip = standardised_pixels(
                resized(frames[: self.min_frames], self.size, crop=False), IMAGENET_MEAN, IMAGENET_STD
            )
            return self.model(clip[None]).last_hidden_state.mean(dim=1).double().cpu().numpy()

    def encode_text(self, prompt: str) -> None:
        return None
