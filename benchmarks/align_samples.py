"""How many clips must an algorithm draw until held-out clips reach a given reward?

python benchmarks/align_samples.py --level .9 --out runs/align_samples
    [--model sandbox] [--reward clip] [--samples 2048] [--seeds 3] [--algorithms nft grpo]

Every algorithm runs with its sandbox recipe, every run is an ordinary run folder, and the script started again goes on
where it was. The reward is trained on; what is read is its mean on clips of held-out prompts and fixed noise. Prints a
table and writes curves.svg: one thin line per seed.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
import yaml

import base_model
from align import ALGORITHMS
from align.commands import load_reward
from align.train import TrainConfig, train
from base_model.world import dataset
from core.files import atomic_write
from core.randomness import seed_for
from core.registry import resolve
from core.run import read_metrics

RECIPES = Path(__file__).parents[1] / "align" / "recipes"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")
Curve = list[tuple[float, float]]  # (clips drawn, reward on held-out clips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=float, required=True, help="held-out reward to reach")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="sandbox")
    parser.add_argument("--reward", default="clip", help="differentiable, or leave out reward_gradient")
    parser.add_argument(
        "--judge", default="motion", help="another reward; watched, for the loop looks at held-out clips"
    )
    parser.add_argument("--samples", type=int, default=2048, help="clips drawn per run")
    parser.add_argument("--judge-clips", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    options = parser.parse_args()
    torch.set_num_threads(1)

    curves: dict[str, list[Curve]] = {}
    print(f"| algorithm | clips to {options.level:g} by seed | median | held-out reward at {options.samples} clips |")
    print("| --- | --- | --- | --- |")
    for name in options.algorithms:
        curves[name] = [run(name, seed, options) for seed in range(options.seeds)]
        reached = [clips_to(curve, options.level) for curve in curves[name]]
        shown = ", ".join("-" if count is None else f"{count:.0f}" for count in reached)
        middle = median(float("inf") if count is None else count for count in reached)
        ends = ", ".join(f"{curve[-1][1]:.3f}" for curve in curves[name])
        print(f"| {name} | {shown} | {'-' if middle == float('inf') else f'{middle:.0f}'} | {ends} |", flush=True)
    atomic_write(options.out / "curves.svg", plot(curves, options.level))


def run(name: str, seed: int, options: argparse.Namespace) -> Curve:
    """One run of a recipe; its curve, beginning with the model as it was."""
    recipe: dict[str, Any] = yaml.safe_load((RECIPES / f"sandbox_{name}.yaml").read_text())
    recipe.pop("model")
    kind = cast(type[Any], resolve(ALGORITHMS, name, "algorithm"))
    own = {field.name for field in dataclasses.fields(kind)}
    algorithm = kind(**{key: value for key, value in recipe.items() if key in own})
    config = TrainConfig(**{key: value for key, value in recipe.items() if key not in own})
    per_step = config.prompts_per_step * getattr(algorithm, "group_size", 1)
    steps = max(1, options.samples // per_step)
    config = dataclasses.replace(
        config,
        steps=steps,
        seed=seed,
        sample_every=0,
        save_every=max(1, steps // 4),
        judge_every=max(1, steps // 16),
        judge_clips=options.judge_clips,
    )
    training = dataset.prompts(seed_for(seed, "align samples"), 256, "train", most_objects=1)
    held_out = dataset.prompts(seed_for(0, "align samples held out"), options.judge_clips, "heldout", most_objects=1)
    reward, judge = load_reward([options.reward]), load_reward([options.judge])
    folder = options.out / f"{name}-{seed}"
    train(
        base_model.load(options.model),
        reward,
        algorithm,
        training,
        config,
        folder,
        judges=[judge],
        judge_prompts=held_out,
    )
    rows = [row for row in read_metrics(folder) if "judge/trained_reward" in row]
    return [(row["samples"], row["judge/trained_reward"]) for row in rows]


def clips_to(curve: Curve, level: float) -> float | None:
    """Clips drawn when the curve first reaches `level`, between two looks on a straight line; None if never."""
    for (before, low), (after, high) in zip(curve, curve[1:], strict=False):
        if low >= level:
            return before
        if high >= level:
            return before + (level - low) / (high - low) * (after - before)
    return None


def plot(curves: dict[str, Sequence[Curve]], level: float) -> str:
    """All curves as one SVG, a colour per algorithm."""
    points = [point for several in curves.values() for curve in several for point in curve]
    most = max(count for count, _ in points)
    low, high = min(level, *(value for _, value in points)), max(level, *(value for _, value in points))

    def place(count: float, value: float) -> str:
        return f"{50 + 560 * count / most:.1f},{300 - 280 * (value - low) / ((high - low) or 1):.1f}"

    lines = [f'<polyline points="{place(0, level)} {place(most, level)}" stroke="#888" stroke-dasharray="4"/>']
    for (name, several), colour in zip(curves.items(), COLOURS, strict=False):
        row = 20 + 18 * len(lines)
        lines.append(
            "".join(
                f'<polyline points="{" ".join(place(*point) for point in curve)}" stroke="{colour}"/>'
                for curve in several
            )
            + f'<text x="620" y="{row}" fill="{colour}">{name}</text>'
        )
    labels = ((50, 320, "start", "0 clips"), (610, 320, "end", f"{most:g}"), (45, 300, "end", f"{low:.3g}"))
    axis = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#555">{text}</text>'
        for x, y, anchor, text in (*labels, (45, 25, "end", f"{high:.3g}"))
    )
    body = "\n".join([*lines, axis])
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 330" fill="none" font-family="sans-serif" '
        f'font-size="12">\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
