"""From a folder or a hub id to a `HubGenerator`, with every bad input told in one line.

A folder is looked at before anything heavy is loaded: its model_index.json says which family it is and which parts it
should have. The network is used for hub ids only, and only here.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from base_model.hub import PIPELINES
from base_model.options import ModelOptions
from base_model.protocol import VideoSize
from core.errors import UserError, first_line
from core.registry import resolve, unknown

if TYPE_CHECKING:
    import torch

    from base_model.hub.generator import HubGenerator

INDEX = "model_index.json"
DTYPES = ("auto", "float32", "bfloat16", "float16")
OWN = "SoralignPipeline"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(model: str) -> bool:
    """True for ORGANISATION/NAME; whether it exists, only the hub knows."""
    return _HUB_ID.fullmatch(model) is not None


def download(model: str) -> Path:
    """The folder of a hub model in the local cache, downloaded if need be.

    Raises: UserError if the hub cannot be reached and the cache lacks the model, or it is unknown, gated, no pipeline.
    """
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    cached = not _hub_answers()
    try:
        folder = Path(hf_hub_download(model, INDEX, local_files_only=cached)).parent
        check(folder, model)  # before gigabytes of a model that no family here runs
        return Path(DiffusionPipeline.download(model, local_files_only=cached))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise UserError(
            f"'{model}' is a hub id, this machine is offline and its cache lacks the model; copy the model's folder "
            "here and give its path"
        ) from error
    except GatedRepoError as error:
        raise UserError(
            f"'{model}' is gated: accept its licence on huggingface.co, then `hf auth login` on this machine"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"'{model}' is neither a folder here nor a model on the hub that this machine may see; check the spelling"
        ) from error
    except EntryNotFoundError as error:
        raise UserError(
            f"'{model}' is on the hub but has no {INDEX}: choose its diffusers version, usually named '...-Diffusers'"
        ) from error
    except HfHubHTTPError as error:
        raise UserError(f"the hub refused '{model}': {first_line(error)}") from error


def _hub_answers() -> bool:
    """Whether the hub's name is known here: offline, huggingface_hub would ask six times in half a minute."""
    from huggingface_hub.constants import ENDPOINT

    if getproxies():
        return True  # who looks names up for us
    try:
        socket.getaddrinfo(urlsplit(ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def family_of(folder: Path, model: str) -> str:
    """The pipeline class that a folder says it holds. Raises: UserError if it holds no pipeline."""
    index = folder / INDEX
    if not index.is_file():
        if (folder / "config.json").is_file():
            part = _read_json(folder / "config.json").get("_class_name", "a model")
            raise UserError(
                f"'{model}' holds one part ({part}), not a pipeline; give the folder above it, with {INDEX}"
            )
        raise UserError(f"no model at '{model}': a saved pipeline has a {INDEX}")
    name = _read_json(index).get("_class_name")
    if not isinstance(name, str):
        raise UserError(f"the model at '{model}' cannot be loaded: its {INDEX} names no pipeline class; copy it again")
    return name


def check(folder: Path, model: str) -> str:
    """The pipeline class of a folder that a family here can run. Raises: UserError otherwise."""
    name = family_of(folder, model)
    if name not in PIPELINES:
        raise unknown(name, PIPELINES, f"the model at '{model}' cannot be loaded: pipeline")
    return name


def load(folder: Path, model: str, options: ModelOptions, prompts: Sequence[str] | None) -> HubGenerator:
    """The pipeline saved in `folder`, frozen; see `base_model.load`."""
    import torch
    from diffusers import DiffusionPipeline

    from base_model.hub.generator import HubGenerator
    from base_model.hub.parallel import share_tokens

    if options.context_parallel < 1:
        raise UserError(f"context_parallel is {options.context_parallel}, it must be 1 or more")
    name = check(folder, model)
    kind = resolve(PIPELINES, name, "pipeline")
    _check_parts(folder, model, name)
    device, dtype = place(options.device), precision(options.dtype, place(options.device))
    _check_quantize(options, device)
    try:
        # bitsandbytes puts what it quantises on the current GPU, whichever we mean
        with without_progress_bars(), torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            pipeline = DiffusionPipeline.from_pretrained(
                str(folder),
                dtype={"default": dtype} | dict.fromkeys(kind.exact_parts, torch.float32),
                variant=_variant(folder),
                quantization_config=_quantization(options.quantize, folder, dtype),
                local_files_only=True,
            )
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes diffusers trip over, from TypeError to SafetensorError
        raise UserError(f"the model at '{model}' cannot be loaded: {first_line(error)}") from error
    family = kind(pipeline)
    for part in pipeline.components.values():
        if hasattr(part, "requires_grad_"):
            part.eval().requires_grad_(False)
    if options.guidance_2 is not None and len(family.networks) == 1:
        raise UserError(f"guidance_2 is for models with a second expert (Wan 2.2 A14B); '{model}' has none")
    if options.control_scale != 1.0:
        if family.grid.references is None:
            raise UserError(
                f"control_scale is for models with a branch for what is given (Wan VACE); '{model}' has none"
            )
        family = replace(family, control_scale=options.control_scale)
    _save_memory(family, options)
    own = family.size
    size = VideoSize(options.num_frames or own.num_frames, options.height or own.height, options.width or own.width)
    if options.context_parallel > 1:
        share_tokens(family, size, options.context_parallel)
    generator = HubGenerator(
        family,
        model,
        size,
        device,
        dtype,
        park=options.offload != "none",
        team=options.context_parallel,
        guidance_2=options.guidance_2,
    )
    if prompts is not None:
        generator.release_text_encoders(prompts)
    _put(family, options.offload, device)  # not before: text encoders may need all the memory there is
    return generator


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Inside, diffusers and transformers show none while they read or write files."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in (diffusers_logging, transformers_logging):
            library.enable_progress_bar()


def place(device: str) -> torch.device:
    """The device of that name; "auto" is this process's GPU if there is one. Raises: UserError if it is not there."""
    import torch

    if device == "auto":
        return (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except Exception as error:
        count = torch.cuda.device_count()
        there = ", ".join(["cpu", *(f"cuda:{index}" for index in range(count))])
        raise UserError(f"device '{device}' is not on this machine; there is {there}") from error
    return chosen


def precision(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of that name. Raises: UserError if it is unknown or the device does not compute in it."""
    import torch

    from base_model.native import fast_dtype

    if dtype not in DTYPES:
        raise unknown(dtype, DTYPES, "dtype")
    if dtype == "auto":
        return fast_dtype()
    if dtype == "float16" and device.type == "cpu":
        raise UserError("dtype 'float16' is for GPUs; a CPU computes in float32 or bfloat16")
    if dtype == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(f"dtype 'bfloat16' is beyond {torch.cuda.get_device_name(device)}; use float16 or float32")
    return getattr(torch, dtype)  # type: ignore[no-any-return]


def _save_memory(family: Any, options: ModelOptions) -> None:
    """Tiling and attention of a loaded pipeline."""
    vae = family.pipeline.vae
    if options.vae_tiling:
        vae.enable_tiling()
    if hasattr(vae, "enable_slicing"):
        vae.enable_slicing()  # one clip of a batch at a time: the same frames for less memory
    if options.attention is not None:
        for network in family.networks.values():
            _choose_attention(network, options.attention, family.title)


def _put(family: Any, offload: str, device: torch.device) -> None:
    """Networks and codec on `device`, or where `offload` keeps them."""
    from accelerate import cpu_offload

    for network in family.networks.values():
        if offload == "sequential":
            cpu_offload(network, device)
        else:
            network.to(device)
    if offload == "none":
        family.pipeline.vae.to(device)


def _choose_attention(network: Any, backend: str, family: str) -> None:
    """Raises: UserError for a backend that is not there, and a network whose attention takes none."""
    try:
        network.set_attention_backend(backend)
    except Exception as error:
        raise UserError(f"attention '{backend}' cannot be used: {first_line(error)}") from error
    if not any(getattr(getattr(part, "processor", None), "_attention_backend", None) for part in network.modules()):
        raise UserError(
            f"attention '{backend}' does nothing for {family}: its attention in diffusers is always torch's"
        )


def _check_quantize(options: ModelOptions, device: torch.device) -> None:
    """Raises: UserError if the library for `quantize` is missing, or the weights cannot be held so."""
    quantize = options.quantize
    if quantize == "none":
        return
    library = {"int8": "torchao", "nf4": "bitsandbytes"}[quantize]
    if find_spec(library) is None:
        raise UserError(f"quantize '{quantize}' needs the package {library}: pip install 'soralign[quantize]'")
    if quantize == "nf4" and device.type == "cpu":
        raise UserError("quantize 'nf4' is for GPUs; a CPU takes 'int8'")
    if options.offload == "sequential":
        raise UserError(f"quantize '{quantize}' with offload 'sequential': quantised layers stay whole; use 'model'")


def _quantization(quantize: str, folder: Path, dtype: torch.dtype) -> Any:
    """What diffusers is to do to the linear layers of the denoisers in `folder`, or None."""
    if quantize == "none":
        return None
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig, TorchAoConfig

    from base_model.lora import EXPERT_FILE_NAMES

    def config() -> Any:
        if quantize == "nf4":
            return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())

    networks = [name for name in EXPERT_FILE_NAMES if (folder / name).is_dir()]
    return PipelineQuantizationConfig(quant_mapping={name: config() for name in networks})


def _check_parts(folder: Path, model: str, pipeline: str) -> None:
    """Raises: UserError if a part that model_index.json names is not there whole, or is of another family."""
    import diffusers

    types = getattr(diffusers, pipeline)._get_signature_types()
    for name, entry in _read_json(folder / INDEX).items():
        named = isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)
        if not named:
            continue
        if not (folder / name).is_dir():
            raise UserError(f"the model at '{model}' lacks its part '{name}' ({entry[1]}); copy or download it again")
        meant = [kind.__name__ for kind in types.get(name, ()) if kind is not type(None)]
        if name in ("transformer", "vae") and entry[1] not in meant:
            raise UserError(
                f"the model at '{model}' says it is a {pipeline}, but its part '{name}' is {entry[1]}, not "
                f"{' or '.join(meant)}; its {INDEX} is of another model"
            )
        if (folder / name / "config.json").is_file():
            _check_part(folder / name, model, entry[1])


def _check_part(part: Path, model: str, named: str) -> None:
    """Raises: UserError if the folder of a network holds another class than `named`, or not all of its weights.

    A name that diffusers does not know is the network's from before it was part of it, and is none of our business.
    """
    import diffusers

    held = str(_read_json(part / "config.json").get("_class_name", named))
    if held != named and hasattr(diffusers, held):
        raise UserError(
            f"the model at '{model}' says that its part '{part.name}' is {named}, but that folder holds {held}; put "
            "the right one there"
        )
    there = {file.name for file in part.iterdir() if file.suffix in (".safetensors", ".bin")}
    indexes = [_read_json(file).get("weight_map", {}) for file in part.glob("*.safetensors.index.json")]
    sharded = [set(files.values()) for files in indexes]
    if not there - set().union(*sharded) and not any(files <= there for files in sharded):
        lacking = sorted(set().union(*sharded) - there)
        raise UserError(
            f"the model at '{model}' lacks weights of its part '{part.name}'{f' ({lacking[0]})' if lacking else ''}; "
            "copy or download it again"
        )


def _variant(folder: Path) -> str | None:
    """The variant of the weights ("fp16") where the plain ones are not there; None means plain."""
    names = [file.name for file in (folder / "transformer").glob("diffusion_pytorch_model*.safetensors")]
    variants = {
        match[1] for name in names if (match := re.search(r"\.([a-z]\w*?)(?:-\d+-of-\d+)?\.safetensors$", name))
    }
    plain = [name for name in names if re.fullmatch(r"diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors", name)]
    return None if plain or not variants else sorted(variants)[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the model cannot be loaded: '{path}' is not JSON ({error}); copy it again") from error
    return values if isinstance(values, dict) else {}
