"""ImageReward: BLIP reads the prompt with the image before it, and a stack of layers scores the first token.

The checkpoint keeps BLIP's original names; they are translated to those of transformers. Its layers have no activation
between them, as published. Source: Xu et al. 2023 (arXiv 2304.05977).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reward.frame_reward import FrameReward, fill, pretrained, state_of, weight_file
from reward.protocol import weights_sha256

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the authors' training scores
MAX_WORDS = 35  # tokens; a longer prompt is cut, as theirs is
TOKENIZER = "google-bert/bert-base-uncased"
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
BERT: dict[str, Any] = {"vocab_size": 30524, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
# Names of the vision tower: theirs -> transformers'.
VISION = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
    (r"^norm\.", "post_layernorm."),
)


class _Layers(nn.Module):
    """The scoring layers under the names of the checkpoint."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )


def image_reward(
    weights: str = "zai-org/ImageReward",
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
) -> FrameReward:
    """ImageReward v1.0, normalised with the authors' mean and deviation.

    Args:
        weights: ImageReward.pt, a folder with it, or a hub id; a folder may hold BERT's tokenizer too.
        vision, text: sizes of the towers where they are not BLIP-large's and BERT-base's.
    Raises: UserError when weights or tokenizer cannot be had or are of another layout.
    """
    from transformers import AutoTokenizer, BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    seeing = BlipVisionConfig(
        **{"image_size": 224, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-6} | (vision or LARGE)
    )
    reading = BlipTextConfig(**(text or BERT), encoder_hidden_size=seeing.hidden_size, is_decoder=True)
    path = weight_file(weights, "ImageReward.pt")
    state = state_of(path)
    eye, reader = BlipVisionModel(seeing), BlipTextModel(reading, add_pooling_layer=False)
    layers = _Layers(reading.hidden_size)
    fill(eye, renamed(_below(state, "blip.visual_encoder.")), path)
    fill(reader, _below(state, "blip.text_encoder."), path)
    fill(layers, _below(state, "mlp."), path)
    tokens = pretrained(AutoTokenizer, weights if (Path(weights) / "tokenizer_config.json").is_file() else TOKENIZER)

    def judge(images: Tensor, prompts: Sequence[str]) -> Tensor:
        words = tokens(list(prompts), padding="max_length", truncation=True, max_length=MAX_WORDS, return_tensors="pt")
        seen = eye(pixel_values=images).last_hidden_state
        read = reader(
            input_ids=words.input_ids.to(images.device),
            attention_mask=words.attention_mask.to(images.device),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=images.device),
        ).last_hidden_state
        return (layers.layers(read[:, 0]).squeeze(-1) - MEAN) / STD

    whole = nn.ModuleList([eye, reader, layers])
    version = f"1 {weights} {weights_sha256(whole)[:12]}"
    unit = "standard deviations of the authors' scores"
    ends = (-math.inf, math.inf)
    return FrameReward("image-reward", version, unit, ends, judge, (whole,), seeing.image_size)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of BLIP's original vision tower under transformers' names."""
    translated = {}
    for name, value in state.items():
        for pattern, new in VISION:
            name = re.sub(pattern, new, name)
        translated[name] = value
    return translated


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
