"""Rewards that are a cosine of two towers: CLIPScore, any open_clip model, PickScore, HPS v2.1, and the LAION aesthetic
predictor, which stands on CLIP's image tower alone. Each scores as its authors publish; docs/reward.md has the recipe
to check that against their code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.errors import UserError, first_line
from reward.frame_reward import FrameReward, fill, pretrained, state_of, weight_file
from reward.protocol import weights_sha256

CLIP_SCORE_SCALE = 2.5
CLIP_SCORE_PREFIX = "A photo depicts "
PICK_TEXT = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"  # PickScore's own repository has no tokenizer


def clip_score(weights: str = "ViT-B-32/openai") -> FrameReward:
    """2.5 x max(cosine, 0) with the prefix "A photo depicts". Source: Hessel et al. 2021, section 3."""
    model, tokens, size, mean, std = _open_clip(weights)

    def judge(images: Tensor, prompts: Sequence[str]) -> Tensor:
        texts = [CLIP_SCORE_PREFIX + text for text in prompts]
        return CLIP_SCORE_SCALE * _cosine(model, tokens, images, texts).clamp(min=0)

    return _reward("clip-score", weights, model, judge, "2.5 x cosine", (0.0, CLIP_SCORE_SCALE), size, mean, std)


def open_clip_cosine(weights: str) -> FrameReward:
    """Plain cosine of any open_clip model. Args: weights: "ARCHITECTURE/TAG", "hf-hub:ID" or "local-dir:FOLDER"."""
    model, tokens, size, mean, std = _open_clip(weights)

    def judge(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return _cosine(model, tokens, images, prompts)

    return _reward("open-clip", weights, model, judge, "cosine", (-1.0, 1.0), size, mean, std)


def hps(weights: str = "xswu/HPSv2", architecture: str = "ViT-H-14") -> FrameReward:
    """Human preference score v2.1: the cosine, without logit scale. Only scores of one prompt compare.

    Args: weights: HPS_v2.1_compressed.pt, a folder with it, or a hub id. Source: Wu et al. 2023 (arXiv 2306.09341).
    """
    model = open_clip.create_model(architecture, load_weights=False)
    path = weight_file(weights, "HPS_v2.1_compressed.pt")
    fill(model, state_of(path), path)
    tokens = open_clip.get_tokenizer(architecture)

    def judge(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return _cosine(model, tokens, images, prompts)

    return _reward("hps", weights, model, judge, "cosine", (-1.0, 1.0), _side(model))


def pick_score(weights: str = "yuvalkirstain/PickScore_v1") -> FrameReward:
    """Logit scale x cosine, prompts cut at the length of the text tower. Source: Kirstain et al. 2023, section 3.

    Args: weights: hub id or folder of a transformers CLIP; the tokenizer is taken from a folder that holds one.
    """
    from transformers import AutoTokenizer, CLIPModel

    model = _frozen(pretrained(CLIPModel, weights))
    tokens = pretrained(AutoTokenizer, weights if (Path(weights) / "tokenizer_config.json").is_file() else PICK_TEXT)
    length = model.config.text_config.max_position_embeddings

    def judge(images: Tensor, prompts: Sequence[str]) -> Tensor:
        words = tokens(list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        text = model.text_projection(model.text_model(**words.to(images.device)).pooler_output)
        cosine = (F.normalize(_image_features(model, images), dim=-1) * F.normalize(text, dim=-1)).sum(-1)
        return model.logit_scale.exp() * cosine

    size = model.config.vision_config.image_size
    return _reward("pick-score", weights, model, judge, "logits", (-math.inf, math.inf), size)


class _Aesthetic(nn.Module):
    """The predictor's layers, linear throughout, under the names of its checkpoint."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (width, 1024, 128, 64, 16, 1)
        blocks: list[nn.Module] = []
        for index, (wide, narrow) in enumerate(zip(sizes, sizes[1:], strict=False)):
            blocks += [nn.Linear(wide, narrow)] + ([nn.Dropout()] if index < 3 else [])
        self.layers = nn.Sequential(*blocks)


def aesthetic(
    weights: str = "trl-lib/ddpo-aesthetic-predictor", clip: str = "openai/clip-vit-large-patch14"
) -> FrameReward:
    """LAION's aesthetic predictor V2: layers without activation on CLIP ViT-L/14's normalised image embedding; about
    1 to 10, blind to the prompt. Source: Schuhmann 2022, "improved aesthetic predictor".

    Args: weights: aesthetic-model.pth (or sac+logos+ava1-l14-linearMSE.pth), a folder with it, or a hub id.
        clip: hub id or folder of the transformers CLIP; a folder `weights` that holds one is taken instead.
    """
    from transformers import CLIPModel

    path = weight_file(weights, "aesthetic-model.pth")
    towers = _frozen(pretrained(CLIPModel, weights if (Path(weights) / "config.json").is_file() else clip))
    head = _Aesthetic(towers.config.projection_dim)
    fill(head, state_of(path), path)

    def judge(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return head.layers(F.normalize(_image_features(towers, images), dim=-1)).squeeze(-1)

    both = nn.ModuleList([towers, head])
    size = towers.config.vision_config.image_size
    return _reward("aesthetic", weights, both, judge, "rating from 1 to 10", (-math.inf, math.inf), size)


def _reward(
    name: str, weights: str, module: nn.Module, judge: Any, unit: str, ends: tuple[float, float], size: int, *rest: Any
) -> FrameReward:
    version = f"1 {weights} {weights_sha256(module)[:12]}"
    return FrameReward(name, version, unit, ends, judge, (module,), size, *rest)


def _open_clip(weights: str) -> tuple[Any, Any, int, Any, Any]:
    """(model, tokenizer, side, mean, std). Raises: UserError for weights that open_clip does not find."""
    architecture, _, tag = weights.partition("/")
    whole = weights.startswith(("hf-hub:", "local-dir:"))
    if not whole and not tag:
        raise UserError(f"open_clip weights {weights!r} must be ARCHITECTURE/TAG, hf-hub:ID or local-dir:FOLDER")
    source = (weights, None) if whole else (architecture, tag)
    try:
        model = open_clip.create_model(source[0], pretrained=source[1])
        tokens = open_clip.get_tokenizer(source[0])
    except Exception as error:  # open_clip raises RuntimeError, hub errors and FileNotFoundError
        raise UserError(f"open_clip weights {weights!r} cannot be had: {first_line(error)}") from None
    return _frozen(model), tokens, _side(model), tuple(model.visual.image_mean), tuple(model.visual.image_std)


def _frozen(model: Any) -> Any:
    return model.float().eval().requires_grad_(False)


def _side(model: Any) -> int:
    size = model.visual.image_size
    return int(size if isinstance(size, int) else size[0])


def _cosine(model: Any, tokens: Any, images: Tensor, prompts: Sequence[str]) -> Tensor:
    text = model.encode_text(tokens(list(prompts)).to(images.device), normalize=True)
    return (model.encode_image(images, normalize=True) * text).sum(-1)


def _image_features(model: Any, images: Tensor) -> Tensor:
    """Projected image embeddings of a transformers CLIP, [n, dim]."""
    return torch.as_tensor(model.visual_projection(model.vision_model(pixel_values=images).pooler_output))
