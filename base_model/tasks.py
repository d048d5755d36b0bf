"""Every ability beyond text to video: which frames are given to `given.complete`, and where in its window they lie.

The codec is causal: frame 0 is a latent cell alone, then every group of frames (four) is one. So a beginning can be
given as 4k+1 frames and anything else as whole groups; each ability chooses its window so that given frames fall on
groups. `edit` begins from half-noisy latents instead of noise. `random_mask` draws the masks to train on.

Frames are [B, time, 3, H, W] in [0, 1] on the CPU; where a single clip is given it serves all prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from base_model.given import Request, complete, grid
from base_model.native import NativeGenerator
from base_model.protocol import Generator, VideoSize
from base_model.sampler import generate_frames
from core.errors import UserError
from core.randomness import seed_for


def random_mask(shape: tuple[int, int, int], patch: int, rng: torch.Generator) -> Tensor:
    """A mask to train on, each kind equally often: beginning, end, both ends, a hole in space, a hole in space-time.

    Args:
        shape: latent (time, rows, columns), time at least 2. patch: cells per token side; holes end at token borders.
    """
    time, rows, columns = shape

    def draw(low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=rng))

    known = torch.zeros(shape, dtype=torch.bool)
    kind = draw(0, 4)
    if kind in (0, 2):
        known[: 1 if draw(0, 1) else draw(1, time - 1)] = True
    if kind in (1, 2) and time > 2:
        known[-draw(1, (time - 1) // 2) :] = True
    if kind > 2 or not known.any() or known.all():
        known[:] = True
        high, wide = draw(1, rows // patch), draw(1, columns // patch)
        top, left = draw(0, rows // patch - high) * patch, draw(0, columns // patch - wide) * patch
        begin = 0 if kind == 3 else draw(0, time - 2)
        known[begin:, top : top + high * patch, left : left + wide * patch] = False
    return known


def roll(request: Request, start: Tensor | None = None, *, size: VideoSize | None = None) -> Iterator[Tensor]:
    """New frames, chunk after chunk, for ever: each window begins with the last frames of what is there.

    Only one window is held, so memory does not grow with the length. Windows are as long as the model's training allows
    and half given: what is torn in a short one has no whole object left to go on from.

    Args:
        start: frames to go on from; without them the first chunk is drawn from the prompts, in `size`.
    """
    group = grid(request.generator, True)[0]
    part = request
    if start is None:
        start = generate_frames(
            request.generator, request.prompts, seeds=request.seeds, sampling=request.sampling, size=size
        )
        yield start
        part = _reseeded(request, "window", 0)
    start, number = request.each(start), 0
    while True:
        window = window_after(start.shape[1], request.generator)
        context = beginning_of(window, start, group)
        seen = context.shape[1]
        frames, known = _blank(context, window)
        frames[:, :seen], known[:seen] = context, True
        start = complete(part, frames, known)
        yield start[:, seen:]
        number += 1
        part = _reseeded(request, "window", number)


def window_after(num_frames: int, generator: Generator) -> int:
    """Frames of the window in which a clip of `num_frames` goes on: twice as many, as far as the model was trained.

    There is room for a new group of frames at least, even if the model is asked for pictures.
    """
    own, group = generator.size.num_frames, grid(generator, True)[0]
    longest = generator.longest if isinstance(generator, NativeGenerator) else own
    return max(own, 1 + group, _beginning(min(longest, 2 * num_frames - 1), group))


def beginning_of(window: int, clip: Tensor, group: int) -> Tensor:
    """The last frames of `clip` with which a window of so many frames begins: about half of it."""
    return clip[:, -_beginning(min(clip.shape[1], window // 2 + 1), group) :]


def extend(request: Request, clip: Tensor, num_new: int) -> Tensor:
    """`clip` followed by `num_new` frames, [B, time + num_new, 3, H, W]."""
    return torch.cat([request.each(clip), *first_frames(roll(request, clip), num_new)], 1)


def first_frames(chunks: Iterator[Tensor], num_frames: int) -> Iterator[Tensor]:
    """Chunks of `roll` up to `num_frames` frames, the last one cut."""
    while num_frames > 0:
        chunk = next(chunks)[:, :num_frames]
        num_frames -= chunk.shape[1]
        yield chunk


def image_to_video(request: Request, image: Tensor, num_frames: int) -> Tensor:
    """`num_frames` frames, drawn at once, that begin with `image` [B or 1, 1 or another 4k+1, 3, H, W]."""
    frames, known = _blank(request.each(image), num_frames)
    seen = image.shape[1]
    frames[:, :seen], known[:seen] = image, True
    return complete(request, frames, known)


def prepend(request: Request, clip: Tensor, num_new: int) -> Tensor:
    """`num_new` frames that lead up to `clip`, and the clip, [B, num_new + time, 3, H, W].

    A window ends in the clip's first one or two whole groups (a shorter clip is held to fill one) and begins with a
    frame of its own, so that the groups fit; what it makes too much at its beginning is cut off.
    """
    group = grid(request.generator, True)[0]
    head = request.each(clip)
    chunks, missing, number, part = [head], num_new, 0, request
    while missing > 0:
        context = _ending(head, group, 2)
        seen = context.shape[1]
        new = max(1 + group, request.generator.size.num_frames - seen)
        frames, known = _blank(context, new + seen)
        frames[:, new:], known[new:] = context, True
        head = complete(part, frames, known)
        chunks.insert(0, head[:, max(0, new - missing) : new])
        missing, number = missing - new, number + 1
        part = _reseeded(request, "window before", number)
    return torch.cat(chunks, 1)


def bridge(request: Request, first: Tensor, second: Tensor, num_new: int) -> Tensor:
    """`num_new` frames [B, num_new, 3, H, W] that lead from the end of `first` to the beginning of `second`.

    The model sees the last five frames of `first` and the first four of `second`; a shorter `second` is held.
    Raises: UserError unless num_new is a whole number of groups, and for clips of different sizes.
    """
    check_bridge(request.generator, num_new)
    if first.shape[3:] != second.shape[3:]:
        raise UserError(
            f"the clips differ in size: {first.shape[3]}x{first.shape[4]} and {second.shape[3]}x{second.shape[4]}; "
            "bring both to one size (--height and --width do)"
        )
    group = grid(request.generator, True)[0]
    before = request.each(first)[:, -_beginning(min(first.shape[1], 1 + group), group) :]
    after = _ending(request.each(second), group, 1)
    seen = before.shape[1]
    frames, known = _blank(before, seen + num_new + after.shape[1])
    frames[:, :seen], frames[:, seen + num_new :] = before, after
    known[:seen] = known[seen + num_new :] = True
    return complete(request, frames, known)[:, seen : seen + num_new]


def interpolate(request: Request, first: Tensor, last: Tensor, num_frames: int) -> Tensor:
    """`num_frames` (4k+1, at least 9) from picture `first` to picture `last`, which fills the last group of frames.

    Raises: UserError for another number of frames, and for pictures of different sizes.
    """
    check_interpolation(request.generator, num_frames)
    group = grid(request.generator, True)[0]
    between = bridge(request, first, last, num_frames - 1 - group)
    return torch.cat([request.each(first), between, request.each(last).repeat(1, group, 1, 1, 1)], 1)


def loop(request: Request, clip: Tensor, num_new: int) -> Tensor:
    """`clip` and `num_new` frames (whole groups) that lead back to its beginning: it repeats without a seam."""
    return torch.cat([request.each(clip), bridge(request, clip, clip, num_new)], 1)


def transition(request: Request, first: Tensor, second: Tensor, num_new: int) -> Tensor:
    """`first`, `num_new` frames (whole groups) that lead over, and `second`."""
    return torch.cat([request.each(first), bridge(request, first, second, num_new), request.each(second)], 1)


def inpaint(request: Request, clip: Tensor, hole: Tensor, strength: float = 1.0) -> Tensor:
    """`clip` with the pixels where `hole` is True (bool [time, H, W] or [H, W]) made anew.

    Raises: UserError for a hole of another size, or one that is empty.
    """
    check_hole(clip, hole)
    return complete(request, clip, ~hole.expand(clip.shape[1], *clip.shape[3:]), strength)


def edit(request: Request, clip: Tensor, strength: float) -> Tensor:
    """`clip` drawn again from so much noise that the prompt decides what shows; any generator can.

    Args:
        strength: 0 returns the clip itself, 1 keeps nothing of it; layout and motion stay up to about the middle.
    Source: SDEdit (Meng et al. 2022).
    """
    return complete(request, clip, torch.zeros(clip.shape[1], *clip.shape[3:], dtype=torch.bool), strength)


def variations(request: Request, origins: Sequence[int], strength: float, size: VideoSize | None = None) -> Tensor:
    """Clips that are like those of the seeds `origins`, one per prompt: each is its origin edited from its own seed.

    A row whose seed is its origin is the origin itself.
    """
    first = generate_frames(request.generator, request.prompts, seeds=origins, sampling=request.sampling, size=size)
    own = torch.tensor([seed == origin for seed, origin in zip(request.seeds, origins, strict=True)])
    return torch.where(own[:, None, None, None, None], first, edit(request, first, strength))


def check_bridge(generator: Generator, num_new: int) -> None:
    """Raises: UserError unless `num_new` frames between two clips are a whole number of groups."""
    group = grid(generator, True)[0]
    if num_new < group or num_new % group:
        below = max(group, num_new // group * group)
        raise UserError(
            f"{num_new} frames between two clips do not fit the codec's groups of {group}; "
            f"nearest: {below} and {below + group}"
        )


def check_interpolation(generator: Generator, num_frames: int) -> None:
    """Raises: UserError unless `num_frames` have room for two pictures and whole groups between them."""
    group = grid(generator, True)[0]
    least = 1 + 2 * group
    if num_frames < least or (num_frames - 1) % group:
        below = max(least, (num_frames - 1) // group * group + 1)
        raise UserError(
            f"{num_frames} frames cannot lead from one picture to another: {group}k+1 from {least} on; "
            f"nearest: {below} and {below + group}"
        )


def check_hole(clip: Tensor, hole: Tensor) -> None:
    """Raises: UserError unless `hole` marks something and has the clip's size, once or for each frame."""
    if hole.shape not in (clip.shape[3:], (clip.shape[1], *clip.shape[3:])):
        raise UserError(
            f"a mask of {'x'.join(map(str, hole.shape))} does not fit a clip of {clip.shape[1]} frames of "
            f"{clip.shape[3]}x{clip.shape[4]}; give one picture, or one for each frame, of the clip's size"
        )
    if not bool(hole.any()):
        raise UserError("the mask marks nothing: paint white what is to be made anew")


def _reseeded(request: Request, purpose: str, number: int) -> Request:
    return replace(request, seeds=[seed_for(seed, purpose, number) for seed in request.seeds])


def _beginning(num_frames: int, group: int) -> int:
    """The largest 4k+1 that is not above `num_frames`: frames that fill latent cells from the start of a window."""
    return (num_frames - 1) // group * group + 1


def _ending(clip: Tensor, group: int, most_groups: int) -> Tensor:
    """The first frames of a clip as whole groups; a shorter clip has its last frame held."""
    groups = max(1, min(most_groups, clip.shape[1] // group))
    return clip[:, torch.arange(groups * group).clamp(max=clip.shape[1] - 1)]


def _blank(like: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """Frames [B, num_frames, 3, H, W] and a mask [num_frames, H, W] with nothing in them."""
    frames = like.new_zeros(len(like), num_frames, *like.shape[2:])
    return frames, torch.zeros(num_frames, *like.shape[3:], dtype=torch.bool)
