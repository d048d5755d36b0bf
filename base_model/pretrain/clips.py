"""Trains the transformer on people's own clips (`soralign pretrain --part transformer --videos FOLDER`).

All weights, or with `lora_rank` low-rank updates on a model that is there (`start`). Clips keep their size and length;
a step packs them to `token_budget` tokens, or takes `batch` of one shape. Loss and noise levels are those of the
sandbox's training.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from base_model import flow, lora
from base_model.codec.load import load_codec
from base_model.dit.pack import draw_kept, drop_rate, kept_cells, num_tokens, packed_velocity
from base_model.dit.patches import grid_of
from base_model.pretrain.config import PretrainConfig
from base_model.pretrain.reading import Ahead, ClipSet, Piece, Plan, on_grid, read_piece
from base_model.pretrain.transformer import begin_network, level_weight, save_model, shown
from base_model.tasks import random_mask
from base_model.text import SandboxClip, load_clip
from base_model.transformer import VideoTransformer
from base_model.variants import Denoiser
from base_model.world.spec import NUM_FRAMES
from core.errors import UserError
from core.files import atomic_write
from core.randomness import torch_generator
from core.videoset import VideoItem

NAMED = 3  # videos that a remark gives as examples
FAITHFUL = 28.0  # dB; below, edges and faces go

Batch = tuple[list[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Clean latents [C, T, H, W] of each clip, and (text, mask, pooled): a row for each clip, and a last one, no prompt."""


def remarks(items: Sequence[VideoItem], clip: SandboxClip) -> list[str]:
    """What whoever gave these videos should know of their captions: which have none, and what is not read of others."""
    known = {item.id: item for item in items}.values()
    silent = [item.id for item in known if not item.prompt]
    cut = [(item.id, rest) for item in known if (rest := clip.unread(item.prompt))]
    lines = []
    if silent:
        lines.append(
            f"{len(silent)} of {len(known)} videos have no caption ({', '.join(silent[:NAMED])}): they are learned as "
            "what the empty prompt shows; write one into a .txt of the same name"
        )
    if cut:
        told = "; ".join(f"of '{name}': '{rest}'" for name, rest in cut[:NAMED])
        lines.append(
            f"{len(cut)} of {len(known)} captions are longer than the {clip.context_length - 2} tokens that are read; "
            f"cut off {told}"
        )
    return lines


class ClipsPart:
    """See the module's first lines; `base_model.pretrain.part.Part` says what the loop asks."""

    network: Denoiser

    def __init__(self, config: PretrainConfig, accelerator: Accelerator) -> None:
        self.config, self.device = config, accelerator.device
        self.set = ClipSet(config.videos, config.max_frames, config.largest_side, config.max_bad, config.frame_stride)
        self.codec = load_codec(config.codec, config.per_frame)
        self.clip = load_clip(config.clip)
        for frozen in (self.codec, self.clip):
            torch.nn.Module.to(frozen, self.device)
        self.network = begin_network(config, self.codec, self.clip)
        if config.token_budget and not isinstance(self.network, VideoTransformer):
            raise UserError("only the shipped architecture packs clips; set token_budget to 0 for steps of one shape")
        if config.lora_rank:
            lora.attach(self.network, config.lora_rank, config.lora_rank, seed=config.seed)
        shapes = [self._shape(piece) for piece in self.set.pieces]
        patch = (1, self.network.patch_size, self.network.patch_size)
        lengths = [num_tokens(shape, patch) for shape in shapes]
        self._fits(lengths)
        if accelerator.is_main_process:
            for line in [*remarks([piece.item for piece in self.set.pieces], self.clip), *self._fidelity()]:
                print(f"soralign: {line}", file=sys.stderr)
        self.plan = Plan(shapes, lengths, seed=config.seed, budget=config.token_budget, batch=config.batch)
        self.batches = Ahead(self._load, config.workers, stride=accelerator.num_processes)

    @property
    def provenance(self) -> dict[str, object]:
        """What the weights were made from."""
        return self.set.provenance

    def begin(self, folder: Path) -> None:
        """Keep what the set holds in the run folder. Raises: UserError where a run goes on with another set."""
        self.set.begin(folder)

    def _shape(self, piece: Piece) -> tuple[int, int, int, int]:
        return self.codec.latent_shape(
            *on_grid(piece.num_frames, piece.height, piece.width, self.codec.t, self.codec.s * self._side)
        )

    @property
    def _side(self) -> int:
        return self.network.patch_size

    def _fits(self, lengths: list[int]) -> None:
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        if 0 < self.config.token_budget < lengths[longest]:
            piece = self.set.pieces[longest]
            raise UserError(
                f"token_budget is {self.config.token_budget}, but '{piece.item.id}' alone "
                f"({piece.num_frames} frames of {piece.height}x{piece.width}) has {lengths[longest]} tokens; "
                f"raise token_budget to {lengths[longest]} or more, or lower max_frames or largest_side"
            )

    @torch.no_grad()
    def _fidelity(self) -> list[str]:
        """What the codec loses of these clips, where that is much; seen at the corner of the first few."""
        side, errors = self.codec.s * self._side, []
        for piece in self.set.pieces[:NAMED]:
            short = replace(piece, num_frames=min(piece.num_frames, NUM_FRAMES))
            try:
                frames = torch.from_numpy(read_piece(short, self.codec.t, side))[None]
            except UserError:
                continue  # named when it is trained on
            frames = frames[..., : 8 * side, : 8 * side].to(self.device)
            errors.append(float((self.codec.decode(self.codec.encode(frames)) - frames).square().mean()))
        decibels = -10.0 * math.log10(max(1e-10, sum(errors) / len(errors))) if errors else math.inf
        if decibels >= FAITHFUL:
            return []
        return [
            f"the codec brings these clips back with {decibels:.1f} dB only (the sandbox's own: 38), and what it loses "
            f"no transformer draws; train one on them first, or longer: `soralign pretrain --part codec --start "
            f"{self.config.codec} --videos {self.config.videos} --out runs/codec`, then a transformer on it from "
            "nothing (codec runs/codec/codec, no start)"
        ]

    def _load(self, draw: int) -> Batch:
        """Clips of a batch, decoded and encoded; those that cannot be read are left out."""
        latents, prompts = [], []
        for index in self.plan.at(draw):
            piece = self.set.pieces[index]
            try:
                frames = torch.from_numpy(read_piece(piece, self.codec.t, self.codec.s * self._side))
            except UserError as error:
                self.set.rejects.add(piece.item, error)
                continue
            with torch.no_grad():
                latents.append(self.codec.encode(frames[None].to(self.device))[0])
            prompts.append(piece.item.prompt)
        with torch.no_grad():
            return latents, self.clip.text_tokens([*prompts, ""])

    def clips_in(self, draw: int) -> int:
        return len(self.plan.at(draw))

    def loss(self, step: int, draw: int) -> Tensor:
        clips, (text, mask, pooled) = self.batches[draw]
        config, rng = self.config, torch_generator(self.config.seed, "clips step", draw)
        dtype = next(self.network.parameters()).dtype
        readable = bool(clips)
        if not readable:  # all videos of this batch were broken; other processes still wait for a pass of this one
            clips = [torch.zeros(self.codec.channels, 1, self._side, self._side, device=self.device)]
        count = len(clips)
        sigma = flow.logit_normal(count, rng, shift=config.shift)
        told, silent = shown(config, [clip.shape[1] for clip in clips], rng)
        rows = torch.arange(count).masked_fill(silent, len(text) - 1)
        noises, known, kept, counted = [], [], [], []
        drop = drop_rate(step, config.steps, config.drop_tokens)
        patch = (1, self._side, self._side)
        for index, clean in enumerate(clips):
            noises.append(torch.randn(clean.shape, generator=rng).to(self.device))
            given = torch.zeros(clean.shape[1:], dtype=torch.bool)
            if told[index]:
                given = random_mask(grid_of(clean.shape, (1, 1, 1)), self._side, rng)
            kept.append(draw_kept(num_tokens(clean.shape, patch), drop, rng) if drop else None)
            counted.append((~given & kept_cells(clean.shape, patch, kept[-1]) & readable).to(self.device))
            known.append(given.to(self.device))
        sigma = sigma.to(self.device)
        noisy = [
            torch.where(given, clean, flow.interpolate(clean[None], noise[None], level)[0]).to(dtype)
            for clean, noise, given, level in zip(clips, noises, known, sigma, strict=True)
        ]
        words = (text[rows].to(dtype), mask[rows], pooled[rows].to(dtype))
        if config.token_budget:
            made = packed_velocity(self.network, noisy, sigma, *words, known, kept)  # type: ignore[arg-type]
        else:
            made = list(self.network(torch.stack(noisy), sigma, *words, torch.stack(known)))
        errors = [
            weight * ((velocity.float() - flow.velocity(clean, noise)).square() * cells).sum()
            for weight, velocity, clean, noise, cells in zip(
                level_weight(config, sigma), made, clips, noises, counted, strict=True
            )
        ]
        num = sum(int(cells.sum()) for cells in counted) * clips[0].shape[0]
        return torch.stack(errors).sum() / max(1, num)

    def save(self, folder: Path) -> None:
        self.batches.close()
        if self.config.lora_rank:
            lora.save(self.network, folder)
        else:
            save_model(self.network, self.config, folder)
        atomic_write(folder / "provenance.json", json.dumps(self.provenance, indent=2) + "\n")
