"""How long do the set distances take from cached features, and how much memory? Aim: both under 2 s, 500 MB.

    python benchmarks/distances.py [--num-videos 2048] [--dim 400]

Two sets of features with a 1/k spectrum; every distance once, in a process of its own, so that the peak is its own. The
Frechet distance is held against scipy's matrix root. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from multiprocessing import get_context

import numpy as np
from scipy import linalg

from eval import fvd, mmd, neighbours

DISTANCES = {
    "frechet": fvd.distance,
    "mmd": mmd.distance,
    "precision": neighbours.precision,
    "coverage": neighbours.coverage,
    "infinity": fvd.infinity,
}


def features(num_videos: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scale = 1 / np.sqrt(np.arange(1, dim + 1))
    return rng.standard_normal((num_videos, dim)) * scale, rng.standard_normal((num_videos, dim)) * scale + 0.01


def measure(name: str, num_videos: int, dim: int) -> dict[str, float]:
    one, two = features(num_videos, dim)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    value = DISTANCES[name](one, two)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"value": value, "seconds": round(seconds, 3), "more_mb": round((peak - before) / 1024)}
    if name == "frechet":
        (mean_a, cov_a), (mean_b, cov_b) = fvd.moments(one), fvd.moments(two)
        root = linalg.sqrtm(cov_a @ cov_b).real
        expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
        found["relative_error_to_sqrtm"] = abs(value - expected) / expected
    return found | {"process_mb": round(peak / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-videos", type=int, default=2048, help="videos a side")
    parser.add_argument("--dim", type=int, default=400, help="dimensions of the features")
    options = parser.parse_args()
    rows = {}
    for name in DISTANCES:
        with get_context("spawn").Pool(1) as pool:
            rows[name] = pool.apply(measure, (name, options.num_videos, options.dim))
    together = rows["frechet"]["seconds"] + rows["mmd"]["seconds"]
    shape = {"num_videos": options.num_videos, "dim": options.dim}
    print(json.dumps(shape | {"frechet_and_mmd_seconds": round(together, 3)} | rows))


if __name__ == "__main__":
    main()
