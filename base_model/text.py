"""The small CLIP of the sandbox: open_clip's model class, the true BPE vocabulary, trained by us on sandbox captions.

Its text tower conditions the transformer (one vector a token), its two towers together score. A video's embedding is
the normalised mean of its frames' embeddings: blind to the order of frames on purpose, so scores that must see motion
add their own pooling.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from base_model.options import WEIGHTS, saved_class
from core.errors import UserError
from core.video import to_signed


class SandboxClip(ModelMixin, ConfigMixin):
    """Two towers; every embedding has length 1. `dim` is the joint dimension, `text_width` that of a token's vector."""

    @register_to_config
    def __init__(
        self,
        dim: int = 128,
        image_size: int = 64,
        patch_size: int = 8,
        vision_width: int = 192,
        vision_layers: int = 4,
        text_width: int = 128,
        text_layers: int = 4,
        context_length: int = 40,
    ) -> None:
        super().__init__()
        self.dim, self.text_width, self.image_size, self.context_length = dim, text_width, image_size, context_length
        vision = CLIPVisionCfg(
            layers=vision_layers, width=vision_width, head_width=48, patch_size=patch_size, image_size=image_size
        )
        text = CLIPTextCfg(context_length=context_length, width=text_width, heads=4, layers=text_layers)
        self.clip = CLIP(embed_dim=dim, vision_cfg=vision, text_cfg=text)

    @property
    def tokenizer(self) -> SimpleTokenizer:
        return _tokenizer(self.context_length)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids [n, context_length]; 0 after the end token. A longer prompt is cut, see `unread`."""
        return self.tokenizer(list(prompts)).to(self.clip.token_embedding.weight.device)

    def unread(self, prompt: str) -> str:
        """The end of a prompt that `tokenize` cuts off; empty where nothing is."""
        return self.tokenizer.decode(self.tokenizer.encode(prompt)[self.context_length - 2 :]).strip()

    def text_tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """A vector per token [n, context, text_width], mask of real tokens [n, context], joint embedding [n, dim].

        The joint embedding has length 1.
        """
        ids = self.tokenize(prompts)
        clip = self.clip
        x = clip.token_embedding(ids) + clip.positional_embedding
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))
        last = ids.argmax(dim=-1)  # the end token has the highest id
        pooled = x[torch.arange(len(ids)), last] @ clip.text_projection
        mask = torch.arange(ids.shape[1], device=ids.device)[None] <= last[:, None]
        return x, mask, F.normalize(pooled, dim=-1)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """[n, dim], each of length 1."""
        return self.text_tokens(prompts)[2]

    def encode_frames(self, frames: Tensor, tokens: bool = False) -> Tensor:
        """Embeddings of frames [batch, time, 3, height, width] in [0, 1]: [batch, time, dim] of length 1 each;
        with `tokens` the patch vectors of the last layer instead, [batch, time, patch, vision_width]."""
        batch, time = frames.shape[:2]
        images = to_signed(frames.flatten(0, 1))
        if images.shape[-2:] != (self.image_size, self.image_size):
            images = F.interpolate(
                images, (self.image_size, self.image_size), mode="bilinear", antialias=True, align_corners=False
            )
        if tokens:
            inner = self.clip.visual.forward_intermediates(images, indices=1, output_fmt="NLC", intermediates_only=True)
            return inner["image_intermediates"][-1].unflatten(0, (batch, time))
        return F.normalize(self.clip.visual(images), dim=-1).unflatten(0, (batch, time))

    def encode_videos(self, frames: Tensor) -> Tensor:
        """Embedding of whole videos [batch, dim], of length 1: the mean over frames, renormalised."""
        return F.normalize(self.encode_frames(frames).mean(dim=1), dim=-1)

    def score(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosine between each video and its prompt, [batch] in [-1, 1]; differentiable in `frames`."""
        return (self.encode_videos(frames) * self.encode_text(prompts)).sum(dim=-1)


@functools.cache
def _tokenizer(context_length: int) -> SimpleTokenizer:
    """One for all models of a process: reading the vocabulary takes as long as a tiny model's clip."""
    return SimpleTokenizer(context_length=context_length)


def load_clip(folder: str | Path | None = None) -> SandboxClip:
    """The shipped CLIP, or one saved with `save_pretrained`; in evaluation mode, its weights frozen.

    Raises: UserError for a folder that holds none.
    """
    folder = folder or WEIGHTS / "clip"
    if (name := saved_class(folder, "CLIP")) != SandboxClip.__name__:
        raise UserError(f"'{folder}' holds a {name}, which is no CLIP; give the folder of a {SandboxClip.__name__}")
    clip = SandboxClip.from_pretrained(str(folder), low_cpu_mem_usage=False)
    return clip.float().eval().requires_grad_(False)
