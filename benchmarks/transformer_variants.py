"""What each denoiser costs, and what it learns for the same computation: time, memory and FLOPs against tokens.

python benchmarks/transformer_variants.py [--only NAME ...] [--batch 4]                     cost
python benchmarks/transformer_variants.py --out DIR [--budget TFLOP --seeds 2] [--width 96 --layers 4]    quality

Cost is one training step (forward and backward), one thread, per clip; memory is what a clip keeps for the backward
pass. With --out every variant is trained on latents of the shipped codec by the recipe's loss, each for as many steps
as the budget of floating point operations pays for, and judged by the velocity's error on held-out clips at fixed
noise levels. DIR/variants.jsonl keeps every training, and a second call adds what is missing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

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
from core.files import append_line, read_lines
from core.stats import mean_interval

BATCH = 16  # clips of a training step
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


def learned(network: nn.Module, steps: int, train: tuple, seed: int) -> None:
    """`steps` of AdamW at 1e-3 with linear warm-up and decay."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        rng = torch.Generator().manual_seed(seed * 10**6 + step)
        rows = torch.randint(len(train[0]), (BATCH,), generator=rng)
        loss = error(network, train, rows, torch.sigmoid(torch.randn(BATCH, generator=rng)), rng).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def held_out_error(network: nn.Module, held: tuple) -> list[float]:
    """`error` of each clip of `held`, mean over four noise levels, the same noise always; predicting nothing: 2."""
    rng = torch.Generator().manual_seed(10**6)
    rows = torch.arange(len(held[0]))
    found = [error(network, held, rows, torch.full((len(rows),), s), rng) for s in (0.2, 0.4, 0.6, 0.8)]
    return torch.stack(found).mean(0).tolist()


def error(network: nn.Module, data: tuple, rows: Tensor, sigma: Tensor, rng: torch.Generator) -> Tensor:
    """Mean squared error [row] of the velocity at noise levels `sigma`, shifted as the recipe does."""
    clean, (text, mask, pooled) = data[0][rows], (part[rows] for part in data[1])
    sigma = 3.0 * sigma / (1.0 + 2.0 * sigma)
    noise = torch.randn(clean.shape, generator=rng)
    predicted = network(flow.interpolate(clean, noise, sigma), sigma, text, mask, pooled)
    return (predicted - flow.velocity(clean, noise)).square().flatten(1).mean(1)


def small(name: str, width: int, layers: int) -> nn.Module:
    """The variant in these sizes; of the U-Net, two widths whose mean is half of `width`."""
    size = {"widths": (width // 3, width // 3 * 2)} if name == "unet" else {"width": width, "num_layers": layers}
    return VARIANTS[name](**SIZES, **size)


def quality(options: argparse.Namespace) -> None:
    """Train what is missing, one seed of all variants after another, and print the table."""
    table = options.out / "variants.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    train, held = encoded(options.num_clips, "train"), encoded(64, "heldout")
    for seed in range(options.seeds):
        for name in options.only:
            rows = read_lines(table) if table.exists() else []
            if any((row["name"], row["seed"]) == (name, seed) for row in rows):
                continue
            torch.manual_seed(seed)
            network = small(name, options.width, options.layers)
            steps = max(1, round(options.budget * 1e12 / (BATCH * training_flops(network, GRIDS[0]))))
            begin = time.process_time()
            learned(network, steps, train, seed)
            spent = {"steps": steps, "seconds": time.process_time() - begin}
            append_line(table, {"name": name, "seed": seed, **spent, "errors": held_out_error(network, held)})
    show(read_lines(table))


def show(rows: list[dict]) -> None:
    """A line per variant, best first: error, its difference to joint attention, clip by clip, and each seed's error."""
    mean = {
        name: np.mean([row["errors"] for row in rows if row["name"] == name], axis=0)
        for name in {row["name"] for row in rows}
    }
    print(f"{'':20s}{'steps':>6s}{'CPU s':>7s}{'error':>7s}  difference to joint, 95 % over clips   each seed")
    for name in sorted(mean, key=lambda name: mean[name].mean()):
        own = [row for row in rows if row["name"] == name]
        line = f"{name:20s}{own[0]['steps']:6d}{np.mean([row['seconds'] for row in own]):7.0f}{mean[name].mean():7.3f}"
        found = mean_interval(mean[name] - mean["joint"]) if name != "joint" and "joint" in mean else None
        told = f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]" if found else ""
        print(f"{line}  {told:37s}  {' '.join('{:.3f}'.format(np.mean(row['errors'])) for row in own)}")


def cost_table(options: argparse.Namespace) -> None:
    heads = "".join(f"  {t * h * w // 4:>5d} tokens: ms   MiB GFLOP" for t, h, w in GRIDS[: options.grids])
    print(f"{'':20s}{'params':>8s}{heads}")
    for name in options.only:
        network = small(name, options.width, options.layers)
        line = f"{name:20s}{sum(value.numel() for value in network.parameters()) / 1e6:7.2f}M"
        for grid in GRIDS[: options.grids]:
            line += "{:18.0f}{:6.0f}{:6.1f}".format(*cost(network, grid, options.batch))
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--batch", type=int, default=2, help="cost: clips of a step")
    parser.add_argument("--grids", type=int, default=3, help="cost: how many of the sizes, smallest first")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder of the trainings; without it cost is measured")
    parser.add_argument("--budget", type=float, default=0.3, help="TFLOP of a training")
    parser.add_argument("--num-clips", type=int, default=256, help="training clips")
    parser.add_argument("--seeds", type=int, default=2, help="trainings per variant, of other weights and batches")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.out:
        quality(options)
    else:
        cost_table(options)


if __name__ == "__main__":
    main()
