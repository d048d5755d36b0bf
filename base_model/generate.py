"""`soralign generate`: which ability the options ask for, what they give it, and the video set it leaves.

COMBINATIONS is the table of abilities: the options that name what is given and what is wanted, and the function that
draws. Files are read, sizes and options checked before the model draws anything, so that bad input costs no time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from base_model.options import ModelOptions
from base_model.sets import write_set
from core import prompts as prompt_file
from core import video
from core.cli import option, parse, required
from core.errors import UserError
from core.files import atomic_write
from core.prompts import Prompt
from core.randomness import seed_for

if TYPE_CHECKING:
    from torch import Tensor

    from base_model.given import Request
    from base_model.protocol import Generator
    from base_model.sampler import Sampling
    from base_model.starts import Starts

SETTINGS = "generate.json"
MOST = 86_400  # new frames: an hour at 24 a second


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
    num_steps: int | None = option(None, "denoising steps; left out, this and guidance are the model's own")
    guidance: float | None = option(None, "classifier-free guidance scale; 1 = none, half the cost")
    guidance_from: float | None = option(None, "lowest noise level (0 clean, 1 noise) at which guidance acts")
    guidance_to: float | None = option(None, "highest noise level at which guidance acts")
    negative_prompt: str = option("", "what guidance leads away from")
    solver: str = option("euler", "euler, heun (two forwards a step), dpm++2m, ddim or ddpm (fresh noise each step)")
    eta: float = option(1.0, "ddim: share of the fresh noise, 0 = none to 1 = ddpm")
    batch: int = option(16, "clips per forward")
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


@dataclass(frozen=True)
class Given:
    """What the options name. `clips`, by option: frames [1, time, 3, height, width], for inpaint a hole, bool [time,
    height, width] or [height, width]. `origins`: of each seed, the first seed of its prompt. `starts`: what the prompt
    file gives."""

    config: GenerateConfig
    clips: dict[str, Tensor]
    fps: float
    origins: dict[int, int]
    starts: Starts | None


def generate(argv: list[str]) -> None:
    """Videos from prompts, pictures and other videos."""
    config = parse(GenerateConfig, argv, "soralign generate")
    asked = _asked(config)
    listed = _prompts(config, bool(asked & {"image", "video"}))
    texts = [one.text for one in listed]
    _check_numbers(config)
    _check_used(config, asked)
    if config.offload == "sequential" and (config.lora is not None or config.weights is not None):
        raise UserError(
            "offload 'sequential' can carry neither a LoRA nor other weights; merge first (soralign lora merge) or use "
            "'model'"
        )
    if config.quantize != "none" and config.weights is not None:
        raise UserError(f"quantize '{config.quantize}' cannot carry other weights; leave it out, or train a LoRA")

    import base_model
    from base_model import finetuned, lora
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
    given = _given(config, generator, listed, {seed: seeds[i // count * count] for i, seed in enumerate(seeds)})
    _check_fit(given, generator, asked)
    for line in unread(generator, texts):
        print(f"soralign: {line}", file=sys.stderr)

    def draw(chosen: list[str], own: list[int]) -> Tensor:
        from base_model.given import Request

        return COMBINATIONS[asked](Request(generator, chosen, own, sampling), given)

    _settle(config, asked)
    items = write_set(generator, repeated, seeds, config.out, draw, config.batch, given.fps, config.lora)
    print(f"{len(items)} videos in {config.out}")


# --- the abilities, by what is asked for ------------------------------------------------------------------------------


def _text(request: Request, given: Given) -> Tensor:
    from base_model.sampler import generate_frames

    if given.starts is not None:
        return given.starts.complete(request)
    return generate_frames(request.generator, request.prompts, seeds=request.seeds, sampling=request.sampling)


def _variations(request: Request, given: Given) -> Tensor:
    from base_model import tasks

    return tasks.variations(request, [given.origins[seed] for seed in request.seeds], given.config.strength)


def _image(request: Request, given: Given) -> Tensor:
    from base_model import tasks

    return tasks.image_to_video(request, given.clips["image"], request.generator.size.num_frames)


def _pictures(request: Request, given: Given) -> Tensor:
    from base_model import tasks
    from base_model.starts import Starts, takes_alone

    config, last = given.config, request.generator.size.num_frames - 1
    if takes_alone(request.generator, last):
        ends = ((0, str(config.image)), (last, str(config.end_image)))
        starts = Starts.of(request.generator, [Prompt(text, keyframes=ends) for text in dict.fromkeys(request.prompts)])
        return cast("Starts", starts).complete(request)
    return tasks.interpolate(request, given.clips["image"], given.clips["end_image"], request.generator.size.num_frames)


def _around(request: Request, given: Given) -> Tensor:
    from base_model import tasks

    longer = tasks.extend(request, given.clips["video"], given.config.extend or 0)
    return tasks.prepend(request, longer, given.config.before) if given.config.before else longer


def _rolling(request: Request, given: Given) -> Tensor:
    import torch

    from base_model import tasks

    start = given.clips.get("video", given.clips.get("image"))
    there = [] if start is None else [request.each(start)]
    missing = round((given.config.seconds or 0.0) * given.fps) - sum(part.shape[1] for part in there)
    return torch.cat([*there, *tasks.first_frames(tasks.roll(request, start), missing)], 1)


def _loop(request: Request, given: Given) -> Tensor:
    from base_model import tasks

    clip = given.clips["video"] if given.clips else _text(request, given)
    return tasks.loop(request, clip, given.config.loop or 0)


def _transition(request: Request, given: Given) -> Tensor:
    from base_model import tasks

    return tasks.transition(request, given.clips["video"], given.clips["transition"], given.config.bridge)


def _inpaint(request: Request, given: Given) -> Tensor:
    from base_model import tasks

    strength = given.config.strength if given.config.edit else 1.0
    return tasks.inpaint(request, given.clips["video"], given.clips["inpaint"], strength)


def _edit(request: Request, given: Given) -> Tensor:
    from base_model import tasks

    return tasks.edit(request, given.clips["video"], given.config.strength)


COMBINATIONS: dict[frozenset[str], Callable[[Any, Any], Any]] = {
    frozenset(): _text,
    frozenset({"variations"}): _variations,
    frozenset({"image"}): _image,
    frozenset({"image", "end_image"}): _pictures,
    frozenset({"video", "extend"}): _around,
    frozenset({"video", "before"}): _around,
    frozenset({"video", "extend", "before"}): _around,
    frozenset({"seconds"}): _rolling,
    frozenset({"image", "seconds"}): _rolling,
    frozenset({"video", "seconds"}): _rolling,
    frozenset({"loop"}): _loop,
    frozenset({"video", "loop"}): _loop,
    frozenset({"video", "transition"}): _transition,
    frozenset({"video", "inpaint"}): _inpaint,
    frozenset({"video", "inpaint", "edit"}): _inpaint,
    frozenset({"video", "edit"}): _edit,
}


# --- what is checked before anything is drawn -------------------------------------------------------------------------


def _flags(names: frozenset[str]) -> str:
    ordered = [name for name in GenerateConfig.__dataclass_fields__ if name in names]
    return " ".join("--" + name.replace("_", "-") for name in ordered)


def _asked(config: GenerateConfig) -> frozenset[str]:
    """The options of COMBINATIONS that are set. Raises: UserError for a combination that is none."""
    known = frozenset().union(*COMBINATIONS)
    asked = frozenset(
        name for name in known if getattr(config, name) is not None and getattr(config, name) is not False
    )
    if asked not in COMBINATIONS:
        near = sorted(
            (other for other in COMBINATIONS if other & asked), key=lambda other: (len(other ^ asked), sorted(other))
        )
        raise UserError(
            f"{_flags(asked)} is not an ability; near it are: {', '.join(_flags(other) for other in near[:4])}"
        )
    return asked


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


def _check_used(config: GenerateConfig, asked: frozenset[str]) -> None:
    """Raises: UserError for an option that the ability asked for, or the solver, does not look at."""
    for name, users in (("strength", frozenset({"edit", "variations"})), ("bridge", frozenset({"transition"}))):
        if getattr(config, name) != getattr(GenerateConfig, name) and not asked & users:
            raise UserError(f"{_flags(frozenset({name}))} is for {_flags(users)}; add one of these or leave it out")
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
        batch=config.batch,
    )


def _seeds(config: GenerateConfig, count: int) -> list[int]:
    if config.seeds is None:
        return [seed_for(config.seed, "video", index) for index in range(count)]
    if len(config.seeds) != count:
        raise UserError(f"{len(config.seeds)} --seeds for {count} videos; give one each")
    if len(set(config.seeds)) < count and config.variations is not None:
        raise UserError("--variations needs --seeds that differ")
    return config.seeds


def _given(config: GenerateConfig, generator: Generator, prompts: list[Prompt], origins: dict[int, int]) -> Given:
    """The files that the options name, read and brought to one size. Raises: UserError."""
    clips, fps = {}, generator.fps
    for name in ("image", "end_image", "video", "transition", "inpaint"):
        if (path := getattr(config, name)) is None:
            continue
        frames = _read(path, name, config)
        if name == "video":
            fps = video.probe(path).fps
        if name == "inpaint":
            frames = frames[0].mean(1) > 0.5
            frames = frames[0] if len(frames) == 1 else frames
        clips[name] = frames
    from base_model.starts import Starts

    return Given(config, clips, fps, origins, Starts.of(generator, prompts))


def _read(path: str, name: str, config: GenerateConfig) -> Tensor:
    """Frames [1, time, 3, height, width] of the file that option `name` gives.

    Scaled and cut to --height and --width where they are given; an odd last row or column, which no mp4 can hold, is
    cut off.
    Raises: UserError where it is no picture, or no clip, as the option wants.
    """
    import torch

    frames = torch.from_numpy(video.read(path).frames)
    option = _flags(frozenset({name}))
    if name in ("image", "end_image") and len(frames) > 1:
        raise UserError(f"{option} takes a picture, {path} has {len(frames)} frames; give it as --video")
    if name in ("video", "transition") and len(frames) == 1:
        raise UserError(f"{option} takes a clip, {path} has a single frame; give it as --image")
    if config.height is not None or config.width is not None:
        from base_model.starts import cover

        frames = cover(frames, config.height or frames.shape[2], config.width or frames.shape[3])
    if min(frames.shape[2:]) < 2:
        raise UserError(f"{path} is {frames.shape[2]}x{frames.shape[3]} pixels; at least 2x2 are needed")
    return frames[None, ..., : frames.shape[2] // 2 * 2, : frames.shape[3] // 2 * 2]


def _check_fit(given: Given, generator: Generator, asked: frozenset[str]) -> None:
    """What the abilities would refuse after minutes of drawing. Raises: UserError."""
    if given.starts is not None and asked:
        raise UserError(
            f"the prompts name pictures or clips of their own; leave out {_flags(asked)}, or name none there"
        )
    sizes = {_flags(frozenset({name})): clip.shape[-2:] for name, clip in given.clips.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
        raise UserError(f"sizes differ: {told}; give --height and --width to bring all to one")

    from base_model import tasks

    if asked - {"variations", "video", "edit"}:
        tasks.grid(generator, True)
    if "inpaint" in asked:
        tasks.check_hole(given.clips["video"], given.clips["inpaint"])
    if given.config.loop is not None:
        tasks.check_bridge(generator, given.config.loop)
    if "transition" in asked:
        tasks.check_bridge(generator, given.config.bridge)
    if "end_image" in asked:
        tasks.check_interpolation(generator, generator.size.num_frames)


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


def _settle(config: GenerateConfig, asked: frozenset[str]) -> None:
    """Leave beside the videos how they were drawn, for whoever wants to know and for the next call of this command.

    The manifest says the rest of it for each video. Raises: UserError if the set was drawn otherwise.
    """
    values = {name: getattr(config, name) for name in GenerateConfig.__dataclass_fields__ if name not in _PER_VIDEO}
    for name in ("image", "end_image", "video", "transition", "inpaint"):
        if values[name] is not None:
            values[name] = {"path": values[name], "sha256": video.sha256(values[name])}
    path = Path(config.out) / SETTINGS
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in values if name in before and before[name] != values[name]]
        if other:
            raise UserError(
                f"{config.out} already holds videos drawn with other options ({', '.join(other)}); "
                "choose another folder"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(values, indent=1) + "\n")
