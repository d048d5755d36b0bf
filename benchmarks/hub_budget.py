"""What fits which card, and how long a training step takes: arithmetic over the released models' own shapes.

Parameters are counted on diffusers' classes without memory (device "meta"). The rest is counted so, and stated in
docs/generators.md: base weights of 2 bytes (bf16), 1 (int8) or .56 (nf4 with a fp32 scale per 64); LoRA of rank 32 on
attention at 16 bytes a number (fp32 weight, gradient, Adam); with gradient checkpointing one input per block and clip,
and one block open, of which 16 inputs of the width and 3 of the feed-forward's are alive; 2 GB for context and
fragments; work = 2 floating-point operations per parameter and token plus 4 tokens^2 width per block of attention, at
40 % of the card's peak.
Run: `python benchmarks/hub_budget.py`
"""

from dataclasses import dataclass
from typing import Any

import diffusers
import torch

LORA_RANK = 32
OVERHEAD = 2e9
H100 = 0.4 * 989e12


@dataclass(frozen=True)
class Released:
    """A released denoiser: its class and shape in diffusers, tokens of its own clip size, attentions adapted per block.

    guided: forwards per prediction (2 with classifier-free guidance, 1 where it is distilled).
    """

    title: str
    network: str
    shape: dict[str, Any]
    clip: str
    tokens: int
    blocks: int
    width: int
    ffn: int
    attentions: int = 1
    guided: int = 2
    experts: int = 1


def _wan(heads: int, layers: int, ffn: int, channels: int = 16) -> dict[str, Any]:
    return {
        "num_attention_heads": heads,
        "num_layers": layers,
        "ffn_dim": ffn,
        "in_channels": channels,
        "out_channels": channels,
    }


MODELS = (
    Released(
        "Wan 2.1 1.3B", "WanTransformer3DModel", _wan(12, 30, 8960), "81x480x832", 21 * 30 * 52, 30, 1536, 8960, 2
    ),
    Released("Wan 2.1 1.3B", "WanTransformer3DModel", _wan(12, 30, 8960), "33x240x416", 9 * 15 * 26, 30, 1536, 8960, 2),
    Released(
        "Wan 2.1 14B", "WanTransformer3DModel", _wan(40, 40, 13824), "81x480x832", 21 * 30 * 52, 40, 5120, 13824, 2
    ),
    Released(
        "Wan 2.1 VACE 1.3B",
        "WanVACETransformer3DModel",
        _wan(12, 30, 8960) | {"vace_layers": [*range(0, 30, 2)]},
        "81x480x832, 1 reference",
        22 * 30 * 52,
        45,
        1536,
        8960,
        2,
    ),
    Released(
        "Wan 2.2 A14B",
        "WanTransformer3DModel",
        _wan(40, 40, 13824),
        "81x480x832",
        21 * 30 * 52,
        40,
        5120,
        13824,
        2,
        experts=2,
    ),
    Released(
        "Wan 2.2 TI2V-5B",
        "WanTransformer3DModel",
        _wan(24, 30, 14336, 48),
        "121x704x1280",
        31 * 22 * 40,
        30,
        3072,
        14336,
        2,
    ),
    Released("LTX-Video 2B", "LTXVideoTransformer3DModel", {}, "161x512x704", 21 * 16 * 22, 28, 2048, 8192, 2),
    Released(  # two attentions of the picture, two of the sound, and two between, of half its width
        "LTX-2",
        "LTX2VideoTransformer3DModel",
        {},
        "121x512x768",
        16 * 16 * 24 + 126,
        48,
        4096,
        16384,
        4,
    ),
    Released("CogVideoX 2B", "CogVideoXTransformer3DModel", {}, "49x480x720", 13 * 30 * 45 + 226, 30, 1920, 7680),
    Released(
        "CogVideoX 5B",
        "CogVideoXTransformer3DModel",
        {"num_attention_heads": 48, "num_layers": 42},
        "49x480x720",
        13 * 30 * 45 + 226,
        42,
        3072,
        12288,
    ),
    Released(
        "HunyuanVideo",
        "HunyuanVideoTransformer3DModel",
        {},
        "61x544x960",
        16 * 34 * 60 + 256,
        60,
        3072,
        12288,
        guided=1,
    ),
    Released(
        "HunyuanVideo 1.5",
        "HunyuanVideo15Transformer3DModel",
        {},
        "121x480x848",
        31 * 30 * 53 + 1256,
        54,
        2048,
        8192,
    ),
    Released(
        "Latte",
        "LatteTransformer3DModel",
        {
            "num_attention_heads": 16,
            "attention_head_dim": 72,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 28,
            "cross_attention_dim": 1152,
            "caption_channels": 4096,
            "sample_size": 64,
            "patch_size": 2,
            "attention_bias": True,
            "activation_fn": "gelu-approximate",
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
        },
        "16x512x512",
        16 * 32 * 32,
        56,
        1152,
        4608,
    ),
    Released("Mochi 1", "MochiTransformer3DModel", {}, "85x480x848", 15 * 30 * 53, 48, 3072, 8192),
)


def parameters(model: Released) -> int:
    """Of one denoiser."""
    with torch.device("meta"):
        network = getattr(diffusers, model.network)(**model.shape)
    return sum(value.numel() for value in network.parameters())


def lora_numbers(model: Released) -> int:
    """Trained numbers of a LoRA on q, k, v and out of every attention."""
    return model.blocks * model.attentions * 4 * 2 * LORA_RANK * model.width * model.experts


def activations(model: Released) -> float:
    """Bytes of one clip in a training forward with gradient checkpointing, bf16."""
    kept = model.blocks * model.tokens * model.width * 2
    opened = model.tokens * (16 * model.width + 3 * model.ffn) * 2
    return kept + opened


def forward_work(model: Released, count: int) -> float:
    """Floating-point operations of one forward of one clip."""
    return 2.0 * count * model.tokens + 4.0 * model.tokens**2 * model.width * model.blocks


def fits(size: float) -> str:
    """The smallest of the usual cards that holds `size` bytes."""
    return next((f"{card} GB" for card in (24, 48, 80, 141) if size < card * 1e9 * 0.95), "several cards")


def main() -> None:
    head = "model | clip | tokens | parameters | weights bf16 | LoRA state | one clip | LoRA needs | with int8 base | "
    print(f"| {head}with nf4 base | full needs | s / forward, H100 |")
    print("|" + "---|" * 12)
    for model in MODELS:
        count = parameters(model)
        numbers, state, clip = count * model.experts, 16.0 * lora_numbers(model), activations(model)
        needs = [size * numbers + state + clip + OVERHEAD for size in (2.0, 1.0, 0.56)]
        needs.append(16.0 * numbers + clip + OVERHEAD)
        cells = [
            model.title,
            model.clip,
            f"{model.tokens:,}",
            f"{numbers / 1e9:.2f} B",
            f"{2.0 * numbers / 1e9:.1f} GB",
        ]
        cells += [f"{state / 1e9:.2f} GB", f"{clip / 1e9:.1f} GB"]
        cells += [f"{size / 1e9:.0f} GB: {fits(size)}" for size in needs]
        cells.append(f"{forward_work(model, count) / H100:.2f}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
