"""LoRA on any network: attach, switch off, save and load.

One path through peft for the native model and every diffusers transformer (some of those have no `add_adapter` of their
own). Switching the adapters off gives the reference policy for free: the KL term needs no second copy of the model.
Files are diffusers' own (`pytorch_lora_weights.safetensors`) and always carry the adapter metadata: without it a
reader assumes alpha = rank and silently scales the update wrongly. Where two experts share the noise levels (Wan 2.2
A14B) they come as one `nn.ModuleDict`, both are adapted, and the second has a file of its own, as diffusers wants it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from core.errors import UserError

FILE_NAME = "pytorch_lora_weights.safetensors"
PREFIX = "transformer"  # what diffusers calls the denoiser inside a pipeline
EXPERT_FILE_NAMES = {PREFIX: FILE_NAME, "transformer_2": "pytorch_lora_weights_2.safetensors"}


def attach(
    module: nn.Module,
    rank: int,
    alpha: int,
    targets: Sequence[str] = (),
    seed: int = 0,
    *,
    dora: bool = False,
    rslora: bool = False,
) -> list[nn.Parameter]:
    """Freeze `module` and add trainable low-rank updates, which start as an exact no-op (DoRA: but for rounding).

    Args:
        rank: width of the update; alpha: the update is scaled by alpha / rank.
        targets: endings of the module names to adapt, as in peft; empty = every linear layer of the numbered blocks.
        dora: learn direction and length of every weight's columns apart (Liu et al. 2024).
        rslora: scale by alpha / sqrt(rank) instead, so that a larger rank is not held back (Kalajdzievski 2023).
        seed: of the random half of the update (the other half is zero), so that two runs start alike.

    Returns: the trainable parameters, fp32.
    Raises: UserError if no layer matches, or if adapters are attached already.
    """
    if _layers(module):
        raise UserError("this model already carries a LoRA; load the model afresh before attaching another one")
    module.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
        torch.manual_seed(seed)
        for network in experts(module).values():
            chosen = _chosen(network, targets)
            config = LoraConfig(
                r=rank,
                lora_alpha=alpha,
                target_modules=chosen,
                use_dora=dora,
                use_rslora=rslora,
                auto_mapping={"base_model_class": type(network).__name__},
            )
            inject_adapter_in_model(config, network)
    return parameters(module)


def parameters(module: nn.Module) -> list[nn.Parameter]:
    """The adapters' weights in a fixed order, made fp32: updates of 1e-5 vanish in a bf16 weight."""
    found = [value for name, value in module.named_parameters() if ".lora_" in name]
    for value in found:
        value.data = value.data.float()
    return found


@contextmanager
def reference(module: nn.Module) -> Iterator[None]:
    """Inside, the adapters are off and the module is the model it started as; put back even after an exception."""
    active = [layer for layer in _layers(module) if not layer.disable_adapters]
    for layer in active:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in active:
            layer.enable_adapters(True)


def state(module: nn.Module) -> dict[str, Tensor]:
    """The adapters' weights by name; with two experts the name of each stands in front."""
    networks = experts(module)
    own = {name: get_peft_model_state_dict(network) for name, network in networks.items()}
    if len(own) == 1:
        return next(iter(own.values()))
    return {f"{name}.{key}": value for name, weights in own.items() for key, value in weights.items()}


def save(module: nn.Module, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapters to `folder` in diffusers' format, rank and alpha included.

    Args:
        weights: instead of the module's own, named as by `state` (an average, or gathered from shards).
    """
    from diffusers.loaders import CogVideoXLoraLoaderMixin  # the plainest of diffusers' writers: transformer only

    weights = state(module) if weights is None else weights
    networks = experts(module)
    for name, network in networks.items():
        own = weights if len(networks) == 1 else _without_prefix(weights, name)
        CogVideoXLoraLoaderMixin.save_lora_weights(
            folder,
            transformer_lora_layers=dict(own),
            transformer_lora_adapter_metadata=network.peft_config["default"].to_dict(),  # type: ignore[index, union-attr]
            weight_name=EXPERT_FILE_NAMES[name],
        )


def load(module: nn.Module, folder: Path) -> None:
    """Put the adapters in `folder` on `module`, attaching them first where there are none.

    Raises: UserError if the file is missing, broken, or belongs to another model.
    """
    for name, network in experts(module).items():
        _load(network, Path(folder) / EXPERT_FILE_NAMES[name])


def merge(module: nn.Module) -> None:
    """Add the updates to the weights of `module` and take the adapters off: the same model, without LoRA."""
    for network in experts(module).values():
        for name, layer in list(network.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()  # type: ignore[attr-defined]
                parent, _, child = name.rpartition(".")
                setattr(network.get_submodule(parent), child, layer.get_base_layer())
        del network.peft_config


@torch.no_grad()
def extract(base: nn.Module, tuned: nn.Module, rank: int, targets: Sequence[str] = ()) -> float:
    """Put on `base` the LoRA of that rank that comes nearest to `tuned`: the largest singular values per layer.

    Args:
        targets: as for `attach`; empty = every linear layer inside the blocks that differs.
    Returns: the share of the squared difference that the rank leaves out, 0 to 1.
    Raises: UserError if the models differ in their layers or nowhere in their weights.
    """
    networks, others = experts(base), experts(tuned)
    if networks.keys() != others.keys():
        raise UserError(f"the tuned model has {len(others)} experts, the base {len(networks)}: it is not of this base")
    found: dict[str, dict[str, tuple[Tensor, Tensor]]] = {name: {} for name in networks}
    total = missed = 0.0
    for name, network in networks.items():
        for layer in _chosen(network, targets):
            difference = _difference(network, others[name], layer)
            if difference.any():
                down, up = found[name][layer] = _factors(difference, rank)
                total += float(difference.square().sum())
                missed += float((difference - up @ down).square().sum())
    everywhere = sorted({layer for factors in found.values() for layer in factors})
    if not everywhere:
        raise UserError("the two models do not differ in their linear layers: nothing to extract")
    for name, network in networks.items():
        attach(network, rank, rank, list(found[name]) or everywhere)  # a no-op on an expert that is as it was
        weights = get_peft_model_state_dict(network)
        for layer, (down, up) in found[name].items():
            weights |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
        set_peft_model_state_dict(network, weights)
    return missed / total


def _difference(base: nn.Module, tuned: nn.Module, layer: str) -> Tensor:
    """What `tuned` has more in the weight of `layer`, fp32. Raises: UserError if it has no such layer."""
    weights = [dict(network.named_parameters()).get(f"{layer}.weight") for network in (base, tuned)]
    if weights[0] is None or weights[1] is None or weights[0].shape != weights[1].shape:
        raise UserError(f"the tuned model has no layer '{layer}' of the base's shape: it is not of this base")
    return (weights[1] - weights[0]).float()


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(down [rank, in], up [out, rank]) whose product comes nearest to `matrix`; rows beyond its own rank are zero."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    kept = min(rank, len(values))
    root = values[:kept].sqrt()
    down, up = matrix.new_zeros(rank, matrix.shape[1]), matrix.new_zeros(matrix.shape[0], rank)
    down[:kept], up[:, :kept] = root[:, None] * right[:kept], left[:, :kept] * root
    return down, up


def network_of(metadata: Mapping[str, Any]) -> str:
    """Class of the network that a LoRA was attached to; empty where its file does not say, as other programs' do."""
    return str((metadata.get("auto_mapping") or {}).get("base_model_class", ""))


def update_norms(weights: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> dict[str, float]:
    """Size (Frobenius norm) of the update of every layer of a LoRA file, scale included."""
    norms = {}
    for name, down in weights.items():
        if name.endswith(".lora_A.weight"):
            layer, rank = name.removesuffix(".lora_A.weight"), len(down)
            rank = metadata.get("r", rank)
            scale = metadata.get("lora_alpha", rank) / (rank**0.5 if metadata.get("use_rslora") else rank)
            up = weights[f"{layer}.lora_B.weight"].float()
            # ||B A||^2 = trace(A A^T B^T B), without the large product
            norms[layer] = scale * float(((down.float() @ down.float().T) * (up.T @ up)).sum().clamp(min=0).sqrt())
    return norms


def _load(network: nn.Module, path: Path) -> None:
    folder = path.parent
    weights, metadata = read(path)
    layers = [name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")]
    known = {name.replace(".base_layer", "") for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    if missing := sorted(set(layers) - known):
        trained = network_of(metadata)
        raise UserError(
            f"the LoRA in '{folder}' is of another model{f' ({trained})' if trained else ''}: this "
            f"{type(network).__name__} has no layer '{missing[0]}'; put it on the model that it was trained on"
        )
    rank = len(weights[f"{layers[0]}.lora_A.weight"])
    if not _layers(network):
        kind = {option: bool(metadata.get(f"use_{option}", False)) for option in ("dora", "rslora")}
        attach(network, metadata.get("r", rank), metadata.get("lora_alpha", rank), layers, **kind)
    own = get_peft_model_state_dict(network)
    for name in sorted(own.keys() | weights.keys()):
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise UserError(
                f"the LoRA in '{folder}' does not fit the adapters of this model at '{name}' (rank, targets, or a base "
                "of another width)"
            )
    set_peft_model_state_dict(network, weights)


def _chosen(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers to adapt. Raises: UserError if there is none."""
    linear = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    chosen = [
        name
        for name in linear
        if (any(name == ending or name.endswith("." + ending) for ending in targets) if targets else _in_block(name))
    ]
    if not chosen:
        near = ", ".join(sorted({ending(name) for name in linear}))
        raise UserError(
            f"no linear layer of the model is named {', '.join(targets) or 'inside a block'}; endings: {near}"
        )
    return chosen


def ending(layer: str) -> str:
    """What a layer is called in its block, with the number of one in a list: to_q, to_out.0, net.2."""
    parts = layer.split(".")
    return ".".join(parts[-2:] if parts[-1].isdigit() else parts[-1:])


def experts(module: nn.Module) -> dict[str, nn.Module]:
    """The networks of a policy by their names in the pipeline."""
    return dict(module.items()) if isinstance(module, nn.ModuleDict) else {PREFIX: module}


def _without_prefix(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(name + "."): value for key, value in weights.items() if key.startswith(name + ".")}


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, adapter metadata) of a LoRA file, diffusers' prefix taken off. Raises: UserError if it has none."""
    if not path.is_file():
        raise UserError(f"no LoRA at '{path.parent}': it should hold a file {path.name}")
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name.removeprefix(PREFIX + "."): file.get_tensor(name) for name in file.keys()}
            stored = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"the LoRA file '{path}' cannot be read ({error}); save it again") from error
    if not any(name.endswith(".lora_A.weight") for name in weights):
        raise UserError(f"'{path}' holds no LoRA weights (names ending in .lora_A.weight)")
    return weights, {name.removeprefix(PREFIX + "."): value for name, value in stored.items()}


def _layers(module: nn.Module) -> list[BaseTunerLayer]:
    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]


def _in_block(name: str) -> bool:
    return any(part.isdigit() for part in name.split(".")[:-1])
