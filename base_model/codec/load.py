"""A saved codec by its folder, whichever kind it is."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL

from base_model.codec.frames import FrameCodec
from base_model.codec.quantized import QuantizedVideoCodec
from base_model.codec.vae import CausalVideoVAE
from base_model.options import saved_class
from core.errors import UserError

Saved = CausalVideoVAE | QuantizedVideoCodec | FrameCodec


def load_codec(folder: str | Path, per_frame: bool = False) -> Saved:
    """The codec saved in `folder`, fp32 and frozen; an AutoencoderKL of diffusers becomes a per-frame codec.

    Args:
        per_frame: take the one-frame path of a causal codec for every frame.
    Raises: UserError where there is none, or for a quantised codec per frame.
    """
    known = {kind.__name__: kind for kind in (CausalVideoVAE, QuantizedVideoCodec, FrameCodec, AutoencoderKL)}
    name = saved_class(folder, "codec")
    if name not in known or (per_frame and name == "QuantizedVideoCodec"):
        kind = "per-frame codec" if per_frame else "codec"
        raise UserError(f"'{folder}' holds a {name}, which is no {kind}; known: {', '.join(known)}")
    codec = known[name].from_pretrained(str(folder), low_cpu_mem_usage=False).float().eval().requires_grad_(False)
    is_image_codec = isinstance(codec, AutoencoderKL) or (per_frame and isinstance(codec, CausalVideoVAE))
    return FrameCodec.of(codec) if is_image_codec else codec
