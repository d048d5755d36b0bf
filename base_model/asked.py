"""What `soralign generate` draws, by what its options ask for: one function each, from a request and what is given.

`generate.COMBINATIONS` says which combination of options is which function. `read` reads the files that the options
name, `check_fit` refuses what does not fit together, before anything is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from base_model import tasks
from base_model.generate import GenerateConfig, flags
from base_model.given import Request
from base_model.hub.generator import HubGenerator
from base_model.protocol import Generator
from base_model.sampler import generate_frames
from base_model.starts import Starts, cover, takes_alone
from core import video
from core.errors import UserError
from core.prompts import Prompt


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


def read(config: GenerateConfig, generator: Generator, prompts: list[Prompt], origins: dict[int, int]) -> Given:
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
    return Given(config, clips, fps, origins, Starts.of(generator, prompts))


def _read(path: str, name: str, config: GenerateConfig) -> Tensor:
    """Frames [1, time, 3, height, width] of the file that option `name` gives.

    Scaled and cut to --height and --width where they are given; an odd last row or column, which no mp4 can hold, is
    cut off.
    Raises: UserError where it is no picture, or no clip, as the option wants.
    """
    frames = torch.from_numpy(video.read(path).frames)
    option = flags(frozenset({name}))
    if name in ("image", "end_image") and len(frames) > 1:
        raise UserError(f"{option} takes a picture, {path} has {len(frames)} frames; give it as --video")
    if name in ("video", "transition") and len(frames) == 1:
        raise UserError(f"{option} takes a clip, {path} has a single frame; give it as --image")
    if config.height is not None or config.width is not None:
        frames = cover(frames, config.height or frames.shape[2], config.width or frames.shape[3])
    if min(frames.shape[2:]) < 2:
        raise UserError(f"{path} is {frames.shape[2]}x{frames.shape[3]} pixels; at least 2x2 are needed")
    return frames[None, ..., : frames.shape[2] // 2 * 2, : frames.shape[3] // 2 * 2]


def check_fit(given: Given, generator: Generator, wanted: frozenset[str]) -> None:
    """What the abilities would refuse after minutes of drawing. Raises: UserError."""
    if given.starts is not None and wanted:
        raise UserError(
            f"the prompts name pictures or clips of their own; leave out {flags(wanted)}, or name none there"
        )
    sizes = {flags(frozenset({name})): clip.shape[-2:] for name, clip in given.clips.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())
        raise UserError(f"sizes differ: {told}; give --height and --width to bring all to one")

    if given.config.negative_prompt and isinstance(generator, HubGenerator) and generator.model.distilled:
        raise UserError(
            f"--negative-prompt does nothing for {generator.model.title}: its guidance is a number that the network is "
            "told, nothing is led away from; leave it out"
        )
    if wanted - {"variations", "video", "edit"}:
        tasks.grid(generator, True)
    if "inpaint" in wanted:
        tasks.check_hole(given.clips["video"], given.clips["inpaint"])
    if given.config.seconds is not None and _missing(given) < 1:
        raise UserError(
            f"--seconds {given.config.seconds:g} at {given.fps:g} frames a second leaves no frame to draw"
            f"{' beyond those that are given' if given.clips else ''}; ask for more"
        )
    if given.config.loop is not None:
        tasks.check_bridge(generator, given.config.loop)
    if "transition" in wanted:
        tasks.check_bridge(generator, given.config.bridge)
    if "end_image" in wanted:
        tasks.check_interpolation(generator, generator.size.num_frames)


def _missing(given: Given) -> int:
    """Frames that --seconds asks for beyond those that are given."""
    there = sum(clip.shape[1] for clip in given.clips.values())
    return round((given.config.seconds or 0.0) * given.fps) - there


# --- one function an ability ------------------------------------------------------------------------------------------


def text(request: Request, given: Given) -> Tensor:
    if given.starts is not None:
        return given.starts.complete(request)
    return generate_frames(request.generator, request.prompts, seeds=request.seeds, sampling=request.sampling)


def variations(request: Request, given: Given) -> Tensor:
    return tasks.variations(request, [given.origins[seed] for seed in request.seeds], given.config.strength)


def image(request: Request, given: Given) -> Tensor:
    return tasks.image_to_video(request, given.clips["image"], request.generator.size.num_frames)


def pictures(request: Request, given: Given) -> Tensor:
    config, last = given.config, request.generator.size.num_frames - 1
    if takes_alone(request.generator, last):
        ends = ((0, str(config.image)), (last, str(config.end_image)))
        starts = Starts.of(request.generator, [Prompt(one, keyframes=ends) for one in dict.fromkeys(request.prompts)])
        return cast(Starts, starts).complete(request)
    return tasks.interpolate(request, given.clips["image"], given.clips["end_image"], request.generator.size.num_frames)


def around(request: Request, given: Given) -> Tensor:
    longer = tasks.extend(request, given.clips["video"], given.config.extend or 0)
    return tasks.prepend(request, longer, given.config.before) if given.config.before else longer


def rolling(request: Request, given: Given) -> Tensor:
    start = given.clips.get("video", given.clips.get("image"))
    there = [] if start is None else [request.each(start)]
    return torch.cat([*there, *tasks.first_frames(tasks.roll(request, start), _missing(given))], 1)


def loop(request: Request, given: Given) -> Tensor:
    clip = given.clips["video"] if given.clips else text(request, given)
    return tasks.loop(request, clip, given.config.loop or 0)


def transition(request: Request, given: Given) -> Tensor:
    return tasks.transition(request, given.clips["video"], given.clips["transition"], given.config.bridge)


def inpaint(request: Request, given: Given) -> Tensor:
    strength = given.config.strength if given.config.edit else 1.0
    return tasks.inpaint(request, given.clips["video"], given.clips["inpaint"], strength)


def edit(request: Request, given: Given) -> Tensor:
    return tasks.edit(request, given.clips["video"], given.config.strength)
