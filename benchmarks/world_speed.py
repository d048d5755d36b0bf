"""Speed of the sandbox world: `python benchmarks/world_speed.py [clips] [processes]`. Goal: 200 clips/s, two cores."""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")

from base_model.world.dataset import make_clip


def seconds(start: int, count: int) -> float:
    """Wall seconds of drawing `count` clips with web noise, from index `start`."""
    begin = time.perf_counter()
    for index in range(start, start + count):
        make_clip(0, index, noise=0.25)
    return time.perf_counter() - begin


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    processes = int(sys.argv[2]) if len(sys.argv) > 2 else min(2, os.cpu_count() or 1)
    each = count // processes
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(seconds, [0] * processes, [4] * processes))  # imports and first draws are no part of it
        spent = list(pool.map(seconds, range(0, each * processes, each), [each] * processes))
    print(f"{each * processes / max(spent):.0f} clips/s: {each * processes} clips, {processes} processes")


if __name__ == "__main__":
    main()
