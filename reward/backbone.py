"""What a preference model sees a video with: frozen, and named in the checkpoint by where it came from and its hash.

Three kinds. "sandbox": the shipped CLIP, hue moments and the motion tower (`features.py`). "transformers": any vision
or video model of that library, frames or tubes of frames in, its tokens pooled so that order and motion stay visible.
"latent": the generator's own transformer, which needs no decoded frames and reads videos at any noise level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_model import flow
from base_model.text import SandboxClip, load_clip
from core.errors import UserError
from core.randomness import torch_generator
from core.video import IMAGENET_MEAN, IMAGENET_STD
from reward import motion_tower
from reward.features import features, questions
from reward.frame_reward import pretrained
from reward.protocol import evenly_spaced, weights_sha256

if TYPE_CHECKING:
    from base_model.protocol import Condition, Generator

NUM_IMAGES = 8  # frames shown to a backbone that looks at single images


class Backbone(Protocol):
    """Frozen features of videos.

    kind, weights: with these `load` finds it again; weights is a hub id, a folder or a name.
    sha256: of all weights. differentiable: whether features carry gradients to frames.
    """

    kind: str
    weights: str
    sha256: str
    differentiable: bool

    def features(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """[batch, feature] of frames [batch, time, 3, height, width] in [0, 1] and one prompt each."""
        ...

    def to(self, device: torch.device) -> None: ...


class SandboxBackbone:
    """The shipped CLIP towers, hue moments and what ties them, and the motion tower."""

    kind, weights, differentiable = "sandbox", "shipped", True

    def __init__(self, clip: SandboxClip | None = None) -> None:
        self.clip, self.tower = clip or load_clip(), motion_tower.load()
        self.sha256 = weights_sha256(nn.ModuleList([self.clip, self.tower]))
        self.questions = questions(self.clip)

    def features(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        return features(self.clip, self.questions, self.tower, frames, prompts)

    def to(self, device: torch.device) -> None:
        self.clip.to(device)
        self.tower.to(device)
        self.questions = questions(self.clip)


class TransformersBackbone:
    """A vision or video model of transformers (VideoMAE, V-JEPA 2, DINOv2, CLIP, SigLIP, ...), by hub id or folder.

    With two towers (CLIP, SigLIP) the agreement of every frame with the prompt is part of the features; models without
    a text tower see no prompt. Raises: UserError when there is no such model, or none that looks at pixels.
    """

    kind, differentiable = "transformers", True

    def __init__(self, weights: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        model = pretrained(AutoModel, weights)
        self.weights, self.model = weights, model.float().eval().requires_grad_(False)
        config = model.config
        self.towers = hasattr(config, "text_config") and hasattr(config, "vision_config")
        self.tokens = pretrained(AutoTokenizer, weights) if self.towers else None
        looking = config.vision_config if self.towers else config
        side = getattr(looking, "image_size", getattr(looking, "crop_size", None))
        if side is None:
            raise UserError(f"{weights!r} is a {type(model).__name__}, which looks at no pixels; name a vision model")
        self.side = int(side if isinstance(side, int) else side[0])
        self.num_frames = getattr(looking, "num_frames", getattr(looking, "frames_per_clip", None))
        self.tube = int(getattr(looking, "tubelet_size", 1))
        self.mean, self.std = _colours(weights)
        self.sha256 = weights_sha256(model)

    def features(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        count = self.num_frames or NUM_IMAGES
        seen = frames[:, evenly_spaced(frames.shape[1], count)]
        flat = F.interpolate(seen.flatten(0, 1), (self.side, self.side), mode="bilinear", antialias=True)
        spread = flat.new_tensor(self.std)[:, None, None]
        pixels = ((flat - flat.new_tensor(self.mean)[:, None, None]) / spread).unflatten(0, (len(frames), count))
        if self.num_frames:  # a video model: tokens of all tubes, time outermost
            name = "pixel_values_videos" if self.model.config.model_type == "vjepa2" else "pixel_values"
            extra = {"skip_predictor": True} if name == "pixel_values_videos" else {}
            tokens = self.model(**{name: pixels}, **extra).last_hidden_state
            return over_time(tokens.unflatten(1, (count // self.tube, -1)).mean(2))
        eye = self.model.vision_model if self.towers else self.model
        out = eye(pixel_values=pixels.flatten(0, 1))
        each = out.last_hidden_state.mean(1).unflatten(0, (len(frames), count))
        if self.tokens is None:
            return over_time(each)
        image = self.model.get_image_features(pixel_values=pixels.flatten(0, 1))
        words = self.tokens(list(prompts), padding=True, truncation=True, return_tensors="pt").to(frames.device)
        text = self.model.get_text_features(**words)
        image, text = (getattr(one, "pooler_output", one) for one in (image, text))
        image = F.normalize(image, dim=-1).unflatten(0, (len(frames), count))
        cosine = (image * F.normalize(text, dim=-1).unsqueeze(1)).sum(-1)
        agreement = torch.stack([cosine.mean(1), cosine.amin(1), cosine[:, -1] - cosine[:, 0]], 1)
        return torch.cat([over_time(each), agreement], 1)

    def to(self, device: torch.device) -> None:
        self.model.to(device)


class LatentBackbone:
    """Hidden states of a generator's transformer for noisy latents and a prompt.

    It is noise-aware: `at` reads latents at any noise level, and so in the middle of denoising. `features` encodes
    frames and noises them to `sigma` with one fixed noise, so that a score repeats. Videos of another length or size
    are brought to the generator's.
    """

    kind, differentiable = "latent", True
    sigma = 0.3  # one of `latent.LEVELS`, which heads are taught at

    def __init__(self, weights: str = "sandbox", generator: Generator | None = None) -> None:
        import base_model

        self.weights = weights
        self.generator = generator or base_model.load(weights)
        self.transformer: Any = self.generator.policy_module()
        if not hasattr(self.transformer, "blocks") or self.generator.family != "flow":
            raise UserError(f"latent features are read from native flow transformers; {weights!r} is none")
        blocks: Any = self.transformer.blocks
        self.block: nn.Module = blocks[2 * len(blocks) // 3]
        self.sha256 = weights_sha256(self.transformer)

    def at(self, latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Features [batch, feature] of noisy latents [batch, channel, time, height, width] at levels sigma [batch]."""
        seen: list[Tensor] = []
        hook = self.block.register_forward_hook(lambda module, given, out: seen.append(out))
        dtype = self.transformer.patch_in.weight.dtype
        try:
            self.transformer(
                latents.to(dtype),
                sigma,
                condition["text"].to(dtype),
                condition["mask"],
                condition["pooled"].to(dtype),
            )
        finally:
            hook.remove()
        tokens = seen[0].float().unflatten(1, (latents.shape[2], -1))  # [batch, time, patch, width]
        level = torch.stack([sigma, sigma.square(), (8 * sigma).cos()], 1).float()
        return torch.cat([over_time(tokens.mean(2)), tokens.amax((1, 2)), level], 1)

    def features(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        latents = self.encode(frames)
        # the same noise for every video
        noise = torch.randn(latents.shape[1:], generator=torch_generator(0, "latent reward")).to(latents)
        sigma = torch.full((len(latents),), self.sigma, device=latents.device)
        return self.at(flow.interpolate(latents, noise, self.sigma), sigma, self.generator.encode_prompts(prompts))

    def encode(self, frames: Tensor) -> Tensor:
        """Clean latents of frames [batch, time, 3, height, width] in [0, 1]."""
        size = self.generator.size
        frames = frames[:, evenly_spaced(frames.shape[1], size.num_frames)]
        if frames.shape[3:] != (size.height, size.width):
            flat = F.interpolate(frames.flatten(0, 1), (size.height, size.width), mode="bilinear", antialias=True)
            frames = flat.unflatten(0, frames.shape[:2])
        return self.generator.encode(frames)

    def to(self, device: torch.device) -> None:
        for part in vars(self.generator).values():
            if isinstance(part, nn.Module):
                part.to(device)


def over_time(each: Tensor) -> Tensor:
    """What of vectors over time [batch, time, width] a linear head can use: level, course and restlessness.

    [batch, 4 x width]: mean, last less first (turns its sign when time is reversed), standard deviation, and mean size
    of the steps (grows when frames are shuffled).
    """
    step = each.diff(dim=1) if each.shape[1] > 1 else torch.zeros_like(each)
    spread = torch.sqrt(each.var(1, correction=0) + 1e-8)
    return torch.cat([each.mean(1), each[:, -1] - each[:, 0], spread, step.abs().mean(1)], 1)


def load(kind: str, weights: str, clip: SandboxClip | None = None) -> Backbone:
    """The backbone that a checkpoint names. Raises: UserError for an unknown kind or weights that cannot be had."""
    if kind == "sandbox":
        return SandboxBackbone(clip)
    if kind == "transformers":
        return TransformersBackbone(weights)
    if kind == "latent":
        return LatentBackbone(weights)
    raise UserError(f"backbone {kind!r} is unknown; known: sandbox, transformers, latent")


def _colours(weights: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of RGB that the model's processor subtracts; ImageNet's where it names none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        told, _ = ImageProcessingMixin.get_image_processor_dict(weights)
    except Exception:  # no processor beside the weights
        told = {}
    return told.get("image_mean", IMAGENET_MEAN), told.get("image_std", IMAGENET_STD)
