"""Prompts whose clips begin with a picture of their own, or go on from a clip: lines of a prompt file that name one.

Read when first asked for, since a large set would fill the memory; that every file is there and of one kind is found
out at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from base_model.given import given, grid, known_cells
from base_model.protocol import Condition, Generator
from base_model.tasks import beginning_of
from core import video
from core.errors import UserError
from core.prompts import Prompt


@dataclass(frozen=True)
class Starts:
    """files: by the prompt's text."""

    generator: Generator
    files: dict[str, str]

    @classmethod
    def of(cls, generator: Generator, prompts: Sequence[Prompt]) -> Starts | None:
        """None where no prompt names a file.

        Raises: UserError for a generator that takes no given frames, a prompt without a file where others have one, a
            prompt with two, a file that is no video or picture, and pictures mixed with clips.
        """
        files = {one.text: one.start for one in prompts if one.start}
        if not files:
            return None
        grid(generator, True)
        for one in prompts:
            if files.get(one.text) != one.start:
                told = f"two, '{one.start}' and '{files[one.text]}'" if one.start else "none, but others have"
                raise UserError(f"prompt '{one.text}': its image or video is {told}; every prompt needs one of its own")
        starts = cls(generator, files)
        lengths = {starts.last(torch.empty(1, video.probe(file).num_frames)).shape[1]: file for file in files.values()}
        if len(lengths) > 1:
            (count, first), (other, second), *_ = lengths.items()
            raise UserError(
                f"'{first}' gives {count} frames and '{second}' {other}; keep pictures and clips in files of their own"
            )
        return starts

    def last(self, clip: Tensor) -> Tensor:
        """The frames of `clip` [1, time, ...] that the model sees."""
        return beginning_of(self.generator.size.num_frames, clip, grid(self.generator, True)[0])

    def frames(self, prompt: str) -> Tensor:
        """What the prompt's clips begin with, [1, 4k + 1, 3, height, width], scaled and cut to the generator's size."""
        clip = self.last(torch.from_numpy(video.read(self.files[prompt]).frames)[None])
        return cover(clip[0], self.generator.size.height, self.generator.size.width)[None]

    @torch.no_grad()
    def row(self, prompt: str) -> Condition:
        """It as given cells of a clip of the generator's size, on the CPU. Raises: UserError for an unknown prompt."""
        if prompt not in self.files:
            raise UserError(f"prompt '{prompt}' has no image, and the others of this run do")
        frames = self.frames(prompt)
        seen, size = frames.shape[1], self.generator.size
        held = frames[:, torch.arange(size.num_frames).clamp(max=seen - 1)]  # a codec looks around what is given
        known = (torch.arange(size.num_frames) < seen)[:, None, None].expand(-1, size.height, size.width)
        device = next(self.generator.policy_module().parameters()).device
        clean = self.generator.encode(held.to(device))
        row = given(self.generator, {}, known_cells(self.generator, known), clean, [prompt])
        return {name: value.cpu() for name, value in row.items()}


def cover(frames: Tensor, height: int, width: int) -> Tensor:
    """Frames [time, 3, height, width] scaled to cover the size, what reaches over cut on both sides alike."""
    scale = max(height / frames.shape[2], width / frames.shape[3])
    size = [max(side, round(own * scale)) for side, own in ((height, frames.shape[2]), (width, frames.shape[3]))]
    if size != list(frames.shape[2:]):
        frames = F.interpolate(frames, size, mode="bilinear", antialias=True, align_corners=False).clamp(0.0, 1.0)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frames[..., top : top + height, left : left + width]
