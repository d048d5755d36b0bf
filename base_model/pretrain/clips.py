"""Trains the transformer on people's own clips (`soralign pretrain --part transformer --videos FOLDER`).

All weights, or with `lora_rank` low-rank updates on a model that is there (`start`). Clips keep their size and length;
a step packs them to `token_budget` tokens, or takes `batch` of one shape. Loss and noise levels are those of the
sandbox's training.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from base_model import flow, lora
from base_model.codec.load import load_codec
from base_model.dit.pack import draw_kept, drop_rate, kept_cells, num_tokens, packed_velocity
from base_model.dit.patches import grid_of
from base_model.pretrain.config import PretrainConfig
from base_model.pretrain.reading import Ahead, Piece, Plan, Rejects, on_grid, pieces, read_piece
from base_model.pretrain.transformer import begin_network
from base_model.tasks import random_mask
from base_model.text import SandboxClip
from base_model.transformer import VideoTransformer
from base_model.variants import Denoiser
from core import snapshot, videoset
from core.errors import UserError
from core.files import atomic_write
from core.randomness import torch_generator

SNAPSHOT = "data.json"  # in the run folder: what the set held, for `soralign data diff`

Batch = tuple[list[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Clean latents [C, T, H, W] of each clip, and (text, mask, pooled): a row for each clip, and a last one, no prompt."""


class ClipsPart:
    """See the module's first lines; `base_model.pretrain.part.Part` says what the loop asks."""

    network: Denoiser

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        taken = snapshot.take(config.videos)
        self.snapshot = taken
        self.codec = load_codec(config.codec, config.per_frame)
        clip = SandboxClip.from_pretrained(config.clip, low_cpu_mem_usage=False).float().eval()
        self.clip = clip.requires_grad_(False)
        self.network = begin_network(config, self.codec, clip)
        if config.token_budget and not isinstance(self.network, VideoTransformer):
            raise UserError("only the shipped architecture packs clips; set token_budget to 0 for steps of one shape")
        if config.lora_rank:
            lora.attach(self.network, config.lora_rank, config.lora_rank, seed=config.seed)
        items = videoset.read(config.videos)
        self.rejects = Rejects(len(items), config.max_bad)
        self.pieces = pieces(items, config.max_frames, self.rejects)
        shapes = [self._shape(piece) for piece in self.pieces]
        patch = (1, self.network.patch_size, self.network.patch_size)
        lengths = [num_tokens(shape, patch) for shape in shapes]
        self._fits(lengths)
        self.plan = Plan(shapes, lengths, seed=config.seed, budget=config.token_budget, batch=config.batch)
        self.batches = Ahead(self._load, config.workers)

    @property
    def provenance(self) -> dict[str, object]:
        """What the weights were made from."""
        return {
            "videos": str(self.config.videos),
            "data": self.snapshot.hash,
            "num_videos": len(self.snapshot.entries),
            "skipped": sorted(self.rejects.reasons),
        }

    def begin(self, folder: Path) -> None:
        """Keep what the set holds in the run folder. Raises: UserError where a run goes on with another set."""
        path = folder / SNAPSHOT
        if not path.exists():
            self.snapshot.save(path)
        elif (before := json.loads(path.read_text(encoding="utf-8"))["hash"]) != self.snapshot.hash:
            raise UserError(
                f"the videos changed since this run began ({before} then, {self.snapshot.hash} now): "
                f"`soralign data diff {path} {self.config.videos}` shows how; undo that, or start another run"
            )

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
            piece = self.pieces[longest]
            raise UserError(
                f"token_budget is {self.config.token_budget}, but '{piece.item.id}' alone "
                f"({piece.num_frames} frames of {piece.height}x{piece.width}) has {lengths[longest]} tokens; "
                f"raise token_budget to {lengths[longest]} or more, or lower max_frames"
            )

    def _load(self, step: int) -> Batch:
        """Clips of a step, decoded and encoded; those that cannot be read are left out."""
        latents, prompts = [], []
        for index in self.plan.at(step):
            piece = self.pieces[index]
            try:
                frames = torch.from_numpy(read_piece(piece, self.codec.t, self.codec.s * self._side))
            except UserError as error:
                self.rejects.add(piece.item, error)
                continue
            with torch.no_grad():
                latents.append(self.codec.encode(frames[None])[0])
            prompts.append(piece.item.prompt)
        with torch.no_grad():
            return latents, self.clip.text_tokens([*prompts, ""])

    def loss(self, step: int) -> Tensor:
        clips, (text, mask, pooled) = self.batches[step]
        config, rng = self.config, torch_generator(self.config.seed, "clips step", step)
        dtype = next(self.network.parameters()).dtype
        if not clips:  # all of this step's videos were broken
            return torch.stack([value.sum() for value in self.network.parameters() if value.requires_grad]).sum() * 0.0
        count = len(clips)
        sigma = flow.logit_normal(count, rng, shift=config.shift)
        silent = torch.rand(count, generator=rng) < config.caption_dropout
        rows = torch.arange(count).masked_fill(silent, count)
        told = torch.rand(count, generator=rng) < config.given
        noises, known, kept, counted = [], [], [], []
        drop = drop_rate(step, config.steps, config.drop_tokens)
        patch = (1, self._side, self._side)
        for index, clean in enumerate(clips):
            noises.append(torch.randn(clean.shape, generator=rng))
            given = torch.zeros(clean.shape[1:], dtype=torch.bool)
            if told[index] and clean.shape[1] > 1:
                given = random_mask(grid_of(clean.shape, (1, 1, 1)), self._side, rng)
            known.append(given)
            kept.append(draw_kept(num_tokens(clean.shape, patch), drop, rng) if drop else None)
            counted.append(~given & kept_cells(clean.shape, patch, kept[-1]))
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
            ((velocity.float() - flow.velocity(clean, noise)).square() * cells).sum()
            for velocity, clean, noise, cells in zip(made, clips, noises, counted, strict=True)
        ]
        num = sum(int(cells.sum()) for cells in counted) * clips[0].shape[0]
        return torch.stack(errors).sum() / max(1, num)

    def save(self, folder: Path) -> None:
        self.batches.close()
        if self.config.lora_rank:
            lora.save(self.network, folder)
        else:
            self.network.half().save_pretrained(folder)  # type: ignore[operator]
        atomic_write(folder / "provenance.json", json.dumps(self.provenance, indent=2) + "\n")
