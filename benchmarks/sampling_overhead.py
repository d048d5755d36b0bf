"""What does sampling cost beyond the network? CPU seconds of the loop against steps x one forward.

Forward and loop are timed in turn, so that what else the machine does falls on both; the median ratio is shown.

python benchmarks/sampling_overhead.py [--model sandbox] [--num-steps 20] [--batch 16] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

import base_model
from base_model import sampler, solvers


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """CPU seconds of one call, the mean over `repeats`."""
    begin = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - begin) / repeats


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
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
        sampling = sampler.Sampling(num_steps=options.num_steps, solver=name)
        forwards = 2 * options.num_steps - 1 if name == "heun" else options.num_steps
        rng = sampler.solver_noise(range(options.batch))
        call = partial(sampler.draw, generator, condition, noise=noise, sampling=sampling, rng=rng)
        ratios = [seconds(call) / (forwards * seconds(forward, 8)) for _ in range(options.repeats)]
        print(f"{name:<8} {statistics.median(ratios):.3f} x {forwards} forwards")


if __name__ == "__main__":
    main()
