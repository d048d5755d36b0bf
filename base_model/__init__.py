"""Makes videos: the sandbox world, the native generator, and the way to any other.

GENERATORS maps a name to what loads it; a folder holding a saved pipeline is loaded by its path, a model of the hub by
its id. Which family a pipeline belongs to, its model_index.json says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from base_model.options import ModelOptions
from core.errors import UserError

if TYPE_CHECKING:
    from base_model.native import NativeGenerator
    from base_model.protocol import Generator

GENERATORS = {
    "sandbox": "base_model.pipeline:sandbox",
    "nano": "base_model.native:nano",
}


def load(model: str, options: ModelOptions | None = None, prompts: Sequence[str] | None = None) -> Generator:
    """A generator by name, folder or hub id, frozen; the network is used for a hub id only.

    Args:
        prompts: all that will be asked for. A hub model encodes them now and lets go of its text encoders, which may be
            larger than everything else; None keeps them.
    Raises: UserError for an unknown name (near names listed), a folder that is not a model, or options it cannot meet.
    """
    from core.registry import resolve, unknown

    options = options or ModelOptions()
    folder = Path(model)
    if model in GENERATORS:
        return _native(resolve(GENERATORS, model, "model")(options.dtype), options)
    from base_model.hub import loading

    if not folder.is_dir():
        if not loading.is_hub_id(model):
            if len(folder.parts) > 1:
                raise UserError(f"no model at '{model}': there is no such folder")
            raise UserError(f"{unknown(model, GENERATORS, 'model')}, a folder, or a hub id (ORGANISATION/NAME)")
        if folder.parent.is_dir():  # a misspelt path, by its looks: the hub is not asked
            raise UserError(f"no model at '{model}': {folder.parent} has no folder of that name")
        folder = loading.download(model)
    if loading.family_of(folder, model) == loading.OWN:
        from base_model import pipeline

        return _native(pipeline.load(folder, options.dtype, model), options)
    return loading.load(folder, model, options, prompts)


def _native(generator: NativeGenerator, options: ModelOptions) -> Generator:
    """Of the size and in the place that `options` ask for.

    Raises: UserError for what the native model does not have, as memory savers, and a device that is not there.
    """
    from dataclasses import replace

    from torch import nn

    from base_model.hub.loading import place
    from base_model.protocol import VideoSize

    for name in ("offload", "vae_tiling", "attention", "quantize", "context_parallel", "guidance_2", "control_scale"):
        if (asked := getattr(options, name)) != getattr(ModelOptions(), name):
            raise UserError(f"{name} '{asked}' is for hub models; '{generator.name}' does without")
    own = generator.size
    size = VideoSize(options.num_frames or own.num_frames, options.height or own.height, options.width or own.width)
    generator.latent_shape(size)
    device = place(options.device)
    for part in (generator.vae, generator.transformer, generator.clip):
        nn.Module.to(part, device)
    return replace(generator, size=size)
