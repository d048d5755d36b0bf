"""What a codec is trained on: pixels, bottleneck, and as options features of a frozen network and a discriminator.

The last two cost a second network each and pay on photographs; the flat edges of the sandbox do not need them, so they
are off by default and meant for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from core.errors import UserError, first_line
from core.video import from_signed


def kl_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mean, exp(log_variance)) from N(0, 1), nats, mean over elements. Source: VAE (Kingma & Welling 2014)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


def pixel(kind: Literal["mse", "l1"], made: Tensor, real: Tensor) -> Tensor:
    """Mean squared or absolute difference of pixels."""
    return F.mse_loss(made, real) if kind == "mse" else F.l1_loss(made, real)


Backbone = Callable[[Tensor], Tensor]


def load_backbone(path: str | Path, device: torch.device | None = None) -> Backbone:
    """Frozen features of images [n, 3, height, width] in [0, 1] -> [n, channel, ...].

    Args:
        path: a TorchScript file (.pt), or a folder with a saved `SandboxClip`, of which the patch vectors are taken.
    Raises: UserError where it is neither.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        from base_model.text import load_clip

        clip = load_clip(path).to(device)
        return lambda images: clip.encode_frames(images[None], tokens=True)[0].mT
    try:
        module = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"perceptual backbone '{path}' is neither a TorchScript file nor a folder with a saved CLIP "
            f"({first_line(error)})"
        ) from None
    for value in module.parameters():
        value.requires_grad_(False)
    return module


def perceptual(backbone: Backbone, made: Tensor, real: Tensor) -> Tensor:
    """Squared distance of features of unit length, mean over frames and places; videos in [-1, 1], frame by frame.

    Source: LPIPS (Zhang et al. 2018, eq. 1), with equal weights for all channels.
    """
    found = [F.normalize(backbone(from_signed(video.flatten(0, 1))), dim=1) for video in (made, real)]
    return (found[0] - found[1]).square().sum(dim=1).mean()


class PatchDiscriminator(nn.Module):
    """Judges boxes of a video: [B, time, 3, height, width] in [-1, 1] to one number a box, real high.

    Strided 3D convolutions without statistics over the batch. Source: PatchGAN (Isola et al. 2017), in 3D as for
    TATS (Ge et al. 2022).
    """

    def __init__(self, width: int = 32, num_layers: int = 3) -> None:
        super().__init__()
        widths = [3, *(width * 2**i for i in range(num_layers))]
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv3d(before, after, (3, 4, 4), (1, 2, 2), 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv3d(widths[-1], 1, 3, padding=1))

    def forward(self, video: Tensor) -> Tensor:
        return self.layers(video.transpose(1, 2))


def hinge_real_fake(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """The discriminator's loss: real above 1, fake below -1. Source: Lim & Ye 2017."""
    return (F.relu(1.0 - on_real).mean() + F.relu(1.0 + on_fake).mean()) / 2


def adversarial(judge: PatchDiscriminator, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """(loss of what made the video, loss of the judge), to be added and sent back in one pass.

    The first has no gradient to the judge's weights, the second none to the video.
    """
    frozen = {name: value.detach() for name, value in judge.named_parameters()}
    return -functional_call(judge, frozen, (made,)).mean(), hinge_real_fake(judge(real), judge(made.detach()))
