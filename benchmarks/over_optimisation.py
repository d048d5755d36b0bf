"""Does more optimisation of a learned reward still help? Proxy and gold against the distance from the base model.

One head stands against an ensemble of five, taught by the same few noisy votes; they learn from the clips of
`reward_quality.py`. Two optimisers. Best of n: of N clips per prompt, the expected proxy and gold score of the clip
that the proxy likes best among n drawn ones, by the unbiased estimator over all subsets; its KL from the base model is
log n - (n - 1) / n. RL: DiffusionNFT as in the demo; its checkpoints are drawn with the noisy sampler of Flow-GRPO, for
which the KL of the denoising paths is a sum of Gaussians' and an upper bound on that of the clips. A training step
takes 12 s on a free core. (18 clips a step of three prompts at twice the rate led nowhere: the proxy itself fell.)

Everything is kept in --out as it comes, in a folder of the weights that made it, so a stopped run goes on.

python benchmarks/over_optimisation.py [--cache FOLDER] [--num-prompts 12] [--num-clips 64] [--steps 30] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lines import Panel, picture
from reward_quality import clips_of, examples_of, kept_at
from torch import Tensor

import base_model
from align.config import TrainConfig as AlignConfig
from align.demo import ADAPTED
from align.nft import NFT
from align.objectives import latent_kl
from align.train import train
from base_model import flow, lora
from base_model.native import fast_dtype
from base_model.protocol import Condition, Generator
from base_model.sampler import denoise, generate_frames, initial_noise
from base_model.world import dataset
from core.files import append_line, atomic_write, read_lines
from core.progress import track
from core.randomness import seed_for, torch_generator
from core.run import step_of
from core.stats import mean_interval
from eval.best_of_n import expected, kl
from reward.annotators import gold_utility
from reward.backbone import SandboxBackbone
from reward.ensemble import AGGREGATIONS
from reward.preference_model import PreferenceModel
from reward.train import fit
from reward.train_config import TrainConfig

TRAINED = ("one head", "worst of five")  # the judges that RL climbs
LOOKED_AT = 3  # clips a prompt that show what a checkpoint has become
DENOISING_STEPS = 10
ETA = 0.7  # of Flow-GRPO's noise


@dataclass(frozen=True)
class Point:
    """What a judge was optimised to: the distance sqrt(KL), and the gains of judge and gold over the base model, in
    spreads of the base model's clips within a prompt; low and high bound the gold's gain. effort: n, or steps."""

    judge: str
    effort: int
    distance: float
    proxy: float
    gold: float
    low: float
    high: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("runs/reward_quality"), help="as for reward_quality.py")
    parser.add_argument("--votes", type=int, default=500, help="pairs that the judges learn from")
    parser.add_argument("--noise", type=float, default=0.25, help="share of wrong votes")
    parser.add_argument("--num-prompts", type=int, default=12)
    parser.add_argument("--num-clips", type=int, default=64, help="clips per prompt; the largest n")
    parser.add_argument("--steps", type=int, default=30, help="training steps of RL")
    parser.add_argument("--out", type=Path, default=Path("runs/over_optimisation"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    eyes = SandboxBackbone()
    out = kept_at(options.out, base_model.load("sandbox"), eyes)
    judges = taught(eyes, options.cache, options.votes, options.noise)
    drawn = best_of_n(eyes, judges, options.num_prompts, options.num_clips, out / "pool.npz")
    write(drawn, out / "best_of_n.csv")
    climbed = reinforced(judges, options.steps, out)
    write(climbed, out / "rl.csv")
    atomic_write(out / "over_optimisation.svg", picture([panel("Best of n", drawn), panel("DiffusionNFT", climbed)]))
    print(out / "over_optimisation.svg")


def taught(eyes: SandboxBackbone, cache: Path, votes: int, noise: float) -> dict[str, PreferenceModel]:
    """One head and five heads, of the same votes."""
    clips = clips_of(cache)
    data, parts = examples_of(clips, votes, noise, 0)
    configs = (TrainConfig(num_heads=1), TrainConfig(aggregation="worst"))
    return {name: fit(clips.features, data, parts, eyes, config) for name, config in zip(TRAINED, configs, strict=True)}


def best_of_n(
    eyes: SandboxBackbone, judges: Mapping[str, PreferenceModel], num_prompts: int, num_clips: int, cache: Path
) -> list[Point]:
    """Of one head, and of five under every rule."""
    features, gold = pool(eyes, num_prompts, num_clips, cache)
    one, five = (heads(judges[name], features) for name in TRAINED)
    scores = {TRAINED[0]: one[0]} | {f"{name} of five": rule(five) for name, rule in AGGREGATIONS.items()}
    truth = within(gold, num_prompts)
    points = []
    for name, score in scores.items():
        table = within(score.numpy(), num_prompts)
        for n in (2**power for power in range(int(math.log2(num_clips)) + 1)):
            told = float(np.mean([expected(row, row, n) for row in table]))
            gain = mean_interval([expected(row, true, n) for row, true in zip(table, truth, strict=True)])
            points.append(Point(name, n, math.sqrt(kl(n)), told, gain.value, gain.low, gain.high))
    return points


def pool(eyes: SandboxBackbone, num_prompts: int, num_clips: int, cache: Path) -> tuple[Tensor, np.ndarray]:
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
        gold += overall(frames, rows)
    np.savez(cache, features=torch.cat(features).numpy(), gold=np.array(gold))
    return torch.cat(features), np.array(gold)


def reinforced(judges: Mapping[str, PreferenceModel], num_steps: int, out: Path) -> list[Point]:
    """Checkpoints of a training run for each judge, beside the base model on the same noise and held-out prompts."""
    learned = dataset.prompts(seed_for(2, "over-optimisation"), 192, "train", most_objects=1)
    shown = dataset.prompts(seed_for(2, "over-optimisation"), 16, "heldout", most_objects=1)
    prompts = [prompt for prompt in shown for _ in range(LOOKED_AT)]
    points = []
    for name in TRAINED:
        judge, folder = judges[name], out / name.replace(" ", "_")
        config = AlignConfig(
            steps=num_steps,
            batch=32,
            denoising_steps=DENOISING_STEPS,
            learning_rate=1e-3,
            lora_targets=ADAPTED,
            updates=2,
            ema_decay=0.8,
            precision="bf16" if fast_dtype() == torch.bfloat16 else "no",
            overlap="on",
            save_every=5,
            keep_checkpoints=num_steps,
            sample_every=0,
        )
        run = train(base_model.load("sandbox"), judge, NFT(), learned, config, folder)
        generator = base_model.load("sandbox")
        base = looked_at(generator, None, prompts, judge, folder)
        spreads = [float(within(np.array(base[part]), len(shown), scaled=False).std()) for part in ("proxy", "gold")]
        for checkpoint in run.checkpoints():
            seen = looked_at(generator, checkpoint, prompts, judge, folder)
            proxy, gold = (
                (np.array(seen[part]) - np.array(base[part])) / spread
                for part, spread in zip(("proxy", "gold"), spreads, strict=True)
            )
            gain = mean_interval(gold, prompts)
            distance = math.sqrt(float(np.mean(seen["kl"])))
            points.append(
                Point(name, step_of(checkpoint), distance, float(proxy.mean()), gain.value, gain.low, gain.high)
            )
    return points


def looked_at(
    generator: Generator,
    checkpoint: Path | None,
    prompts: Sequence[str],
    judge: PreferenceModel,
    folder: Path,
) -> dict[str, list[float]]:
    """KL, proxy and gold of the clips of a checkpoint (None: of the base model), kept as a line of a file."""
    kept, step = folder / "looks.jsonl", step_of(checkpoint) if checkpoint else 0
    for row in read_lines(kept) if kept.exists() else []:
        if row["step"] == step:
            return row
    if checkpoint is not None:
        lora.load(generator.policy_module(), checkpoint / "lora")
    seeds = [seed_for(3, "over-optimisation", index) for index in range(len(prompts))]
    latents, spent = walked(generator, generator.encode_prompts(list(prompts)), seeds)
    with torch.no_grad():
        frames = generator.decode(latents).float()
        proxy = judge(frames, prompts).total
    seen = {"step": step, "kl": spent.tolist(), "proxy": proxy.tolist(), "gold": overall(frames, prompts)}
    append_line(kept, seen)
    return seen


@torch.no_grad()
def walked(generator: Generator, condition: Condition, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Clean latents by the noisy sampler, and the KL [batch] of every path's steps from the base model's, in nats."""
    schedule = generator.schedule(DENOISING_STEPS)
    spent = torch.zeros(len(seeds))
    states = denoise(
        generator,
        condition,
        noise=initial_noise(generator, seeds),
        num_steps=DENOISING_STEPS,
        kind="flow",
        eta=ETA,
        rng=[torch_generator(seed, "exploration") for seed in seeds],
    )
    for state in states:
        if state.log_prob is None:
            continue
        step = torch.full((len(seeds),), state.denoising_step)
        with lora.reference(generator.policy_module()):
            velocity = generator.predict(state.before, step, schedule, condition, None, 1.0)
        mean, std = flow.transition(
            "flow", state.before, velocity, *schedule.at(step), ETA, sigma_max=schedule.sigma_max
        )
        spent += latent_kl(state.mean, mean, std) * mean[0].numel()  # a sum, where the suite's losses take means
    return state.after, spent


def heads(judge: PreferenceModel, features: Tensor) -> Tensor:
    """Every head's normalised "overall" [head, clip]."""
    with torch.no_grad():
        return judge.normalised(features)[..., judge.aspects.index("overall")]


def overall(frames: Tensor, prompts: Sequence[str]) -> list[float]:
    return [gold_utility(clip.numpy(), text)["overall"] for clip, text in zip(frames, prompts, strict=True)]


def within(values: np.ndarray, num_prompts: int, scaled: bool = True) -> np.ndarray:
    """Values [clip] less their prompt's mean, in spreads within a prompt where `scaled`, [prompt, clip]."""
    table = values.reshape(num_prompts, -1)
    table = table - table.mean(1, keepdims=True)
    return table / table.std() if scaled else table


def write(points: Sequence[Point], path: Path) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(Point.__dataclass_fields__)
        for point in points:
            rows.writerow(vars(point).values())
            print(
                f"{point.judge:>18} {point.effort:>3} distance {point.distance:5.2f} proxy {point.proxy:+.2f} "
                f"gold {point.gold:+.2f} [{point.low:+.2f}, {point.high:+.2f}]"
            )


def panel(title: str, points: Sequence[Point]) -> Panel:
    """Two lines for every judge that RL climbs too."""
    lines = {
        f"{part}, {name}": [[(0.0, 0.0), *((one.distance, getattr(one, part)) for one in points if one.judge == name)]]
        for part in ("proxy", "gold")
        for name in TRAINED
    }
    heights = [y for several in lines.values() for line in several for _, y in line]
    low, high = math.floor(2 * min(heights)) / 2, math.ceil(2 * max(heights)) / 2
    most = max(one.distance for one in points)
    return Panel(f"{title}: gain over the base model, in spreads within a prompt", lines, most, "sqrt KL", low, high)


if __name__ == "__main__":
    main()
