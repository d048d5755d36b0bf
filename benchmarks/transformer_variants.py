"""What each denoiser costs, and what it learns in the same steps: time, memory and FLOPs against tokens.

python benchmarks/transformer_variants.py [--only NAME ...] [--batch 4] [--steps N --num-clips 256 --seeds 2]

Cost is one training step (forward and backward), one thread, per clip; memory is what a clip keeps for the backward
pass. With --steps every variant is trained on latents of the shipped codec by the recipe's loss and judged by the
velocity's error on held-out clips, at fixed noise levels; equal steps, not equal time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from base_model import flow
from base_model.codec.vae import CausalVideoVAE
from base_model.options import WEIGHTS
from base_model.text import load_clip
from base_model.variants import VARIANTS
from base_model.world.dataset import make_clip

GRIDS = [(5, 8, 8), (9, 8, 8), (5, 16, 16), (17, 16, 16)]  # 17x64x64, 33x64x64, 17x128x128, 65x128x128 pixels
SIZES = {"in_channels": 12, "text_width": 128, "pooled_width": 128}


def inputs(grid: tuple[int, int, int], batch: int) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    mask = torch.arange(40)[None].expand(batch, -1) < 24
    text, pooled = torch.randn(batch, 40, 128, generator=rng), torch.randn(batch, 128, generator=rng)
    return torch.randn(batch, 12, *grid, generator=rng), torch.full((batch,), 0.5), text, mask, pooled


def cost(network: nn.Module, grid: tuple[int, int, int], batch: int) -> tuple[float, float, float]:
    """(milliseconds, MiB kept for the backward pass, GFLOPs) of one training step, per clip."""
    given, seen = inputs(grid, batch), {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        loss = network(*given).square().mean()
        loss.backward()
    spent = []
    for _ in range(2):
        begin = time.perf_counter()
        network(*given).square().mean().backward()
        spent.append(time.perf_counter() - begin)
    return 1e3 * min(spent) / batch, sum(seen.values()) / batch / 2**20, training_flops(network, grid, batch) / 1e9


def training_flops(network: nn.Module, grid: tuple[int, int, int], batch: int = 1) -> float:
    """Floating point operations of the matrix products of one training step, per clip, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        network(*inputs(grid, batch)).square().mean().backward()
    return counter.get_total_flops() / batch


def encoded(count: int, split: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Latents of sandbox clips and what the text tower says of their prompts."""
    vae = CausalVideoVAE.from_pretrained(str(WEIGHTS / "vae"), low_cpu_mem_usage=False).float().eval()
    clips = [make_clip(3, index, split=split) for index in range(count)]
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    with torch.no_grad():
        latents = torch.cat([vae.encode(part) for part in frames.split(16)])
        return latents, load_clip().text_tokens([clip.prompt for clip in clips])


def learned(
    network: nn.Module, steps: int, train: tuple, held: tuple, seed: int = 0, batch: int = 16
) -> tuple[float, float]:
    """(`held_out_error`, seconds) after `steps` of AdamW at 1e-3 with linear warm-up and decay."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    begin = time.perf_counter()
    for step in range(steps):
        rng = torch.Generator().manual_seed(seed * 10**6 + step)
        rows = torch.randint(len(train[0]), (batch,), generator=rng)
        loss = error(network, train, rows, torch.sigmoid(torch.randn(batch, generator=rng)), rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
        optimizer.step()
        optimizer.zero_grad()
    return held_out_error(network, held), time.perf_counter() - begin


@torch.no_grad()
def held_out_error(network: nn.Module, held: tuple) -> float:
    """Mean of `error` over all clips of `held`, at four noise levels, the same noise always; predicting nothing: 2."""
    rng = torch.Generator().manual_seed(10**6)
    rows = torch.arange(len(held[0]))
    found = [error(network, held, rows, torch.full((len(rows),), s), rng) for s in (0.2, 0.4, 0.6, 0.8)]
    return float(torch.stack(found).mean())


def error(network: nn.Module, data: tuple, rows: Tensor, sigma: Tensor, rng: torch.Generator) -> Tensor:
    """Mean squared error of the velocity at noise levels `sigma`, shifted as the recipe does."""
    clean, (text, mask, pooled) = data[0][rows], (part[rows] for part in data[1])
    sigma = 3.0 * sigma / (1.0 + 2.0 * sigma)
    noise = torch.randn(clean.shape, generator=rng)
    predicted = network(flow.interpolate(clean, noise, sigma), sigma, text, mask, pooled)
    return (predicted - flow.velocity(clean, noise)).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--grids", type=int, default=3, help="how many of the sizes, smallest first")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--num-clips", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=1, help="trainings per variant, of other weights and batches")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = (encoded(options.num_clips, "train"), encoded(64, "heldout")) if options.steps else None
    size: dict[str, object]
    heads = "".join(f"  {t * h * w // 4:>5d} tokens: ms   MiB GFLOP" for t, h, w in GRIDS[: options.grids])
    print(f"{'':20s}{'params':>8s}{heads}{'  error  seconds' * options.seeds if data else ''}")
    for name in options.only:
        size = {"widths": (options.width // 3, options.width // 3 * 2)}
        if name != "unet":
            size = {"width": options.width, "num_layers": options.layers}
        network = VARIANTS[name](**SIZES, **size)
        line = f"{name:20s}{sum(value.numel() for value in network.parameters()) / 1e6:7.2f}M"
        for grid in GRIDS[: options.grids]:
            line += "{:18.0f}{:6.0f}{:6.1f}".format(*cost(network, grid, options.batch))
        for seed in range(options.seeds if data else 0):
            torch.manual_seed(seed)
            network = VARIANTS[name](**SIZES, **size)
            line += "{:7.3f}{:9.0f}".format(*learned(network, options.steps, *data, seed))
        print(line, flush=True)


if __name__ == "__main__":
    main()
