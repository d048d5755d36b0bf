"""Does more optimisation of a learned reward still help? Proxy and gold against the distance from the base model.

The five heads of a demo (`soralign demo`) stand against a single head that the same votes teach. Two optimisers. Best
of n: of N clips per held-out prompt, the expected proxy and gold score of the clip that the proxy likes best among n
drawn ones, by the unbiased estimator over all subsets; its KL from the base model is log n - (n - 1) / n. RL: the
demo's own alignment, gone on with to --steps, and the same once more with the single head; their checkpoints are drawn
with the noisy sampler of Flow-GRPO, for which the KL of the denoising paths is a sum of Gaussians' and an upper bound
on that of the clips. A training step takes 12 s on two free cores. The proxy is the heads' score alone, without the
tenth of CLIP that the demo's alignment adds to it.

Everything is kept in --out as it comes, in a folder of the weights that made it, so a stopped run goes on, and a
finished one to more steps.

python benchmarks/over_optimisation.py [--demo runs/demo] [--steps 30] [--num-prompts 24] [--num-clips 64]
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from lines import Panel, picture
from reward_quality import kept_at
from safetensors.torch import load_file, save_file
from torch import Tensor

import base_model
from align import demo
from align.demo import Plan
from align.nft import NFT
from align.objectives import latent_kl
from align.train import train
from base_model import flow, lora
from base_model.protocol import Condition, Generator
from base_model.sampler import denoise, generate_frames, initial_noise
from base_model.text import SandboxClip, load_clip
from base_model.world import dataset
from core import videoset
from core.files import append_line, atomic_write, read_lines, replacing
from core.preferences import Store
from core.progress import track
from core.randomness import seed_for, torch_generator
from core.run import Run
from core.stats import mean_interval
from eval.best_of_n import expected, kl
from reward import preference_model
from reward.annotators import gold_utility
from reward.backbone import SandboxBackbone
from reward.ensemble import AGGREGATIONS
from reward.preference_model import PreferenceModel
from reward.train import train as learn
from reward.train_config import TrainConfig

ONE, FIVE = JUDGES = ("one head", "five heads")
BATCH = 32
SAVE_EVERY, LOOK_EVERY = 2, 10  # training steps
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


@dataclass(frozen=True)
class Demo:
    """A finished demo: its folder, plan and seed."""

    folder: Path
    plan: Plan
    seed: int

    @classmethod
    def at(cls, folder: Path) -> Demo:
        told = yaml.safe_load((folder / "config.yaml").read_text())
        plan = Plan(**{one.name: told[one.name] for one in dataclasses.fields(Plan)})
        return cls(folder, plan, told["seed"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="folder of a finished demo")
    parser.add_argument("--steps", type=int, default=30, help="training steps of RL")
    parser.add_argument("--num-prompts", type=int, default=24, help="held-out prompts of best-of-n")
    parser.add_argument("--num-clips", type=int, default=64, help="clips of each; the largest n")
    parser.add_argument(
        "--looked-at", type=int, default=64, help="held-out prompts of RL's checkpoints, two clips each"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/over_optimisation"))
    options = parser.parse_args()
    torch.set_num_threads(demo.THREADS)
    made, clip = Demo.at(options.demo), load_clip()
    demo.look_once(clip)
    out = kept_at(options.out, base_model.load("sandbox"), SandboxBackbone(clip))
    judges = taught(made, clip, out)
    climbed = reinforced(made, judges, clip, options.steps, options.looked_at, out)
    write(climbed, out / "rl.csv")
    drawn = best_of_n(judges, options.num_prompts, options.num_clips, out)
    write(drawn, out / "best_of_n.csv")
    atomic_write(out / "over_optimisation.svg", picture([panel("Best of n", drawn), panel("DiffusionNFT", climbed)]))
    print(out / "over_optimisation.svg")


def taught(made: Demo, clip: SandboxClip, out: Path) -> dict[str, PreferenceModel]:
    """The demo's five heads, and one head of the same votes."""
    folder = out / "one_head" / "reward"
    if not (folder / "report.json").exists():
        config = TrainConfig(seed=made.seed, guard_weight=0.0, num_heads=1)
        learn(Store(made.folder / "preferences.db"), SandboxBackbone(clip), config, folder)
    return {ONE: preference_model.load(folder, clip), FIVE: preference_model.load(made.folder / "reward", clip)}


def best_of_n(judges: Mapping[str, PreferenceModel], num_prompts: int, num_clips: int, out: Path) -> list[Point]:
    """Of one head, and of five under every rule."""
    features, gold = pool(judges[ONE], num_prompts, num_clips, out / f"pool_{num_prompts}x{num_clips}")
    one, five = (heads(judges[name], features) for name in JUDGES)
    scores = {ONE: one[0], FIVE: five.mean(0)}
    scores |= {f"{FIVE}, {name}": rule(five) for name, rule in AGGREGATIONS.items() if name != "mean"}
    truth = within(gold, num_prompts)
    points = []
    for name, score in scores.items():
        table = within(score.numpy(), num_prompts)
        for n in (2**power for power in range(int(math.log2(num_clips)) + 1)):
            told = float(np.mean([expected(row, row, n) for row in table]))
            gain = mean_interval([expected(row, true, n) for row, true in zip(table, truth, strict=True)])
            points.append(Point(name, n, math.sqrt(kl(n)), told, gain.value, gain.low, gain.high))
    return points


def pool(judge: PreferenceModel, num_prompts: int, num_clips: int, folder: Path) -> tuple[Tensor, np.ndarray]:
    """Features [clip, feature] and gold overall [clip] of many clips for few held-out prompts, kept in `folder`."""
    distinct = dataset.prompts(seed_for(1, "over-optimisation"), num_prompts, "heldout", most_objects=1)
    prompts = [prompt for prompt in distinct for _ in range(num_clips)]
    generator = base_model.load("sandbox")
    folder.mkdir(exist_ok=True)
    features, gold = [], []
    for start in track(range(0, len(prompts), BATCH), "clips"):
        path = folder / f"{start:05d}.safetensors"
        if not path.exists():
            rows = prompts[start : start + BATCH]
            seeds = [seed_for(1, "pool", index) for index in range(start, start + len(rows))]
            frames = generate_frames(generator, rows, seeds=seeds, num_steps=Plan().denoising_steps, batch=BATCH)
            with torch.no_grad():
                part = {"features": judge.features(frames, rows), "gold": torch.tensor(overall(frames, rows))}
            with replacing(path) as temporary:
                save_file(part, temporary)
        part = load_file(path)
        features.append(part["features"])
        gold.append(part["gold"])
    return torch.cat(features), torch.cat(gold).numpy()


def reinforced(
    made: Demo, judges: Mapping[str, PreferenceModel], clip: SandboxClip, num_steps: int, num_shown: int, out: Path
) -> list[Point]:
    """Checkpoints of the alignment to each judge, beside the base model on the same noise and held-out prompts."""
    items = videoset.read(made.folder / "pairs")
    learned = list(dict.fromkeys(item.prompt for item in items))
    shown = dataset.prompts(seed_for(2, "over-optimisation"), num_shown, "heldout", most_objects=1)
    prompts = [prompt for prompt in shown for _ in range(2)]
    config = dataclasses.replace(
        demo.recipe(made.plan, made.seed), steps=num_steps, save_every=SAVE_EVERY, keep_checkpoints=num_steps
    )
    generator = base_model.load("sandbox")
    base = looked_at(generator, None, prompts, judges, out / "base.jsonl")
    points, gains = [], {}
    for name in JUDGES:
        folder = out / name.replace(" ", "_") / "align"
        if name == FIVE and not folder.exists():
            shutil.copytree(made.folder / "align", folder)
        if folder.exists():
            lengthen(folder, dataclasses.asdict(config))
        reward = demo.mixture(judges[name], clip, items)
        run = train(base_model.load("sandbox"), reward, NFT(levels=made.plan.levels), learned, config, folder)
        spreads = {part: spread(base[part], num_shown) for part in (name, "gold")}
        for step in range(LOOK_EVERY, num_steps + 1, LOOK_EVERY):
            seen = looked_at(generator, (run, step), prompts, judges, folder.parent / "looks.jsonl")
            proxy, gold = ((np.array(seen[part]) - base[part]) / spreads[part] for part in (name, "gold"))
            gain, gains[name, step] = mean_interval(gold, prompts), gold
            distance = math.sqrt(float(np.mean(seen["kl"])))
            points.append(Point(name, step, distance, float(proxy.mean()), gain.value, gain.low, gain.high))
    for step in range(LOOK_EVERY, num_steps + 1, LOOK_EVERY):
        more = mean_interval(gains[FIVE, step] - gains[ONE, step], prompts)
        print(f"after {step} steps, gold of five heads over one: {more.value:+.2f} [{more.low:+.2f}, {more.high:+.2f}]")
    return points


def lengthen(folder: Path, config: Mapping[str, object]) -> None:
    """Let a training run be gone on with to other numbers of steps and checkpoints, which its rates do not hang on."""
    told = yaml.safe_load((folder / "config.yaml").read_text())
    told |= {key: config[key] for key in ("steps", "save_every", "keep_checkpoints")}
    atomic_write(folder / "config.yaml", yaml.safe_dump(told, sort_keys=False))


@torch.no_grad()
def looked_at(
    generator: Generator,
    at: tuple[Run, int] | None,
    prompts: Sequence[str],
    judges: Mapping[str, PreferenceModel],
    kept: Path,
) -> dict[str, list[float]]:
    """KL, gold and every judge's score of the clips of a run's step (None: of the base model), a line of `kept`."""
    step = at[1] if at else 0
    for row in read_lines(kept) if kept.exists() else []:
        if row["step"] == step and len(row["gold"]) == len(prompts):
            return row
    if at is not None:
        lora.load(generator.policy_module(), at[0].folder / "checkpoints" / f"step-{step:06d}" / "lora")
    seen: dict[str, list[float]] = {"kl": [], "gold": [], **{name: [] for name in judges}}
    for start in track(range(0, len(prompts), BATCH), f"looking at step {step}"):
        rows = prompts[start : start + BATCH]
        seeds = [seed_for(3, "over-optimisation", index) for index in range(start, start + len(rows))]
        latents, spent = walked(generator, generator.encode_prompts(list(rows)), seeds)
        frames = generator.decode(latents).float()
        for name, judge in judges.items():
            seen[name] += judge(frames, rows).total.tolist()
        seen["kl"] += spent.tolist()
        seen["gold"] += overall(frames, rows)
    append_line(kept, {"step": step, **seen})
    return seen


@torch.no_grad()
def walked(generator: Generator, condition: Condition, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Clean latents by the noisy sampler, and the KL [batch] of every path's steps from the base model's, in nats."""
    num_steps = Plan().denoising_steps
    schedule = generator.schedule(num_steps)
    spent = torch.zeros(len(seeds))
    states = denoise(
        generator,
        condition,
        noise=initial_noise(generator, seeds),
        num_steps=num_steps,
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


def within(values: np.ndarray, num_prompts: int) -> np.ndarray:
    """Values [clip] less their prompt's mean, in spreads within a prompt, [prompt, clip]."""
    table = values.reshape(num_prompts, -1)
    return (table - table.mean(1, keepdims=True)) / spread(values, num_prompts)


def spread(values: Sequence[float] | np.ndarray, num_prompts: int) -> float:
    """Standard deviation within a prompt of values [clip], those of a prompt together."""
    return float(np.sqrt(np.reshape(values, (num_prompts, -1)).var(1, ddof=1).mean()))


def write(points: Sequence[Point], path: Path) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(Point.__dataclass_fields__)
        for point in points:
            rows.writerow(vars(point).values())
            print(
                f"{point.judge:>22} {point.effort:>3} distance {point.distance:5.2f} proxy {point.proxy:+.2f} "
                f"gold {point.gold:+.2f} [{point.low:+.2f}, {point.high:+.2f}]"
            )


def panel(title: str, points: Sequence[Point]) -> Panel:
    """Two lines for every judge that RL climbs too."""
    lines = {
        f"{part}, {name}": [[(0.0, 0.0), *((one.distance, getattr(one, part)) for one in points if one.judge == name)]]
        for part in ("proxy", "gold")
        for name in JUDGES
    }
    heights = [y for several in lines.values() for line in several for _, y in line]
    low, high = math.floor(2 * min(heights) + 1e-6) / 2, math.ceil(2 * max(heights)) / 2
    most = math.ceil(10 * max(one.distance for one in points)) / 10
    return Panel(f"{title}: gain over the base model, in spreads within a prompt", lines, most, "sqrt KL", low, high)


if __name__ == "__main__":
    main()
