"""Does more optimisation of a learned reward still help? Proxy and gold against the distance from the base model.

Best of n: of N clips per prompt, the expected proxy and gold score of the clip that the proxy likes best among n drawn
ones, by the unbiased estimator over all subsets; the distance is sqrt(log n - (n - 1) / n). One head stands against the
ensemble by its three rules, all taught by the same few noisy votes, as points of a CSV and as a plot. The proxies learn
from the clips of `reward_quality.py` (its --cache); the prompts here are others.

python benchmarks/over_optimisation.py --cache FILE [--votes 500] [--num-prompts 12] [--num-clips 64] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np
import torch
from reward_quality import _clips, _examples
from torch import Tensor

import base_model
from base_model.sampler import generate_frames
from base_model.world import dataset
from core.progress import track
from core.randomness import seed_for
from core.stats import mean_interval
from eval.best_of_n import expected, kl
from reward.annotators import gold_utility
from reward.backbone import SandboxBackbone
from reward.ensemble import AGGREGATIONS
from reward.train import fit
from reward.train_config import TrainConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="features and gold of reward_quality.py")
    parser.add_argument("--votes", type=int, default=500, help="pairs that the proxies learn from")
    parser.add_argument("--noise", type=float, default=0.25, help="share of wrong votes")
    parser.add_argument("--num-prompts", type=int, default=12)
    parser.add_argument("--num-clips", type=int, default=64, help="clips per prompt; the largest n")
    parser.add_argument("--out", type=Path, default=Path("runs/over_optimisation"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    eyes = SandboxBackbone()
    features, gold = _pool(eyes, options.num_prompts, options.num_clips, options.out / "pool.npz")
    proxies = _proxies(eyes, options.cache, options.votes, options.noise, features)
    truth = _within(gold, options.num_prompts)
    rows: list[list] = []
    for name, proxy in proxies.items():
        score = _within(proxy, options.num_prompts)
        for n in (2**power for power in range(int(math.log2(options.num_clips)) + 1)):
            told = np.mean([expected(row, row, n) for row in score])
            gain = mean_interval([expected(one, two, n) for one, two in zip(score, truth, strict=True)])
            rows.append([name, n, math.sqrt(kl(n)), told, gain.value, gain.low, gain.high])
            print("{:>10} n {:>3} distance {:.2f} proxy {:+.2f} gold {:+.3f} [{:+.3f}, {:+.3f}]".format(*rows[-1]))
    with (options.out / "curve.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["judge", "n", "sqrt_kl", "proxy", "gold", "low", "high"], *rows])
    _plot(rows, options.out / "curve.html")
    print(f"{options.out}/curve.csv, {options.out}/curve.html")


def _within(values: np.ndarray, num_prompts: int) -> np.ndarray:
    """Values [clip] less their prompt's mean, in spreads within a prompt, [prompt, clip]."""
    table = values.reshape(num_prompts, -1)
    table = table - table.mean(1, keepdims=True)
    return table / table.std()


def _pool(eyes: SandboxBackbone, num_prompts: int, num_clips: int, cache: Path) -> tuple[Tensor, np.ndarray]:
    """Features [clip, feature] and gold overall [clip] of many clips for few held-out prompts."""
    distinct = dataset.prompts(seed_for(1, "over-optimisation"), num_prompts, "heldout", most_objects=1)
    prompts = [prompt for prompt in distinct for _ in range(num_clips)]
    if cache.exists():
        held = np.load(cache)
        return torch.from_numpy(held["features"]), held["gold"]
    generator = base_model.load("sandbox")
    features, gold = [], []
    for start in track(range(0, len(prompts), 32), "clips"):
        rows = prompts[start : start + 32]
        seeds = [seed_for(1, "pool", index) for index in range(start, start + len(rows))]
        frames = generate_frames(generator, rows, seeds=seeds, num_steps=10, batch=32)
        with torch.no_grad():
            features.append(eyes.features(frames, rows))
        gold += [gold_utility(clip.numpy(), text)["overall"] for clip, text in zip(frames, rows, strict=True)]
    np.savez(cache, features=torch.cat(features).numpy(), gold=np.array(gold))
    return torch.cat(features), np.array(gold)


def _proxies(eyes: SandboxBackbone, cache: Path, votes: int, noise: float, features: Tensor) -> dict[str, np.ndarray]:
    """Scores of the pool by one head and by five heads under every rule."""
    clips = _clips(0, 0, cache)
    data, parts = _examples(clips, votes, noise, 0)
    one = fit(clips.features, data, parts, eyes, TrainConfig(num_heads=1))
    five = fit(clips.features, data, parts, eyes, TrainConfig())
    with torch.no_grad():
        column = data.aspects.index("overall")
        each = five.normalised(features)[..., column]
        alone = one.normalised(features)[0, :, column]
    return {"one head": alone.numpy()} | {name: rule(each).numpy() for name, rule in AGGREGATIONS.items()}


def _plot(rows: list[list], path: Path) -> None:
    import altair as alt
    import pandas as pd

    table = pd.DataFrame(rows, columns=["judge", "n", "sqrt_kl", "proxy", "gold", "low", "high"])
    base = alt.Chart(table).encode(x=alt.X("sqrt_kl", title="distance from the base model, sqrt(KL)"), color="judge")
    gold = base.mark_line(point=True).encode(y=alt.Y("gold", title="gain in spreads within a prompt"))
    proxy = base.mark_line(strokeDash=[4, 4]).encode(y="proxy")
    (gold + proxy).properties(width=600, height=380, title="gold (solid) and proxy (dashed), best of n").save(path)


if __name__ == "__main__":
    main()
