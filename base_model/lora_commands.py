"""`soralign lora merge|extract|inspect|export`: adapters as files, apart from any run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base_model.options import ModelOptions
from core.cli import option, parse, required, verb
from core.errors import UserError
from core.files import replacing_folder

if TYPE_CHECKING:
    from base_model.protocol import Generator


def lora(argv: list[str]) -> None:
    """Merge, extract, inspect and export LoRA adapters."""
    verb(argv, {"merge": _merge, "extract": _extract, "inspect": _inspect, "export": _export}, "soralign lora")


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    """A model with a LoRA's updates added to its weights, as a pipeline folder that needs no LoRA."""

    lora: str = required("folder of the LoRA")
    out: str = required("folder of the merged pipeline; must not exist")
    model: str = option("sandbox", "generator name, folder or hub id that it was trained on")
    dtype: str = option("auto", "of the merged weights: float32, bfloat16 or auto")


def _merge(argv: list[str]) -> None:
    """A model with the LoRA's updates added to its weights."""
    config = parse(MergeConfig, argv, "soralign lora merge", positional=("lora",))
    out = _new_folder(config.out)

    import base_model
    from base_model import lora as adapters
    from base_model.hub.loading import without_progress_bars

    generator = base_model.load(config.model, ModelOptions(dtype=config.dtype, device="cpu"))
    adapters.load(generator.policy_module(), Path(config.lora))
    adapters.merge(generator.policy_module())
    with replacing_folder(out) as folder, without_progress_bars():
        _pipeline(generator).save_pretrained(folder)
    print(f"merged: {out}")


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """What a fine-tuned model has that its base lacks, as a LoRA of the given rank (the best one, by SVD)."""

    tuned: str = required("folder of the fine-tuned pipeline")
    out: str = required("folder of the LoRA; must not exist")
    model: str = option("sandbox", "generator name, folder or hub id that it started from")
    rank: int = option(32, "width of the updates")
    targets: list[str] = option([], "endings of layer names; empty = every linear layer in the blocks that differs")


def _extract(argv: list[str]) -> None:
    """The difference of two models as a LoRA."""
    config = parse(ExtractConfig, argv, "soralign lora extract", positional=("tuned",))
    if config.rank < 1:
        raise UserError(f"rank is {config.rank}, it must be 1 or more")
    out = _new_folder(config.out)

    import base_model
    from base_model import lora as adapters

    options = ModelOptions(dtype="float32", device="cpu")
    base, tuned = (base_model.load(model, options).policy_module() for model in (config.model, config.tuned))
    left_out = adapters.extract(base, tuned, config.rank, config.targets)
    with replacing_folder(out) as folder:
        adapters.save(base, folder)
    print(f"extracted: {out}  (share of the difference that rank {config.rank} leaves out: {left_out:.3f})")


@dataclass(frozen=True)
class InspectConfig:
    """Rank, scale, layers and size of the updates in a LoRA folder."""

    lora: str = required("folder of the LoRA")


def _inspect(argv: list[str]) -> None:
    """Rank, scale, layers and size of a LoRA's updates."""
    config = parse(InspectConfig, argv, "soralign lora inspect", positional=("lora",))
    from base_model import lora as adapters

    folder = Path(config.lora)
    names = [name for name in adapters.EXPERT_FILE_NAMES.values() if (folder / name).is_file()]
    for name in names or [adapters.FILE_NAME]:
        weights, metadata = adapters.read(folder / name)
        norms = adapters.update_norms(weights, metadata)
        alpha = metadata.get("lora_alpha")
        rank = len(next(value for key, value in weights.items() if key.endswith(".lora_A.weight")))
        count = sum(value.numel() for value in weights.values())
        print(f"{folder / name}")
        print(
            f"  rank {metadata.get('r', rank)}, alpha {alpha if alpha is not None else f'not stored, {rank} assumed'}"
        )
        if network := adapters.network_of(metadata):
            print(f"  trained on a {network}")
        print(f"  {len(norms)} layers, {count:,} numbers")
        for kind in sorted({adapters.ending(layer) for layer in norms}):
            sizes = [norm for layer, norm in norms.items() if adapters.ending(layer) == kind]
            print(f"  {kind:<12} {len(sizes):>4} layers, size of the update {min(sizes):.3g} to {max(sizes):.3g}")
        if not any(norms.values()):
            print("  all updates are zero: this LoRA changes nothing")


@dataclass(frozen=True)
class ExportConfig:
    """The adapters of a run with a model card beside them, ready to be shared."""

    run: str = required("run folder of `soralign align`")
    out: str = required("folder to write; must not exist")
    step: int | None = option(None, "training step of the checkpoint; the newest by default")
    compare: str | None = option(None, "compare.json of `soralign compare BASE ALIGNED`, for the evaluation table")


def _export(argv: list[str]) -> None:
    """A run's adapters with a model card beside them."""
    import shutil

    import yaml

    from base_model import lora as adapters
    from base_model.card import loading_lines, model_card
    from core.run import step_of

    config = parse(ExportConfig, argv, "soralign lora export", positional=("run",))
    out, run = _new_folder(config.out), Path(config.run)
    if not (run / "config.yaml").is_file():
        raise UserError(f"no run at '{run}': a run folder has a config.yaml")
    there = {step_of(folder): folder for folder in (run / "checkpoints").glob("step-*") if (folder / "lora").is_dir()}
    step = max(there, default=0) if config.step is None else config.step
    if step not in there:
        raise UserError(
            f"'{run}' has no checkpoint of step {step}; it has: {', '.join(map(str, sorted(there))) or '-'}"
        )
    description = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    network = adapters.network_of(adapters.read(there[step] / "lora" / adapters.FILE_NAME)[1])
    with replacing_folder(out) as folder:
        shutil.copytree(there[step] / "lora", folder, dirs_exist_ok=True)
        experts = sum((folder / name).is_file() for name in adapters.EXPERT_FILE_NAMES.values())
        card = model_card(description, step, _comparison(config.compare), loading_lines(network, experts))
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"exported: {out}")


def _comparison(path: str | None) -> dict[str, Any]:
    """The metrics of a compare.json; none without a path."""
    if path is None:
        return {}
    try:
        return dict(json.loads(Path(path).read_text(encoding="utf-8"))["metrics"])
    except FileNotFoundError:
        raise UserError(f"no comparison at '{path}'; `soralign compare` writes compare.json") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is not a compare.json of `soralign compare` ({error})") from error


def _new_folder(path: str) -> Path:
    folder = Path(path)
    if folder.exists():
        raise UserError(f"'{folder}' exists already; choose another --out")
    return folder


def _pipeline(generator: Generator) -> Any:
    """The diffusers pipeline around a generator."""
    from base_model.hub.generator import HubGenerator
    from base_model.native import NativeGenerator

    if isinstance(generator, HubGenerator):
        return generator.model.pipeline
    if isinstance(generator, NativeGenerator):
        from diffusers import FlowMatchEulerDiscreteScheduler

        from base_model.pipeline import SoralignPipeline

        scheduler = FlowMatchEulerDiscreteScheduler(shift=generator.shift)
        return SoralignPipeline(generator.vae, generator.transformer, generator.clip, scheduler)
    raise TypeError(f"{type(generator).__name__} has no pipeline")
