"""What fits which card, and how long a training step takes, counted on the released models' own shapes.

Every network is built without memory (device "meta") at its published configuration and run forward there on a clip of
its size, in bf16. Counted so: its parameters; what autograd keeps for the backward pass, with gradient checkpointing
(the inputs of every block, what lies outside the blocks, and all of the block that is open), once for a LoRA of rank 32
on attention and once for all weights; the numbers of that LoRA. Attention keeps its inputs and its answer, as the fused
kernels do.
Assumed: base weights of 2 bytes (bf16), 1 (int8) or .56 (nf4 with a fp32 scale per 64); 16 bytes per number of a LoRA
(fp32 weight, gradient, Adam), 20 where all weights are trained (and what they were at the start, the reference); 2 GB
for context, fragments and the gradients inside the open block; work = 2 floating-point operations per parameter and
token plus 4 tokens^2 width per block of attention, at 40 % of the card's peak.
Run: `python benchmarks/hub_budget.py` (a minute)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from base_model import lora
from base_model.large import repeated_blocks

LORA_RANK = 32
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
OVERHEAD = 2e9
H100 = 0.4 * 989e12


def _numbers(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


def _inputs(latents: tuple[int, ...], text: tuple[int, int], **beside: Any) -> Callable[[nn.Module], Any]:
    """One forward of most networks: a clip's latents, a timestep and a text [tokens, width]."""
    told = {
        "hidden_states": _numbers(1, *latents),
        "timestep": torch.empty(1, device="meta"),
        "encoder_hidden_states": _numbers(1, *text),
    }
    return lambda network: network(**told | beside, return_dict=False)


def _mask(tokens: int) -> Tensor:
    return torch.ones(1, tokens, device="meta")


def _hunyuan_1_5(tokens: int, text: int) -> Callable[[nn.Module], Any]:
    """Its blocks one after the other: before them it sorts text by what is in its mask."""

    def forward(network: Any) -> Tensor:
        clip, words, rotary = (
            _numbers(1, tokens, 2048),
            _numbers(1, text, 2048),
            torch.empty(tokens, 128, device="meta"),
        )
        for block in network.transformer_blocks:
            clip, words = block(clip, words, _numbers(1, 2048), _mask(text).bool(), (rotary, rotary))
        return clip

    return forward


def _mochi(tokens: int, latents: tuple[int, ...]) -> Callable[[nn.Module], Any]:
    """With places [tokens, heads, numbers] and the count of words made here: "meta" has neither autocast nor values."""
    plain = _inputs(latents, (256, 4096), encoder_attention_mask=_mask(256))

    def forward(network: Any) -> Any:
        network.rope.forward = lambda *rest, **named: (torch.empty(tokens, 24, 64, device="meta"),) * 2
        with patch("torch.nonzero", lambda mask, **named: torch.empty(len(mask), 1, device="meta", dtype=torch.long)):
            return plain(network)

    return forward


def _ltx2(latents: tuple[int, int, int], sound: int) -> Callable[[nn.Module], Any]:
    time, height, width = latents
    level = torch.empty(1, device="meta")
    return _inputs(
        (time * height * width, 128),
        (1024, 3840),
        audio_hidden_states=_numbers(1, sound, 128),
        audio_encoder_hidden_states=_numbers(1, 1024, 3840),
        audio_timestep=level,
        sigma=level,
        num_frames=time,
        height=height,
        width=width,
        fps=24.0,
        audio_num_frames=sound,
    )


@dataclass(frozen=True)
class Released:
    """A released denoiser: its class and shape in diffusers, and one forward of a clip of its size.

    tokens, width, blocks: of its attention, for the work (no blocks: it is linear). experts: networks of this shape.
    """

    title: str
    network: str
    clip: str
    tokens: int
    width: int
    blocks: int
    forward: Callable[[nn.Module], Any]
    shape: dict[str, Any] = field(default_factory=dict)
    experts: int = 1

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return getattr(diffusers, self.network)(**self.shape).to(torch.bfloat16)  # type: ignore[no-any-return]


def _wan(
    title: str, heads: int, layers: int, ffn: int, latents: tuple[int, ...], clip: str, experts: int = 1
) -> Released:
    channels, time, height, width = latents
    shape = {"num_attention_heads": heads, "num_layers": layers, "ffn_dim": ffn}
    shape |= {"in_channels": channels, "out_channels": channels}
    tokens = time * height * width // 4
    forward = _inputs(latents, (512, 4096))
    return Released(title, "WanTransformer3DModel", clip, tokens, heads * 128, layers, forward, shape, experts)


MODELS = (
    _wan("Wan 2.1 1.3B", 12, 30, 8960, (16, 21, 60, 104), "81x480x832"),
    _wan("Wan 2.1 1.3B", 12, 30, 8960, (16, 9, 30, 52), "33x240x416"),
    _wan("Wan 2.1 14B", 40, 40, 13824, (16, 21, 60, 104), "81x480x832"),
    Released(
        "Wan 2.1 VACE 1.3B",
        "WanVACETransformer3DModel",
        "81x480x832, 1 reference",
        22 * 30 * 52,
        1536,
        45,
        _inputs((16, 22, 60, 104), (512, 4096), control_hidden_states=_numbers(1, 96, 22, 60, 104)),
        {
            "num_attention_heads": 12,
            "num_layers": 30,
            "ffn_dim": 8960,
            "in_channels": 16,
            "out_channels": 16,
            "vace_layers": [*range(0, 30, 2)],
        },
    ),
    _wan("Wan 2.2 A14B", 40, 40, 13824, (16, 21, 60, 104), "81x480x832", experts=2),
    _wan("Wan 2.2 TI2V-5B", 24, 30, 14336, (48, 31, 44, 80), "121x704x1280"),
    Released(
        "LTX-Video 2B",
        "LTXVideoTransformer3DModel",
        "161x512x704",
        21 * 16 * 22,
        2048,
        28,
        _inputs(
            (21 * 16 * 22, 128), (128, 4096), encoder_attention_mask=_mask(128), num_frames=21, height=16, width=22
        ),
    ),
    Released(
        "LTX-2", "LTX2VideoTransformer3DModel", "121x512x768", 16 * 16 * 24 + 126, 4096, 48, _ltx2((16, 16, 24), 126)
    ),
    Released(
        "CogVideoX 2B",
        "CogVideoXTransformer3DModel",
        "49x480x720",
        13 * 30 * 45 + 226,
        1920,
        30,
        _inputs((13, 16, 60, 90), (226, 4096)),
    ),
    Released(
        "CogVideoX 5B",
        "CogVideoXTransformer3DModel",
        "49x480x720",
        13 * 30 * 45 + 226,
        3072,
        42,
        _inputs((13, 16, 60, 90), (226, 4096), image_rotary_emb=(torch.empty(13 * 30 * 45, 64, device="meta"),) * 2),
        {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
    ),
    Released(
        "HunyuanVideo",
        "HunyuanVideoTransformer3DModel",
        "61x544x960",
        16 * 34 * 60 + 256,
        3072,
        60,
        _inputs(
            (16, 16, 68, 120),
            (256, 4096),
            encoder_attention_mask=_mask(256),
            pooled_projections=_numbers(1, 768),
            guidance=_numbers(1),
        ),
    ),
    Released(
        "HunyuanVideo 1.5",
        "HunyuanVideo15Transformer3DModel",
        "121x480x848",
        31 * 30 * 53 + 1985,
        2048,
        54,
        _hunyuan_1_5(31 * 30 * 53, 1985),
    ),
    Released(
        "Latte",
        "LatteTransformer3DModel",
        "16x512x512",
        16 * 32 * 32,
        1152,
        56,
        _inputs((4, 16, 64, 64), (120, 4096)),
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
    ),
    Released(
        "Mochi 1",
        "MochiTransformer3DModel",
        "85x480x848",
        15 * 30 * 53,
        3072,
        48,
        _mochi(15 * 30 * 53, (12, 15, 60, 106)),
    ),
    Released(
        "SANA-Video 2B",
        "SanaVideoTransformer3DModel",
        "81x480x832",
        21 * 30 * 52,
        2240,
        0,
        _inputs((16, 21, 60, 104), (300, 2304), encoder_attention_mask=_mask(300)),
    ),
)


class Fused(torch.autograd.Function):
    """Attention as far as memory goes: what a fused kernel keeps for its backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        answer, sums = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, answer, sums)
        return answer


@contextmanager
def kept(known: dict[int, Tensor]) -> Iterator[dict[int, Tensor]]:
    """What autograd keeps inside, one tensor per memory; but for what is `known`."""
    found: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        if (place := _place(value)) not in known:
            found[place] = value
        return value

    with saved_tensors_hooks(keep, lambda value: value):
        yield found


def activations(model: Released, network: nn.Module) -> float:
    """Bytes that a training forward of one clip keeps, with every block's inputs kept and one block open."""
    known = {_place(value): value for value in network.parameters()}
    inputs: dict[int, Tensor] = {}
    opened = [0]

    def checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            inputs.update({_place(one): one for one in tree_leaves((given, named)) if isinstance(one, Tensor)})
            with kept(known | inputs) as inside:
                answer = forward(*given, **named)
            opened[0] = max(opened[0], _bytes(inside))
            return answer

        return run

    for block in repeated_blocks(network):
        block.forward = checkpointed(block.forward)  # type: ignore[method-assign]
    attention = "torch.nn.functional.scaled_dot_product_attention"
    with patch(attention, lambda query, key, value, **rest: Fused.apply(query, key, value)), kept(known) as outside:
        model.forward(network)
    return float(opened[0] + _bytes(outside | inputs))


def _place(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)


def _bytes(values: dict[int, Tensor]) -> int:
    return sum(value.untyped_storage().nbytes() for value in values.values())


def forward_work(model: Released, count: int) -> float:
    """Floating-point operations of one forward of one clip."""
    return 2.0 * count * model.tokens + 4.0 * model.tokens**2 * model.width * model.blocks


def fits(size: float) -> str:
    """The smallest of the usual cards that holds `size` bytes."""
    return next((f"{card} GB" for card in (24, 48, 80, 141) if size < card * 1e9 * 0.95), "several cards")


def main() -> None:
    head = "model | clip | tokens | parameters | weights bf16 | LoRA state | one clip, LoRA | one clip, full | "
    print(f"| {head}LoRA needs | with int8 base | with nf4 base | full needs | s / forward, H100 |")
    print("|" + "---|" * 13)
    for model in MODELS:
        network = model.build()
        count = sum(value.numel() for value in network.parameters())
        whole = activations(model, network.requires_grad_(True))
        adapted = model.build()
        state = (
            16.0
            * model.experts
            * sum(value.numel() for value in lora.attach(adapted, LORA_RANK, LORA_RANK, LORA_TARGETS))
        )
        clip, numbers = activations(model, adapted), count * model.experts
        needs = [size * numbers + state + clip + OVERHEAD for size in (2.0, 1.0, 0.56)]
        needs.append(20.0 * numbers + whole + OVERHEAD)
        cells = [
            model.title,
            model.clip,
            f"{model.tokens:,}",
            f"{numbers / 1e9:.2f} B",
            f"{2.0 * numbers / 1e9:.1f} GB",
        ]
        cells += [f"{state / 1e9:.2f} GB", f"{clip / 1e9:.1f} GB", f"{whole / 1e9:.1f} GB"]
        cells += [f"{size / 1e9:.0f} GB: {fits(size)}" for size in needs]
        cells.append(f"{forward_work(model, count) / H100:.2f}")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
