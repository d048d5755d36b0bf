"""What each denoiser costs, and what it learns for the same computation: time, memory and FLOPs against tokens.

python benchmarks/transformer_variants.py [--only NAME ...] [--batch 4]                     cost
python benchmarks/transformer_variants.py --out DIR [--seeds 3] [--rates 1e-3 2e-3] [--width 96 --layers 4]    quality

Cost is one training step (forward and backward), one thread, per clip; memory is what a clip keeps for the backward
pass. With --out every variant is a run of `soralign pretrain` on latents of the shipped codec, of as many steps as the
budget of floating point operations pays for, and judged by the velocity's error on held-out clips at fixed noise
levels. The first seed is trained with every rate, the others with the rate that was best for that variant.
DIR/variants.jsonl keeps every training, and a second call adds what is missing.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from base_model import flow
from base_model.codec.load import load_codec
from base_model.options import WEIGHTS
from base_model.pretrain import PretrainConfig, pretrain
from base_model.pretrain.transformer import begin_network
from base_model.text import load_clip
from base_model.variants import VARIANTS, load_transformer
from base_model.world.dataset import make_clip
from core.files import append_line, read_lines

BATCH = 16  # clips of a training step
GRIDS = [(5, 8, 8), (9, 8, 8), (5, 16, 16), (17, 16, 16)]  # 17x64x64, 33x64x64, 17x128x128, 65x128x128 pixels


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
    vae = load_codec(WEIGHTS / "vae")
    clips = [make_clip(3, index, split=split) for index in range(count)]
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    with torch.no_grad():
        latents = torch.cat([vae.encode(part) for part in frames.split(16)])
        return latents, load_clip().text_tokens([clip.prompt for clip in clips])


def recipe(out: Path, num_clips: int, seed: int) -> PretrainConfig:
    """The run of every training but for its network and steps; its clips are encoded once for all of one seed."""
    return PretrainConfig(
        part="transformer",
        batch=BATCH,
        learning_rate=1e-3,
        warmup=20,
        decay=0.5,
        num_clips=num_clips,
        noise=0.1,
        caption_dropout_given=0.1,
        codec=str(WEIGHTS / "vae"),
        clip=str(WEIGHTS / "clip"),
        latents=str(out / f"latents-{seed}"),
        save_every=1000,
        seed=seed,
    )


def trained(config: PretrainConfig, budget: float, held: tuple, folder: Path) -> dict[str, Any]:
    """Train the network that `config` names for `budget` TFLOP; what it took, and `held_out_error` of the result."""
    vae, clip = load_codec(config.codec), load_clip()
    flops = training_flops(begin_network(config, vae, clip), GRIDS[0])
    steps = max(1, round(budget * 1e12 / flops / config.batch))
    begin = time.process_time()
    run = pretrain(replace(config, steps=steps), folder)
    spent = {"steps": steps, "tflop": steps * config.batch * flops / 1e12, "seconds": time.process_time() - begin}
    network = load_transformer(run.folder / "transformer").eval()
    parameters = sum(value.numel() for value in network.parameters())
    return {**spent, "parameters": parameters, "errors": held_out_error(network, held)}


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


def best_rate(rows: list[dict[str, Any]], name: str) -> float:
    """The learning rate with which the first seed of variant `name` came to the least error."""
    first = [row for row in rows if row["name"] == name and row["seed"] == 0]
    return min(first, key=lambda row: mean(row["errors"]))["learning_rate"]


def quality(options: argparse.Namespace) -> None:
    """Train what is missing, one seed of all variants after another, and print the table."""
    table, held = options.out / "variants.jsonl", encoded(256, "heldout")
    for seed in range(options.seeds):
        config = replace(recipe(options.out, options.num_clips, seed), width=options.width, num_layers=options.layers)
        for name in options.only:
            for rate in options.rates if seed == 0 else [best_rate(read_lines(table), name)]:
                rows = read_lines(table) if table.exists() else []
                if not any((row["name"], row["seed"], row["learning_rate"]) == (name, seed, rate) for row in rows):
                    folder = options.out / f"{name}-{seed}-{rate:g}"
                    found = trained(replace(config, variant=name, learning_rate=rate), options.budget, held, folder)
                    append_line(table, {"name": name, "seed": seed, "learning_rate": rate, **found})
    show(read_lines(table))


def show(rows: list[dict[str, Any]]) -> None:
    """A line per variant, best first: error at its best rate, and of each seed the difference to joint attention."""
    rates = {name: best_rate(rows, name) for name in {row["name"] for row in rows}}
    chosen = [row for row in rows if row["learning_rate"] == rates[row["name"]]]
    errors = {name: {row["seed"]: mean(row["errors"]) for row in chosen if row["name"] == name} for name in rates}
    print(f"{'':20s}{'rate':>8s}{'steps':>6s}{'CPU s':>7s}{'error':>7s}  each seed less joint's")
    for name in sorted(errors, key=lambda name: mean(errors[name].values())):
        own = [row for row in chosen if row["name"] == name]
        line = f"{name:20s}{rates[name]:8g}{own[0]['steps']:6d}{mean(row['seconds'] for row in own):7.0f}"
        joint = errors.get("joint", {})
        told = "  ".join(f"{value - joint[seed]:+.3f}" for seed, value in errors[name].items() if seed in joint)
        print(f"{line}{mean(errors[name].values()):7.3f}  {told}")


def cost_table(options: argparse.Namespace) -> None:
    vae, clip = load_codec(str(WEIGHTS / "vae")), load_clip()
    heads = "".join(f"  {t * h * w // 4:>5d} tokens: ms   MiB GFLOP" for t, h, w in GRIDS[: options.grids])
    print(f"{'':20s}{'params':>8s}{heads}")
    for name in options.only:
        config = PretrainConfig(part="transformer", variant=name, width=options.width, num_layers=options.layers)
        network = begin_network(config, vae, clip)
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
    parser.add_argument("--budget", type=float, default=6.0, help="TFLOP of a training")
    parser.add_argument("--num-clips", type=int, default=8192, help="training clips")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per variant, of other weights and batches")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1e-3], help="learning rates that the first seed tries"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.out:
        quality(options)
    else:
        cost_table(options)


if __name__ == "__main__":
    main()
