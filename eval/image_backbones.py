"""Image networks by path, a row of features per frame: any open_clip model, DINO, MobileNetV2."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import UserError, first_line
from core.video import IMAGENET_MEAN, IMAGENET_STD, to_uint8
from eval.backbones import checked, device, network_of, resized, standardised_pixels
from eval.protocol import Array, Frames

if TYPE_CHECKING:
    import torch

PATCH = 64  # channels per attention head of every DINO


class OpenClip:
    """Frame and prompt embeddings of length one by any open_clip model.

    Args:
        path: MODEL:FILE or MODEL:FILE#SHA256, as "ViT-B-32-quickgelu:/weights/ViT-B-32.pt"; MODEL as open_clip
            lists it.
    """

    min_frames = 1

    def __init__(self, path: str) -> None:
        import open_clip

        model, _, file = path.partition(":")
        if not file or model not in open_clip.list_models():
            raise UserError(f"--weights open_clip={path}: give MODEL:FILE, with a model of open_clip.list_models()")
        where, self.sha256 = checked(file)
        try:
            self.model, _, self.transform = open_clip.create_model_and_transforms(
                model, pretrained=str(where), weights_only=not _is_torchscript(where)
            )
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(f"weights {str(where)!r} are not those of {model} ({first_line(error)})") from None
        self.model = self.model.eval().to(device())
        self.tokenizer = open_clip.get_tokenizer(model)
        self.name = f"open_clip {model}"
        self.preprocessing = f"{model}'s own transform per frame"

    def encode_frames(self, frames: Frames) -> Array:
        import torch
        from PIL import Image

        with torch.inference_mode():
            images = torch.stack([self.transform(Image.fromarray(image)) for image in to_uint8(frames)]).to(device())
            return self.model.encode_image(images, normalize=True).double().cpu().numpy()

    def encode_text(self, prompt: str) -> Array:
        import torch

        with torch.inference_mode():
            tokens = self.tokenizer([prompt]).to(device())
            return self.model.encode_text(tokens, normalize=True)[0].double().cpu().numpy()


def _is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive, as OpenAI publishes CLIP: torch reads those without unpickling."""
    return zipfile.is_zipfile(file) and any(
        name.endswith("/constants.pkl") for name in zipfile.ZipFile(file).namelist()
    )


class Dino:
    """Class tokens of length one of a DINO vision transformer (Caron et al. 2021), prepared as VBench does.

    Args:
        path: FILE or FILE#SHA256 of the published backbone (`dino_vitbase16_pretrain.pth`); other widths work too.
    """

    name = "dino"
    min_frames = 1
    preprocessing = "short side to 224, centre 224x224, bilinear, no antialias, ImageNet mean and deviation"

    def __init__(self, path: str) -> None:
        import timm

        def network(state: dict[str, Any]) -> torch.nn.Module:
            patch, dim = state["patch_embed.proj.weight"].shape[-1], state["cls_token"].shape[-1]
            depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
            return timm.models.vision_transformer.VisionTransformer(
                patch_size=patch, embed_dim=dim, depth=depth, num_heads=max(1, dim // PATCH), num_classes=0
            )

        self.model, self.sha256 = network_of(path, "DINO", network)

    def encode_frames(self, frames: Frames) -> Array:
        import torch

        with torch.inference_mode():
            clip = standardised_pixels(resized(frames, 224, crop=True), IMAGENET_MEAN, IMAGENET_STD)
            tokens = self.model(clip).double().cpu().numpy()
        return tokens / np.linalg.norm(tokens, axis=1, keepdims=True)

    def encode_text(self, prompt: str) -> None:
        return None


class MobileNetV2:
    """The 1280 pooled features of torchvision's MobileNetV2 on ImageNet. No Inception: its distances are not FID.

    Args:
        path: FILE or FILE#SHA256 of `mobilenet_v2-b0353104.pth`.
    """

    name = "mobilenet_v2"
    min_frames = 1
    preprocessing = "stretched to 224x224, bilinear, antialiased, ImageNet mean and deviation; 1280 pooled features"

    def __init__(self, path: str) -> None:
        from torchvision.models import mobilenet_v2

        self.model, self.sha256 = network_of(path, "MobileNetV2", lambda _: mobilenet_v2(weights=None))

    def encode_frames(self, frames: Frames) -> Array:
        import torch

        with torch.inference_mode():
            clip = standardised_pixels(resized(frames, 224, crop=False, antialias=True), IMAGENET_MEAN, IMAGENET_STD)
            return self.model.features(clip).mean(dim=(2, 3)).double().cpu().numpy()

    def encode_text(self, prompt: str) -> None:
        return None
