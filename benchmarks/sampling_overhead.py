"""What does sampling cost beyond the network? Seconds of `generate_frames` without decoding against steps x one forward.

python benchmarks/sampling_overhead.py [--model sandbox] [--num-steps 20] [--batch 16] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import base_model
from base_model import sampler, solvers


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median wall seconds of a call, after one that is not counted."""
    spent = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent[1:])


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
    forward = seconds(lambda: generator.predict(noise, step, schedule, condition), 4 * options.repeats)
    print(f"one forward of {options.batch} clips: {1000 * forward:.1f} ms")
    for name in solvers.NAMES:
        sampling = sampler.Sampling(num_steps=options.num_steps, solver=name)
        forwards = 2 * options.num_steps - 1 if name == "heun" else options.num_steps
        rng = sampler.solver_noise(range(options.batch))

        def call(sampling: sampler.Sampling = sampling, rng: list[torch.Generator] = rng) -> torch.Tensor:
            return sampler.draw(generator, condition, noise=noise, sampling=sampling, rng=rng)

        spent = seconds(call, options.repeats)
        print(f"{name:<8} {spent:.3f} s = {spent / (forwards * forward):.3f} x {forwards} forwards")


if __name__ == "__main__":
    main()
