"""Prompts whose clips are made from pictures or a clip of their own: lines of a prompt file that name them.

    image, video    what the clips begin with: a first frame, or a clip that they go on from
    keyframes       pictures at some of their frames
    edit            a clip that they change: sampling begins from it with noise, at the noise level `strength`
    references      pictures of what they show, which are no frames of theirs
    control         a clip, as of poses or depths, that says what happens in each of their frames

Files are read when first asked for, since a large set would fill the memory; that every file is there and all prompts
are of one kind is found out at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from base_model.given import Request, device_of, drawn, given, grid, known_cells
from base_model.hub.family import Beside
from base_model.hub.generator import HubGenerator
from base_model.protocol import Condition, Generator, cat
from base_model.tasks import beginning_of
from core import video
from core.errors import UserError
from core.prompts import Prompt


@dataclass(frozen=True)
class Starts:
    """prompts: by their text; all of one kind."""

    generator: Generator
    prompts: dict[str, Prompt]

    @classmethod
    def of(cls, generator: Generator, prompts: Sequence[Prompt]) -> Starts | None:
        """None where no prompt names a file. A generator that takes references is told how many.

        Raises: UserError for a generator that takes no such thing, prompts of different kinds, a text with two things
            to be made from, and a file that is no video or picture or does not fit the generator's clips.
        """
        if not any(one.files for one in prompts):
            return None
        starts = cls(generator, {one.text: one for one in prompts})
        first = prompts[0]
        for one in prompts:
            if replace(one, weight=1.0, tag="") != replace(starts.prompts[one.text], weight=1.0, tag=""):
                raise UserError(f"prompt '{one.text}' is there twice, made from different files; word them differently")
            if (kind := starts._kind(one)) != starts._kind(first):
                raise UserError(
                    f"'{first.text}' is made from {starts._kind(first)} and '{one.text}' from {kind}; keep prompts of "
                    "each kind in a file of their own"
                )
        _refer(generator, first)
        return starts

    @property
    def strength(self) -> float:
        """Noise level at which clips begin; see `sampler.begun`."""
        return next(iter(self.prompts.values())).strength

    def frames(self, prompt: str) -> tuple[Tensor, Tensor]:
        """What the prompt's clips are made from, [1, time, 3, height, width] in the generator's size, and which of
        these frames are given (bool [time]); the others repeat the nearest, for a codec looks around what is given.

        A causal codec holds the frames after the first in groups, so a keyframe is given as long as its group lasts,
        unless the generator takes it alone.
        Raises: UserError for an unknown prompt.
        """
        if prompt not in self.prompts:
            raise UserError(f"prompt '{prompt}' names no picture or clip, and the others of this run do")
        one, size = self.prompts[prompt], self.generator.size
        moments = torch.arange(size.num_frames)
        if one.keyframes:
            places = torch.tensor([frame for frame, _ in one.keyframes])
            clip = torch.cat([cover(_read(picture)[:1], size.height, size.width) for _, picture in one.keyframes])
        elif one.start:
            clip = _read(one.start)
            clip = self._last(clip[None])[0] if one.strength == 1.0 else clip[: size.num_frames]
            clip, places = cover(clip, size.height, size.width), moments[: len(clip)]
        else:
            return torch.full((1, size.num_frames, 3, size.height, size.width), 0.5), moments < 0
        if one.strength < 1.0:
            return clip[None], moments < 0
        length = grid(self.generator, True)[0]
        group, wanted = ((frame + length - 1) // length for frame in (moments, places))
        away = size.num_frames * (group[:, None] - wanted).abs() + (moments[:, None] - places).abs()
        single = torch.isin(places, torch.tensor(self._alone(one), dtype=torch.long))
        known = torch.isin(group, wanted[~single]) | torch.isin(moments, places[single])
        return clip[None, away.argmin(1)], known

    def row(self, prompt: str) -> Condition:
        """It as latents and given cells of a clip of the generator's size, on the CPU.

        Raises: UserError for an unknown prompt.
        """
        return self._row(prompt, *self.frames(prompt))

    @torch.no_grad()
    def _row(self, prompt: str, frames: Tensor, known: Tensor) -> Condition:
        """`row` of what `frames` has read already."""
        height, width = frames.shape[3:]
        device = device_of(self.generator.encode_prompts([prompt]))
        row = {"clean": self.generator.encode(frames.to(device))}
        references = self.prompts[prompt].references
        for place, picture in enumerate(reversed(references)):  # the last one in front, as Wan VACE was trained
            shown = contain(_read(picture)[:1], height, width)[None].to(device)
            row["clean"][:, :, place] = self.generator.encode(shown)[:, :, -1]
        beside = self._beside(self.prompts[prompt], frames)
        if references or known.any() or beside.control is not None:
            cells = known_cells(self.generator, known[:, None, None].expand(-1, height, width))
            row = given(self.generator, {}, cells, row["clean"], [prompt], beside)
        return {name: value.cpu() for name, value in row.items()}

    def _alone(self, one: Prompt) -> list[int]:
        """Its keyframes that the generator takes as single frames."""
        return [frame for frame, _ in one.keyframes if takes_alone(self.generator, frame)]

    def _beside(self, one: Prompt, frames: Tensor) -> Beside:
        """The pixels that the prompt's clips are made from; `frames` as its own gives them."""
        control, size = None, self.generator.size
        if one.control:
            clip = cover(_read(one.control)[: size.num_frames], size.height, size.width)
            control = clip.transpose(0, 1)[None]
        return Beside(frames.transpose(1, 2), {frame: frames[:, frame] for frame in self._alone(one)}, control)

    def complete(self, request: Request) -> Tensor:
        """Frames [B, time, 3, H, W] of one batch; given pixels come back exactly."""
        condition = request.generator.encode_prompts(list(request.prompts))
        shown = {prompt: self.frames(prompt) for prompt in dict.fromkeys(request.prompts)}
        rows = {prompt: self._row(prompt, *both) for prompt, both in shown.items()}
        begun = cat([rows[prompt] for prompt in request.prompts])
        place = device_of(condition)
        condition = condition | {name: value.to(place) for name, value in begun.items()}
        made = drawn(request, condition, self.generator.size, self.strength)
        for clip, prompt in zip(made, request.prompts, strict=True):
            frames, known = shown[prompt]
            clip[known] = frames[0, known]
        return made

    def _last(self, clip: Tensor) -> Tensor:
        """The frames of `clip` [1, time, ...] that clips go on from."""
        return beginning_of(self.generator.size.num_frames, clip, grid(self.generator, True)[0])

    def _kind(self, one: Prompt) -> str:
        """In words. Raises: UserError for files that do not fit the generator's clips."""
        words, count = [], self.generator.size.num_frames
        if one.strength < 1.0:
            _check_length(one.start, count)
            words.append(f"a clip edited from {one.strength:g}")
        elif one.start:
            seen = self._last(torch.empty(1, video.probe(one.start).num_frames)).shape[1]
            words.append("a first frame" if seen == 1 else f"{seen} first frames")
        for picture in (*(picture for _, picture in one.keyframes), *one.references):
            if (there := video.probe(picture).num_frames) > 1:
                raise UserError(f"'{picture}' has {there} frames; keyframes and references are single pictures")
        if one.keyframes:
            _check_keyframes(one, count, grid(self.generator, True)[0], self._alone(one))
            words.append(f"keyframes {', '.join(str(frame) for frame, _ in one.keyframes)}")
        if one.references:
            words.append(f"{len(one.references)} reference pictures")
        if one.control:
            _check_length(one.control, count)
            words.append("a control clip")
        return " and ".join(words) or "nothing"


def takes_alone(generator: Generator, frame: int) -> bool:
    """Whether a picture can be given at `frame` as a single frame; otherwise it fills its group of frames."""
    return isinstance(generator, HubGenerator) and generator.model.grid.alone(frame, generator.size.num_frames)


def cover(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames [time, 3, height, width] scaled to cover the size, what reaches over cut on both sides alike."""
    frames = _scaled(frames, max(height / frames.shape[2], width / frames.shape[3]), height, width)
    top, left = (frames.shape[2] - height) // 2, (frames.shape[3] - width) // 2
    return frames[..., top : top + height, left : left + width]


def contain(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames [time, 3, height, width] scaled to lie wholly inside the size, on white."""
    frames = _scaled(frames, min(height / frames.shape[2], width / frames.shape[3]), 1, 1)
    canvas = frames.new_ones(*frames.shape[:2], height, width)
    top, left = (height - frames.shape[2]) // 2, (width - frames.shape[3]) // 2
    canvas[..., top : top + frames.shape[2], left : left + frames.shape[3]] = frames
    return canvas


def _scaled(frames: Tensor, scale: float, least_height: int, least_width: int) -> Tensor:
    size = [max(least_height, round(frames.shape[2] * scale)), max(least_width, round(frames.shape[3] * scale))]
    if size == list(frames.shape[2:]):
        return frames
    return F.interpolate(frames, size, mode="bilinear", antialias=True, align_corners=False).clamp(0.0, 1.0)


def _read(path: str) -> Tensor:
    """Frames [time, 3, height, width]."""
    return torch.from_numpy(video.read(path).frames)


def _check_length(path: str, num_frames: int) -> None:
    """Raises: UserError for a clip of fewer frames than are made of it."""
    if (there := video.probe(path).num_frames) < num_frames:
        raise UserError(f"'{path}' has {there} frames, the clips made of it {num_frames}; set num_frames lower")


def _check_keyframes(one: Prompt, num_frames: int, group: int, alone: Sequence[int]) -> None:
    """Raises: UserError for a keyframe beyond the clip, and for two in one group of the codec that both last so long.

    Args: alone: keyframes that last for themselves only.
    """
    taken: dict[int, int] = {}
    for frame, _ in one.keyframes:
        if frame >= num_frames:
            raise UserError(f"prompt '{one.text}': keyframe {frame} lies beyond the clip, frames 0 to {num_frames - 1}")
        if frame in alone:
            continue
        if (other := taken.setdefault((frame + group - 1) // group, frame)) != frame:
            raise UserError(
                f"prompt '{one.text}': keyframes {other} and {frame} lie in one group of {group} frames of the codec; "
                f"give one of them, or another that is {group} frames away"
            )


def _refer(generator: Generator, prompt: Prompt) -> None:
    """Make room for its references in every clip's latents, and for none of an earlier set.

    Raises: UserError for a generator that takes no references or control clip.
    """
    if isinstance(generator, HubGenerator) and generator.model.grid.references is not None:
        generator.refer(len(prompt.references))
    elif prompt.references or prompt.control:
        raise UserError(
            f"model '{generator.name}' takes no references and no control clip; a Wan VACE does "
            "(Wan-AI/Wan2.1-VACE-...)"
        )
