"""Training tokens/s and padding share on a mixed set: packing against padding and bucketing.

python benchmarks/packing.py [--num-clips 48] [--budget 512] [--batch 8]

The set mixes durations, sizes and aspects as the sandbox's latents have them. A token counts when it belongs to a
clip; time is forward and backward of the shipped width, one thread, all ways over the same clips.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from base_model.dit.pack import buckets, draw_kept, fill, num_tokens, packed_velocity
from base_model.dit.segments import Kernel
from base_model.transformer import VideoTransformer

GRIDS = [(1, 8, 8), (1, 12, 12), (3, 8, 8), (5, 8, 8), (5, 6, 12), (5, 12, 8), (7, 8, 8), (9, 8, 8)]
WORDS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-clips", type=int, default=48)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    network = VideoTransformer()
    patch = (1, network.patch_size, network.patch_size)
    chosen = torch.randint(len(GRIDS), (options.num_clips,), generator=rng).tolist()
    clips = [torch.randn(12, *GRIDS[index], generator=rng) for index in chosen]
    lengths = [num_tokens(clip.shape, patch) for clip in clips]

    def words(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mask = torch.arange(40)[None].expand(count, -1) < WORDS
        return torch.full((count,), 0.5), torch.randn(count, 40, 128), mask, torch.randn(count, 128)

    def padded(index: list[int]) -> tuple[Tensor, int]:
        sides = [max(clips[i].shape[axis] for i in index) for axis in (1, 2, 3)]
        joined = torch.zeros(len(index), 12, *sides)
        for row, i in enumerate(index):
            _, t, h, w = clips[i].shape
            joined[row, :, :t, :h, :w] = clips[i]
        return network(joined, *words(len(index))).square().mean(), num_tokens(joined.shape, patch) * len(index)

    def packed(index: list[int], kernel: Kernel, drop: float = 0.0) -> tuple[Tensor, int]:
        kept = [draw_kept(lengths[i], drop, rng) for i in index] if drop else None
        out = packed_velocity(network, [clips[i] for i in index], *words(len(index)), kept=kept, kernel=kernel)
        return torch.stack([part.square().mean() for part in out]).mean(), sum(map(len, kept or [])) or sum(
            lengths[i] for i in index
        )

    order = list(range(len(clips)))
    batches = [order[start : start + options.batch] for start in range(0, len(order), options.batch)]
    packs = fill(lengths, options.budget)
    ways: list[tuple[str, list[list[int]], Callable[[list[int]], tuple[Tensor, int]]]] = [
        ("padding", batches, padded),
        ("buckets", buckets([clip.shape for clip in clips], options.batch), padded),
        ("packing, mask", packs, lambda index: packed(index, "mask")),
        ("packing, split", packs, lambda index: packed(index, "split")),
        ("packing, split, half dropped", packs, lambda index: packed(index, "split", 0.5)),
    ]
    unfilled = 1.0 - sum(lengths) / (len(packs) * options.budget)
    print(f"{len(clips)} clips of {len(GRIDS)} shapes, {sum(lengths)} tokens; {unfilled:.3f} of the budget unfilled")
    print(f"{'':30s}{'steps':>6s}{'padding':>9s}{'tokens/s':>10s}{'clips/s':>9s}")
    for name, groups, step in ways:
        step(groups[0])[0].backward()
        begin, computed = time.perf_counter(), 0
        for index in groups:
            loss, count = step(index)
            loss.backward()
            computed += count
        seconds = time.perf_counter() - begin
        useful = min(computed, sum(lengths))
        share = 1.0 - useful / computed
        print(f"{name:30s}{len(groups):6d}{share:9.3f}{useful / seconds:10.0f}{len(clips) / seconds:9.1f}")


if __name__ == "__main__":
    main()
