"""`soralign generate`: which ability the options ask for, what they give it, and the video set it leaves.

COMBINATIONS is the table of abilities: the options that name what is given and what is wanted, and the function of
`asked` that draws. Files are read, sizes and options checked before the model draws anything, so that bad input costs
no time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base_model.options import ModelOptions
from base_model.sets import settle, write_set
from core import prompts as prompt_file
from core import video
from core.cli import option, parse, required
from core.errors import UserError
from core.prompts import Prompt
from core.randomness import seed_for

if TYPE_CHECKING:
    from torch import Tensor

    from base_model.protocol import Generator
    from base_model.sampler import Sampling

SETTINGS = "generate.json"
MOST = 86_400  # clips of a prompt, or frames that are new: an hour at 24 a second


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(ModelOptions):
    """Videos from prompts, pictures and other videos, as a video set. Run again, it adds only what is missing."""

    out: str = required("folder of the video set")
    model: str = option("sandbox", "generator name, folder or hub id")
    lora: str | None = option(None, "folder of LoRA adapters to put on the model")
    weights: str | None = option(None, "`model` folder of a checkpoint that was trained with adapter: full")
    prompts: str | None = option(
        None,
        "text file, one prompt a line, or .jsonl with prompt and what its clips are made from: image, video, "
        "keyframes, edit, references or control",
    )
    prompt: str | None = option(None, "a single prompt, instead of a file; may be left out where something is given")
    num_per_prompt: int = option(1, "clips per prompt, each from its own seed")
    seed: int = option(0, "everything random derives from it; equal seeds pair up across models")
    seeds: list[int] | None = option(None, "the videos' own seeds, one each, as the manifest names them")
    num_steps: int | None = option(None, "denoising steps; left out, these and all of guidance are the model's own")
    guidance: float | None = option(None, "classifier-free guidance scale; 1 = none, half the cost")
    guidance_from: float | None = option(None, "lowest noise level (0 clean, 1 noise) at which guidance acts")
    guidance_to: float | None = option(None, "highest noise level at which guidance acts")
    negative_prompt: str = option("", "what guidance leads away from")
    solver: str = option("euler", "euler, heun (two forwards a step), dpm++2m, ddim or ddpm (fresh noise each step)")
    eta: float = option(1.0, "ddim: share of the fresh noise, 0 = none to 1 = ddpm")
    batch: int | None = option(None, "clips per forward; default: 16 of our own models, 1 of hub models")
    image: str | None = option(None, "a picture, the first frame")
    end_image: str | None = option(None, "a picture that the clip from --image arrives at, in its last four frames")
    video: str | None = option(None, "a clip, for the options that follow")
    extend: int | None = option(None, "frames to add after --video")
    before: int | None = option(None, "frames to add before --video")
    loop: int | None = option(None, "frames (4k) that lead back to the start, of --video or of what the prompt gives")
    transition: str | None = option(None, "a second clip that --video leads over to, in --bridge frames")
    bridge: int = option(8, "frames (4k) between the clips of --transition")
    inpaint: str | None = option(None, "a picture or video, white where --video is made anew (with --edit: changed)")
    edit: bool = option(False, "draw --video again, to the prompt, from noise level --strength")
    variations: int | None = option(None, "clips per prompt that vary the first of them by --strength")
    strength: float = option(
        prompt_file.STRENGTH, "how far --edit and --variations go: 0 changes nothing, 1 everything"
    )
    seconds: float | None = option(None, "length by rolling extension, from the prompt, --image or --video")


def generate(argv: list[str]) -> None:
    """Videos from prompts, pictures and other videos."""
    config = parse(GenerateConfig, argv, "soralign generate")
    wanted = _wanted(config)
    listed = _prompts(config, bool(wanted & {"image", "video"}))
    texts = [one.text for one in listed]
    _check_numbers(config)
    _check_used(config, wanted)
    if config.offload == "sequential" and (config.lora is not None or config.weights is not None):
        raise UserError(
            "offload 'sequential' can carry neither a LoRA nor other weights; merge first (soralign lora merge) or use "
            "'model'"
        )
    if config.quantize != "none" and config.weights is not None:
        raise UserError(f"quantize '{config.quantize}' cannot carry other weights; leave it out, or train a LoRA")

    import base_model
    from base_model import asked, finetuned, lora
    from base_model.given import Request
    from base_model.sampler import Sampling

    _sampling(config, Sampling(guidance=2.0))  # bad numbers are told before the model is loaded
    count = config.variations or config.num_per_prompt
    repeated = [text for text in texts for _ in range(count)]
    seeds = _seeds(config, len(repeated))
    generator = base_model.load(config.model, ModelOptions.of(config), prompts=[*texts, config.negative_prompt])
    if config.weights is not None:
        finetuned.load(generator.policy_module(), Path(config.weights))
        generator.name = config.weights
    if config.lora is not None:
        lora.load(generator.policy_module(), Path(config.lora))
    sampling = _sampling(config, generator.usual)
    config = replace(
        config,
        num_steps=sampling.num_steps,
        guidance=sampling.guidance,
        guidance_from=sampling.guidance_interval[0],
        guidance_to=sampling.guidance_interval[1],
    )
    given = asked.read(config, generator, listed, {seed: seeds[i // count * count] for i, seed in enumerate(seeds)})
    asked.check_fit(given, generator, wanted)
    for line in unread(generator, texts):
        print(f"soralign: {line}", file=sys.stderr)

    def draw(chosen: list[str], own: list[int]) -> Tensor:
        return getattr(asked, COMBINATIONS[wanted])(Request(generator, chosen, own, sampling), given)

    settle(Path(config.out) / SETTINGS, _settings(config))
    items = write_set(generator, repeated, seeds, config.out, draw, sampling.batch, given.fps, config.lora)
    print(f"{len(items)} videos in {config.out}")


# --- the abilities, by what is asked for ------------------------------------------------------------------------------

COMBINATIONS: dict[frozenset[str], str] = {
    frozenset(): "text",
    frozenset({"variations"}): "variations",
    frozenset({"image"}): "image",
    frozenset({"image", "end_image"}): "pictures",
    frozenset({"video", "extend"}): "around",
    frozenset({"video", "before"}): "around",
    frozenset({"video", "extend", "before"}): "around",
    frozenset({"seconds"}): "rolling",
    frozenset({"image", "seconds"}): "rolling",
    frozenset({"video", "seconds"}): "rolling",
    frozenset({"loop"}): "loop",
    frozenset({"video", "loop"}): "loop",
    frozenset({"video", "transition"}): "transition",
    frozenset({"video", "inpaint"}): "inpaint",
    frozenset({"video", "inpaint", "edit"}): "inpaint",
    frozenset({"video", "edit"}): "edit",
}
"""Options that are set -> the function of `base_model.asked` that draws."""


# --- what is checked before anything is drawn -------------------------------------------------------------------------


def flags(names: frozenset[str]) -> str:
    """The options of these names as one writes them."""
    ordered = [name for name in GenerateConfig.__dataclass_fields__ if name in names]
    return " ".join("--" + name.replace("_", "-") for name in ordered)


def _wanted(config: GenerateConfig) -> frozenset[str]:
    """The options of COMBINATIONS that are set. Raises: UserError for a combination that is none."""
    known = frozenset().union(*COMBINATIONS)
    wanted = frozenset(
        name for name in known if getattr(config, name) is not None and getattr(config, name) is not False
    )
    if wanted not in COMBINATIONS:
        near = sorted(
            (other for other in COMBINATIONS if other & wanted), key=lambda other: (len(other ^ wanted), sorted(other))
        )
        raise UserError(
            f"{flags(wanted)} is not an ability; near it are: {', '.join(flags(other) for other in near[:4])}"
        )
    return wanted


def _prompts(config: GenerateConfig, may_be_silent: bool) -> list[Prompt]:
    if config.prompts is not None and config.prompt is not None:
        raise UserError("--prompts and --prompt both say what to show; give one of them")
    if config.prompts is not None:
        return prompt_file.read_all(config.prompts)
    if config.prompt is None and not may_be_silent:
        raise UserError("generate needs either --prompts FILE or --prompt TEXT")
    if not (config.prompt or "").strip() and not may_be_silent:
        raise UserError("--prompt is empty; write what the video should show")
    return [Prompt((config.prompt or "").strip())]


def _check_numbers(config: GenerateConfig) -> None:
    for name in ("num_per_prompt", "extend", "before", "loop", "bridge", "variations"):
        value = getattr(config, name)
        if value is not None and not 1 <= value <= MOST:
            raise UserError(f"{name} is {value}, it must be 1 to {MOST}")
    if config.variations is not None and config.num_per_prompt != 1:
        raise UserError("--variations and --num-per-prompt both say how many clips a prompt gets; give one of them")
    if config.seconds is not None and not 0.0 < config.seconds <= 3600.0:
        raise UserError(f"seconds is {config.seconds}, it must be above 0 and at most 3600")
    if not 0.0 <= config.strength <= 1.0:
        raise UserError(f"strength {config.strength} is out of range: 0 (the clip itself) to 1 (nothing of it)")


def _check_used(config: GenerateConfig, wanted: frozenset[str]) -> None:
    """Raises: UserError for an option that the ability asked for, or the solver, does not look at."""
    for name, users in (("strength", frozenset({"edit", "variations"})), ("bridge", frozenset({"transition"}))):
        if getattr(config, name) != getattr(GenerateConfig, name) and not wanted & users:
            raise UserError(f"{flags(frozenset({name}))} is for {flags(users)}; add one of these or leave it out")
    if config.guidance == 1.0 and (config.guidance_from, config.guidance_to) != (None, None):
        raise UserError("--guidance 1 is none, at any noise level; leave out --guidance-from and --guidance-to")
    if config.eta != GenerateConfig.eta and config.solver != "ddim":
        raise UserError(f"--eta is for --solver ddim, and the solver is {config.solver}; leave it out")


def _sampling(config: GenerateConfig, usual: Sampling) -> Sampling:
    """As the options say; what they leave out, as `usual`. Raises: UserError for numbers out of range."""
    low, high = usual.guidance_interval
    return replace(
        usual,
        num_steps=usual.num_steps if config.num_steps is None else config.num_steps,
        guidance=usual.guidance if config.guidance is None else config.guidance,
        guidance_interval=(
            low if config.guidance_from is None else config.guidance_from,
            high if config.guidance_to is None else config.guidance_to,
        ),
        negative_prompt=config.negative_prompt,
        solver=config.solver,  # type: ignore[arg-type]
        eta=config.eta,
        batch=usual.batch if config.batch is None else config.batch,
    )


def _seeds(config: GenerateConfig, count: int) -> list[int]:
    if config.seeds is None:
        return [seed_for(config.seed, "video", index) for index in range(count)]
    if len(config.seeds) != count:
        raise UserError(f"{len(config.seeds)} --seeds for {count} videos; give one each")
    if beyond := [seed for seed in config.seeds if not -(2**63) <= seed < 2**63]:
        raise UserError(f"--seeds {beyond[0]} is no integer of 64 bits, as a manifest holds them")
    if len(set(config.seeds)) < count and config.variations is not None:
        raise UserError("--variations needs --seeds that differ")
    return config.seeds


def unread(generator: Generator, prompts: Sequence[str]) -> list[str]:
    """One line for each prompt that is longer than the native model reads, which says what was cut."""
    from base_model.native import NativeGenerator

    if not isinstance(generator, NativeGenerator):
        return []
    limit = generator.clip.context_length - 2
    return [
        f"prompt {number} is longer than the {limit} tokens that '{generator.name}' reads; cut off: '{rest}'"
        for number, prompt in enumerate(prompts, start=1)
        if (rest := generator.clip.unread(prompt))
    ]


# --- the video set ----------------------------------------------------------------------------------------------------

_PER_VIDEO = ("out", "model", "weights", "lora", "prompts", "prompt", "num_per_prompt", "seed", "seeds", "batch")


def _settings(config: GenerateConfig) -> dict[str, Any]:
    """How the set is drawn; the manifest says the rest of it for each video."""
    values = {name: getattr(config, name) for name in GenerateConfig.__dataclass_fields__ if name not in _PER_VIDEO}
    for name in ("image", "end_image", "video", "transition", "inpaint"):
        if values[name] is not None:
            values[name] = {"path": values[name], "sha256": video.sha256(values[name])}
    return values
