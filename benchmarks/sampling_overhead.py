"""What do sampling and training cost beyond the network? CPU seconds of the loops against those of the network alone.

Sampling: against steps x one forward, in turn, so that what else the machine does falls on both; the median ratio is
shown. Training (`--train-batch`): a step of `soralign pretrain`, as the difference of a longer and a shorter run,
against one forward and backward of as many whole clips.

python benchmarks/sampling_overhead.py [--model sandbox] [--num-steps 20] [--batch 16] [--repeats 5] [--train-batch 64]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

import base_model
from base_model import sampler, solvers
from base_model.native import fast_dtype
from base_model.options import WEIGHTS
from base_model.pretrain import PretrainConfig, pretrain
from base_model.variants import load_transformer


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """CPU seconds of one call, the mean over `repeats`."""
    begin = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - begin) / repeats


def training(batch: int, steps: int = 4) -> float:
    """CPU seconds of one training step over those of forward and backward; runs of `steps` and 3 x `steps` steps."""
    network = load_transformer(WEIGHTS / "transformer").to(fast_dtype())
    latents, text = torch.randn(batch, 12, 5, 8, 8), torch.randn(batch, 40, 128, dtype=network.dtype)
    mask, pooled = torch.arange(40)[None].expand(batch, -1) < 24, torch.randn(batch, 128, dtype=network.dtype)

    def alone() -> None:
        network(latents.to(network.dtype), torch.full((batch,), 0.5), text, mask, pooled).square().mean().backward()

    with tempfile.TemporaryDirectory() as folder:

        def run(count: int) -> None:
            config = PretrainConfig(
                part="transformer",
                steps=count,
                batch=batch,
                num_clips=64,
                save_every=10**6,
                start=str(WEIGHTS / "transformer"),
                codec=str(WEIGHTS / "vae"),
                clip=str(WEIGHTS / "clip"),
                latents=f"{folder}/latents",
            )
            pretrain(config, Path(folder) / str(count))

        run(1)  # encodes the clips
        alone()
        spent = [seconds(partial(run, count)) for count in (steps, 3 * steps)]
        return (spent[1] - spent[0]) / (2 * steps) / seconds(alone, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train-batch", type=int, default=64, help="clips of a training step; 0 = sampling only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sampling(options)
    if options.train_batch:
        print(f"training {training(options.train_batch):.3f} x forward and backward of {options.train_batch} clips")


@torch.no_grad()
def sampling(options: argparse.Namespace) -> None:
    """Print what a forward costs, and what every solver's loop costs in forwards."""
    generator = base_model.load(options.model)
    condition = generator.encode_prompts(["a red ball bounces"] * options.batch)
    noise = sampler.initial_noise(generator, range(options.batch))
    schedule = generator.schedule(options.num_steps)
    step = torch.full((options.batch,), options.num_steps // 2)

    def forward() -> torch.Tensor:
        return generator.predict(noise, step, schedule, condition)

    forward()
    print(f"one forward of {options.batch} clips: {1000 * seconds(forward, 8):.1f} ms of CPU")
    for name in solvers.NAMES:
        how = sampler.Sampling(num_steps=options.num_steps, solver=name)
        forwards = 2 * options.num_steps - 1 if name == "heun" else options.num_steps
        rng = sampler.solver_noise(range(options.batch))

        def call(how: sampler.Sampling = how, rng: Sequence[torch.Generator] = rng) -> torch.Tensor:
            return sampler.draw(sampler.solve(generator, condition, noise=noise, sampling=how, rng=rng))

        ratios = [seconds(call) / (forwards * seconds(forward, 8)) for _ in range(options.repeats)]
        print(f"{name:<8} {statistics.median(ratios):.3f} x {forwards} forwards")


if __name__ == "__main__":
    main()
