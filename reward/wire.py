"""How videos and scores look on the wire: one fixed layout of bytes, and JSON. Nothing here can run code.

A request body is, in this order:

    4 bytes   magic, b"SRV1"
    4 bytes   length of the header, unsigned, little-endian
    header    JSON in UTF-8: {"dtype": "uint8", "shape": [batch, time, 3, height, width], "prompts": [...]}
    frames    the array, C order, little-endian; uint8 counts 255ths, float16 and float32 are in [0, 1]

A reply is JSON: {"total": [...], "parts": {NAME: [...]}}, null where a score could not be computed. JSON keeps every
bit of a float32, so a remote score equals the local one.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward.protocol import Scores

MAGIC = b"SRV1"
DTYPES = {"uint8": "<u1", "float16": "<f2", "float32": "<f4"}
HEADER_BYTES = 1 << 20  # prompts of a request, at most
PREFIX = struct.Struct("<4sI")


class WireError(ValueError):
    """Bytes that are no request or no reply; its text is one line that can be shown to the other side."""


def pack(frames: Tensor, prompts: Sequence[str], dtype: str = "uint8") -> bytes:
    """A request.

    Args: frames [batch, time, 3, height, width] in [0, 1]; dtype: a key of DTYPES. NaN survives in floats only.
    """
    array = frames.detach().to("cpu", torch.float32).numpy()
    if dtype == "uint8":
        array = np.rint(np.nan_to_num(array).clip(0, 1) * 255)
    header = json.dumps({"dtype": dtype, "shape": list(array.shape), "prompts": list(prompts)}).encode()
    return PREFIX.pack(MAGIC, len(header)) + header + np.ascontiguousarray(array, DTYPES[dtype]).tobytes()


def unpack(body: bytes | bytearray) -> tuple[Tensor, list[str]]:
    """(frames, prompts) of a request. Raises: WireError for anything that `pack` would not have written."""
    if len(body) < PREFIX.size:
        raise WireError(f"{len(body)} bytes are no request")
    magic, length = PREFIX.unpack_from(body)
    if magic != MAGIC:
        raise WireError(f"a request begins with {MAGIC.decode()}, this one with {magic!r}")
    if length > HEADER_BYTES or PREFIX.size + length > len(body):
        raise WireError(f"a header of {length} bytes does not fit; at most {HEADER_BYTES}")
    try:
        header = json.loads(bytes(body[PREFIX.size : PREFIX.size + length]))
        dtype, shape, prompts = DTYPES[header["dtype"]], header["shape"], header["prompts"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise WireError("the header is not JSON with dtype, shape and prompts") from None
    if not _is_shape(shape):
        raise WireError("shape must be [batch, time, 3, height, width], all above 0")
    if not isinstance(prompts, list) or not all(isinstance(one, str) for one in prompts) or len(prompts) != shape[0]:
        raise WireError(f"{shape[0]} videos need as many prompts, each a text")
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if len(body) != PREFIX.size + length + size:
        raise WireError(f"{shape} of {header['dtype']} are {size} bytes, seen {len(body) - PREFIX.size - length}")
    array = np.frombuffer(body, dtype, offset=PREFIX.size + length).reshape(shape).astype(np.float32)
    return torch.from_numpy(array / 255 if header["dtype"] == "uint8" else array), prompts


def _is_shape(shape: Any) -> bool:
    whole = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)
    return whole and len(shape) == 5 and shape[2] == 3


def told(scores: Scores) -> dict[str, Any]:
    """Scores as JSON."""
    return {
        "total": _numbers(scores.total),
        "parts": {name: _numbers(values) for name, values in scores.parts.items()},
    }


def heard(reply: Any, batch: int) -> Scores:
    """Scores of a reply about `batch` videos. Raises: WireError when it is not one."""
    try:
        total, parts = reply["total"], reply["parts"]
        lists = [total, *parts.values()]
        if any(len(values) != batch for values in lists):
            raise WireError(f"the reply has not {batch} scores")
        return Scores(_tensor(total), {str(name): _tensor(values) for name, values in parts.items()})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WireError(str(error) if isinstance(error, WireError) else "the reply holds no scores") from None


def _numbers(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.detach().float().cpu().tolist()]


def _tensor(values: list[float | None]) -> Tensor:
    return torch.tensor([math.nan if value is None else float(value) for value in values])
