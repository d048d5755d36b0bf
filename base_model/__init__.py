"""Makes videos: the sandbox world, the native generator, and the way to any other.

GENERATORS maps a name to what loads it; a folder holding a saved pipeline is loaded by its path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from base_model.protocol import Generator

GENERATORS = {
    "sandbox": "base_model.native:sandbox",
    "nano": "base_model.native:nano",
}


def load(model: str, dtype: str = "auto") -> Generator:
    """A generator by name or folder.

    Args:
        dtype: "float32", "bfloat16", or "auto" for bf16 where the processor computes in it.
    Raises: UserError for an unknown name (near names listed) or a folder that is not a model.
    """
    from core.registry import resolve

    if Path(model).is_dir():
        from base_model import native

        return native.load(model, dtype)
    return resolve(GENERATORS, model, "model")(dtype)
