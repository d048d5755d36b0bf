"""How many claim+vote transactions a second the preference store takes from 32 threads, each acknowledged on disk.

    python benchmarks/store_speed.py [--threads 32] [--seconds 5] [--store postgresql://...]

A transaction here is what an annotator causes: one pair claimed and one label given, two acknowledged writes. Every
acknowledged label is looked for afterwards, and no pair may have more labels than its target.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from core import video
from core.preferences import Settings, Store


def fill(store: Store, folder: Path, num_pairs: int) -> None:
    """Pairs of two small videos, three labels wanted each."""
    frames = np.random.default_rng(0).random((4, 3, 32, 32), dtype=np.float32)
    for name, brightness in (("a", 0.5), ("b", 1.0)):
        video.write(folder / f"{name}.mp4", frames * brightness, 8.0)
    a, b = (store.add_video(folder / f"{name}.mp4") for name in "ab")
    with store.transaction():
        for index in range(num_pairs):
            store.add_pair(f"prompt {index}", a, b, target_votes=3)
    store.save_settings(Settings(gold_share=0.0))


def measure(store: Store, num_threads: int, seconds: float) -> dict[str, float]:
    """Label from many threads for a while; the figures, after checking that nothing was lost or doubled."""
    given: list[list[tuple[int, str]]] = [[] for _ in range(num_threads)]
    waits: list[list[float]] = [[] for _ in range(num_threads)]
    end = time.perf_counter() + seconds

    def work(number: int) -> None:
        name = f"annotator {number}"
        while time.perf_counter() < end:
            start = time.perf_counter()
            lease = store.claim(name)
            if lease is None:
                return
            store.vote(lease.id, store.aspects[-1], "left")
            waits[number].append(time.perf_counter() - start)
            given[number].append((lease.pair_id, name))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_threads)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    acknowledged = sorted(label for labels in given for label in labels)
    assert acknowledged == sorted((vote.pair_id, vote.annotator) for vote in store.votes()), (
        "a label was lost or doubled"
    )
    assert max(Counter(pair for pair, _ in acknowledged).values()) <= 3, "a pair has more labels than its target"
    latency = np.array([wait for some in waits for wait in some]) * 1000
    return {
        "threads": num_threads,
        "labels": len(acknowledged),
        "claim_and_vote_per_second": round(len(acknowledged) / took, 1),
        "p50_milliseconds": round(float(np.percentile(latency, 50)), 1),
        "p95_milliseconds": round(float(np.percentile(latency, 95)), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--store", help="an empty Postgres database; a temporary file if not given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(options.store or Path(folder) / "speed.db", folder=folder)
        fill(store, Path(folder), int(options.seconds * 3000))
        print(json.dumps({"store": store.name.split("?")[0]} | measure(store, options.threads, options.seconds)))


if __name__ == "__main__":
    main()
