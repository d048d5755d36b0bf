"""How a generator is loaded: precision, place, memory savers and clip size. Importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

WEIGHTS = Path(__file__).parent / "weights"  # what ships


@dataclass(frozen=True)
class ModelOptions:
    """Every field is an option of `generate` and `align` under its own name; the memory savers are for hub models."""

    dtype: str = field(
        default="auto",
        metadata={"help": "float32, bfloat16, float16, or auto: bfloat16 where the hardware computes in it"},
    )
    device: str = field(default="auto", metadata={"help": "cpu, cuda, cuda:1, ..., or auto: a GPU if there is one"})
    offload: Literal["none", "model", "sequential"] = field(
        default="none",
        metadata={
            "help": "keep parts in CPU memory until they are needed: model = codec and text encoders, "
            "sequential = the transformer too, layer by layer (sampling only, slow)"
        },
    )
    vae_tiling: bool = field(default=False, metadata={"help": "decode in overlapping tiles: less memory, faint seams"})
    attention: str | None = field(
        default=None, metadata={"help": "attention backend of diffusers, as flash, sage or xformers; default: torch's"}
    )
    quantize: Literal["none", "int8", "nf4"] = field(
        default="none",
        metadata={"help": "hold the base weights in 8 bits (torchao) or 4 (bitsandbytes); LoRA on top stays fp32"},
    )
    context_parallel: int = field(
        default=1,
        metadata={"help": "processes that share the tokens of every clip, for clips too large for one GPU (Wan alone)"},
    )
    num_frames: int | None = field(default=None, metadata={"help": "frames per clip; the model's own by default"})
    height: int | None = field(default=None, metadata={"help": "pixels; the model's own by default"})
    width: int | None = field(default=None, metadata={"help": "pixels; the model's own by default"})

    @classmethod
    def of(cls, options: Any) -> ModelOptions:
        """Those fields of a command's options that are about the model."""
        return cls(**{one.name: getattr(options, one.name) for one in fields(cls)})
