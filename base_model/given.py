"""Clips of which some pixels are given, and the one way to make the rest: `complete`.

It encodes what is given, marks the latent cells that are given wholly (a `Condition` with "known", bool [batch, time,
rows, columns], and "clean" latents), draws the others with any solver, decodes, and puts the given pixels back, so that
they come out exactly. One set of weights is trained on all masks.

Letters: B batch, H W height and width in pixels. Frames are [B, time, 3, H, W] in [0, 1] on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from base_model import flow
from base_model.hub.family import NOTHING, Beside
from base_model.hub.generator import HubGenerator
from base_model.native import NativeGenerator
from base_model.protocol import Condition, Generator, VideoSize
from base_model.sampler import Sampling, begun, draw, initial_noise, opposite, solve, solver_noise
from core.errors import UserError


@dataclass(frozen=True)
class Request:
    """What all abilities are asked with: who draws, which prompts, from which seeds (one each), and how."""

    generator: Generator
    prompts: Sequence[str]
    seeds: Sequence[int]
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.seeds) or not self.prompts:
            raise UserError(f"{len(self.prompts)} prompts and {len(self.seeds)} seeds; give one seed per prompt")

    def each(self, clip: Tensor) -> Tensor:
        """One clip per prompt, where `clip` may be a single one for all."""
        return clip.expand(len(self.prompts), *clip.shape[1:])


@torch.no_grad()
def complete(request: Request, frames: Tensor, known: Tensor, strength: float = 1.0) -> Tensor:
    """Frames in which what is not known is made anew; known pixels come back exactly.

    Any size is taken: up to the model's grid the last frame, row and column are repeated, and the result is cut back.

    Args:
        frames: [B, time, 3, H, W], or one clip for all prompts; at strength 1 any values where not known.
        known: bool [time, H, W], True where `frames` is given, the same for all clips.
        strength: 1 makes from noise; below 1 from `frames` with so much noise added that noise level is `strength`.
    Raises: UserError for a generator that takes no given cells, and a strength outside 0 to 1.
    """
    if not 0.0 <= strength <= 1.0:
        raise UserError(f"strength {strength} is out of range: 0 (the clip itself) to 1 (nothing of it)")
    frames = request.each(frames)
    if strength == 0.0 or bool(known.all()):
        return frames.clone()
    is_given = bool(known.any())
    token = grid(request.generator, is_given)
    source, wide = _padded(frames, *token), _padded(known[None, :, None], *token)[0, :, 0]
    cells = known_cells(request.generator, wide) if is_given else None
    if is_given and strength == 1.0:
        source = filled(source, wide)
    made = []
    for start in range(0, len(source), request.sampling.batch):
        rows = slice(start, start + request.sampling.batch)
        part = replace(request, prompts=request.prompts[rows], seeds=request.seeds[rows])
        made.append(_made(part, source[rows], cells, strength))
    time, _, height, width = frames.shape[1:]
    return torch.where(known[None, :, None], frames, torch.cat(made)[:, :time, :, :height, :width])


def _made(request: Request, source: Tensor, cells: Tensor | None, strength: float) -> Tensor:
    """One batch drawn: frames of the size of `source`, [B, time, 3, H, W]."""
    generator = request.generator
    condition = generator.encode_prompts(list(request.prompts))
    if cells is not None or strength < 1.0:
        clean = generator.encode(source.to(device_of(condition)))
        condition = {**condition, "clean": clean}
        if cells is not None:
            condition = given(generator, condition, cells, clean, request.prompts, Beside(source.transpose(1, 2)))
    return drawn(request, condition, VideoSize(source.shape[1], *source.shape[3:]), strength)


@torch.no_grad()
def drawn(request: Request, condition: Condition, size: VideoSize, strength: float = 1.0) -> Tensor:
    """Frames [B, time, 3, H, W] of `size`, one clip per row of `condition`, begun as `sampler.begun` says."""
    generator, sampling = request.generator, request.sampling
    noise = initial_noise(generator, request.seeds, size).to(device_of(condition))
    path = solve(
        generator,
        condition,
        noise=begun(generator, condition, noise, strength),
        sampling=sampling,
        unconditional=_opposite(request, condition),
        schedule=flow.from_level(generator.schedule(sampling.num_steps), strength),
        rng=solver_noise(request.seeds),
    )
    return generator.decode(draw(path)).float().cpu()


def _opposite(request: Request, condition: Condition) -> Condition | None:
    """`sampler.opposite`; of clips without a prompt, for our own model, also one to whom nothing is given, since
    without words guidance can only bring out what the given cells say. Hub models keep their pipelines' guidance.
    """
    found = opposite(request.generator, request.sampling, len(request.prompts))
    if found is None or "known" not in condition or not isinstance(request.generator, NativeGenerator):
        return found
    spoken = torch.tensor([bool(prompt) for prompt in request.prompts], device=device_of(condition))
    return {**found, "known": condition["known"] & spoken[:, None, None, None]}


def device_of(condition: Condition) -> torch.device:
    """Where to compute; of the weights it need not be the place: they may come layer by layer."""
    return next(iter(condition.values())).device


def given(
    generator: Generator,
    condition: Condition,
    cells: Tensor,
    clean: Tensor,
    prompts: Sequence[str],
    beside: Beside = NOTHING,
) -> Condition:
    """The condition with given cells: `cells` bool [T, rows, columns], `clean` latents [B, C, T, rows, columns].

    Args:
        prompts: of the rows; some networks read them beside the picture.
        beside: the pixels of what is given, in [0, 1]; for the hub models that look at them.
    """
    known = cells.to(clean.device).expand(len(clean), *cells.shape)
    shown = generator.shown(known, clean, prompts, beside) if isinstance(generator, HubGenerator) else {}
    return {**condition, "known": known, "clean": clean, **shown}


def grid(generator: Generator, is_given: bool) -> tuple[int, int]:
    """(frames, pixels a side) of a token: what is given must fill whole ones.

    (1, 1), no padding, for a generator that takes no given cells, where nothing is given.
    Raises: UserError where something is.
    """
    if isinstance(generator, NativeGenerator):
        return generator.vae.t, generator.vae.s * generator.transformer.patch_size
    if isinstance(generator, HubGenerator):
        cells = generator.model.grid
        return cells.time * cells.patch_time, cells.side * cells.patch
    if is_given:
        raise UserError(
            f"model '{generator.name}' takes no given frames; use another, as sandbox, or --edit, which every model "
            "can do"
        )
    return 1, 1


def known_cells(generator: Generator, known: Tensor) -> Tensor:
    """Latent cells that are given: those of tokens all of whose pixels are known; never those of references or sound.

    Args:
        known: bool [time, H, W] on the generator's grid.
    Returns: bool [T, rows, columns].
    """
    group, side = grid(generator, True)
    time, height, width = known.shape
    _, depth, rows, columns = generator.latent_shape(VideoSize(time, height, width))
    tokens = known.reshape(time, height // side, side, width // side, side).all(4).all(2)
    tokens = torch.cat([tokens[:1], tokens[1:].reshape(-1, group, *tokens.shape[1:]).all(1)])
    along = generator.model.grid.patch_time if isinstance(generator, HubGenerator) else 1
    across = rows * side // height
    cells = tokens.repeat_interleave(along, 0).repeat_interleave(across, 1).repeat_interleave(across, 2)
    front = (generator.model.grid.references or 0) if isinstance(generator, HubGenerator) else 0
    cells = torch.cat([cells.new_zeros(front, rows, columns), cells])
    return torch.cat([cells, cells.new_zeros(depth - len(cells), rows, columns)])


def filled(frames: Tensor, known: Tensor) -> Tensor:
    """Frames with what is not known taken from the nearest known pixel, in the same frame where it has one.

    The encoder looks around each cell, so what is not given must neither be seen nor stand out.
    """
    _, (t, y, x) = distance_transform_edt(~known.numpy(), sampling=(1000.0, 1.0, 1.0), return_indices=True)
    t, y, x = (torch.from_numpy(part) for part in (t, y, x))
    return frames.permute(0, 2, 1, 3, 4)[:, :, t, y, x].permute(0, 2, 1, 3, 4)


def _padded(values: Tensor, group: int, side: int) -> Tensor:
    """[B, time, C, H, W] with the last frame, row and column repeated up to the grid."""
    time, height, width = values.shape[1], values.shape[3], values.shape[4]
    t, y, x = (
        torch.arange(size + more).clamp(max=size - 1)
        for size, more in ((time, (1 - time) % group), (height, -height % side), (width, -width % side))
    )
    return values[:, t][..., y, :][..., x]
