"""How a generator is loaded: precision, place, memory savers and clip size. Importable without torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.cli import option, settings_of
from core.errors import UserError

WEIGHTS = Path(__file__).parent / "weights"  # what ships


@dataclass(frozen=True)
class ModelOptions:
    """Every field is an option of `generate` and `align` under its own name; the memory savers are for hub models."""

    dtype: str = option("auto", "float32, bfloat16, float16, or auto: bfloat16 where the hardware computes in it")
    device: str = option("auto", "cpu, cuda, cuda:1, ..., or auto: a GPU if there is one")
    offload: Literal["none", "model", "sequential"] = option(
        "none",
        "keep parts in CPU memory until they are needed: model = codec and text encoders, "
        "sequential = the transformer too, layer by layer (sampling only, slow)",
    )
    vae_tiling: bool = option(False, "decode in overlapping tiles: less memory, faint seams")
    attention: str | None = option(None, "attention backend of diffusers, as flash, sage or xformers; default: torch's")
    quantize: Literal["none", "int8", "nf4"] = option(
        "none", "hold the base weights in 8 bits (torchao) or 4 (bitsandbytes); LoRA on top stays fp32"
    )
    context_parallel: int = option(
        1, "processes that share the tokens of every clip, for clips too large for one GPU (Wan, LTX-Video)"
    )
    guidance_2: float | None = option(
        None, "guidance of Wan 2.2's expert for low noise, where guidance is above 1; left out, it is the same"
    )
    control_scale: float = option(
        1.0, "how strongly a Wan VACE follows references, control clips and given frames; 1 = as it was trained"
    )
    num_frames: int | None = option(None, "frames per clip; the model's own by default")
    height: int | None = option(None, "pixels; the model's own by default")
    width: int | None = option(None, "pixels; the model's own by default")

    def __post_init__(self) -> None:
        for name in ("num_frames", "height", "width"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} is {value}, it must be 1 or more")
        for name in ("guidance_2", "control_scale"):
            if (scale := getattr(self, name)) is not None and not 0.0 <= scale < math.inf:
                raise UserError(f"{name} is {scale}, it must be a number from 0 on")

    @classmethod
    def of(cls, options: Any) -> ModelOptions:
        """Those fields of a command's options that are about the model."""
        return settings_of(cls, options)


def saved_class(folder: str | Path, part: str) -> str:
    """Name of the class that was saved in `folder`; `part` says in words what is looked for.

    Raises: UserError where there is none.
    """
    try:
        return str(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"no {part} at '{folder}': a saved one has a config.json that names its class") from None
