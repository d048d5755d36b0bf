"""How many clips must an algorithm draw until held-out clips reach a given reward?

    python benchmarks/align_samples.py --out runs/align_samples [--algorithms nft "grpo, guard"] [--steps 96]
        [--level .75]

The model is small enough for every algorithm, seed and learning rate to be run in minutes, and its task has a known
best: a clip of 2x4x4 pixels whose halves are to be as bright as the prompt says in hundredths ("left 20 right 70").
Before training every clip is grey noise, whatever the prompt. The reward is 1 - twice the mean distance of the two
halves from what was asked, and what is read is its mean over prompts that are not trained on, from fixed noise. All
algorithms draw 32 clips and take one optimizer step per training step; the learning rate of each is the best of RATES
by a seed that is not among the three. Every run is an ordinary run folder, and the script started again goes on where
it was. Prints the table of docs/algorithms.md and writes its picture.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from lines import Panel, picture, reaches
from torch import Tensor, nn

from align.advantage_matching import AdvantageMatching
from align.ddpo import DDPO
from align.dpo import DPO
from align.grpo import GRPO
from align.health import Diverged
from align.nft import NFT
from align.ppo import PPO
from align.protocol import Algorithm
from align.reward_gradient import RewardGradient
from align.train import TrainConfig, train
from align.weighted_regression import WeightedRegression
from base_model.flow import Schedule, linear_schedule
from base_model.protocol import Condition, VideoSize
from core.files import atomic_write
from core.randomness import numpy_generator
from core.run import read_metrics
from reward.protocol import Reward, Scores
from reward.simple import brightness

CLIPS, GROUP = 32, 8
WIDTH = 64  # of the network
SEEDS = (0, 1, 2)
SEARCH_SEED = 1000
RATES = (3e-3, 1e-2, 3e-2)
CLIP_RANGE = 1e-2
"""Log-ratios are means over elements: 64 here, thousands in a video, so what is 1e-4 there is wider here."""
FAMILIES: dict[str, dict[str, Algorithm]] = {
    "noisy steps": {
        "ddpo": DDPO(clip_range=CLIP_RANGE),
        "ddpo, plain": DDPO(window=0, kl_weight=0.004, kl_form="latent", clip_range=CLIP_RANGE),
        "ddpo, sf": DDPO(estimator="sf"),
        "ppo": PPO(clip_range=CLIP_RANGE),
        "grpo, guard": GRPO(trust="guard", clip_range=CLIP_RANGE),
        "grpo, mask": GRPO(trust="mask", kl_limit=1e-3),
    },
    "whole clips": {
        "nft": NFT(),
        "nft, held": NFT(kl_weight=0.01),
        "nft, averaged": NFT(),
        "awm": AdvantageMatching(clip_range=0.1),
        "dpo": DPO(levels=4, beta=10.0),
        "weighted_regression": WeightedRegression(),
        "weighted_regression, best": WeightedRegression(weighting="best"),
    },
    "slope of the reward": {
        "reward_gradient, draft": RewardGradient(),
        "reward_gradient, draft-lv": RewardGradient(variant="draft-lv"),
        "reward_gradient, refl": RewardGradient(variant="refl"),
    },
}
ALGORITHMS = {name: algorithm for family in FAMILIES.values() for name, algorithm in family.items()}
AVERAGED = {"nft, averaged": 0.8}
"""`ema_decay` of those that are judged by the average of their weights."""
Curve = list[tuple[float, float]]  # (clips drawn, reward on held-out clips)


class Network(nn.Module):
    """What a policy adds to the velocity of grey noise, pixel by pixel: nothing before training."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(2 + 3 + 1 + 2, WIDTH), nn.SiLU()),
                nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU()),
                nn.Sequential(nn.Linear(WIDTH, 2)),
            ]
        )
        nn.init.zeros_(self.blocks[2][0].weight)
        nn.init.zeros_(self.blocks[2][0].bias)

    def forward(self, latents: Tensor, sigma: Tensor, brightness: Tensor) -> Tensor:
        """Args: latents [batch, 2, time, height, width], sigma [batch, 1], brightness [batch, 2]."""
        axes = [torch.linspace(-1.0, 1.0, size) for size in latents.shape[2:]]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(latents), -1, -1, -1, -1)
        pixels = torch.cat([latents, place], 1).flatten(2).transpose(1, 2)
        same = torch.cat([sigma, brightness], 1)[:, None].expand(-1, pixels.shape[1], -1)
        hidden = torch.cat([pixels, same], 2)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.transpose(1, 2).reshape(latents.shape)


@dataclass
class HalvesModel:
    """See `base_model.protocol.Generator`: draws N(0, 1) latents, and grey noise of them, until it is trained."""

    name: str = "halves"
    fps: float = 8.0
    team: int = 1
    family: str = "flow"
    size: VideoSize = VideoSize(2, 4, 4)
    network: Network = field(init=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = Network()

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        return {"asked": 4.0 * asked(prompts) - 2.0}

    def unconditional(self, batch: int) -> Condition:
        return {"asked": torch.zeros(batch, 2)}

    def latent_shape(self, size: VideoSize) -> tuple[int, ...]:
        return (2, size.num_frames, size.height, size.width)

    def schedule(self, num_steps: int) -> Schedule:
        return linear_schedule(num_steps)

    def predict(
        self,
        latents: Tensor,
        step: Tensor,
        schedule: Schedule,
        condition: Condition,
        unconditional: Condition | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        sigma = schedule.at(step)[0].float().reshape(-1, 1)
        wide = sigma.reshape(-1, 1, 1, 1, 1)
        grey = (2 * wide - 1) * latents / ((1 - wide) ** 2 + wide**2)  # exact for N(0, 1)
        return grey + self.network(latents, sigma, condition["asked"])

    def decode(self, latents: Tensor) -> Tensor:
        colours = latents.transpose(1, 2).sigmoid()
        return torch.cat([colours, colours.mean(2, keepdim=True)], 2)

    def encode(self, frames: Tensor) -> Tensor:
        return frames[:, :, :2].logit().transpose(1, 2)

    def policy_module(self) -> nn.Module:
        return self.network


@dataclass(frozen=True)
class AskedHalves:
    """1 - 2 x the mean distance of the brightness of a clip's halves from what the prompt asks for."""

    name: str = "asked-halves"
    version: str = "1"
    unit: str = "share"
    range: tuple[float, float] = (-1.0, 1.0)
    higher_is_better: bool = True
    differentiable: bool = True
    aspects: tuple[str, ...] = ()

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        seen = torch.stack([half.mean((1, 2, 3, 4)) for half in frames.chunk(2, dim=-1)], 1)
        return Scores(1.0 - 2.0 * (seen - asked(prompts)).abs().mean(1), {})


def asked(prompts: Sequence[str]) -> Tensor:
    """The brightness [batch, 2] in [0, 1] that prompts such as "left 20 right 70" ask for."""
    words = [prompt.split() for prompt in prompts]
    return torch.tensor([[int(word[1]), int(word[3])] for word in words]) / 100.0


def all_prompts() -> tuple[list[str], list[str]]:
    """(training, held-out) prompts: every third of the 81 is held out, in a mixed order."""
    levels = range(10, 100, 10)
    every = [f"left {left} right {right}" for left in levels for right in levels]
    mixed = [every[index] for index in numpy_generator(0, "halves").permutation(len(every))]
    return [prompt for index, prompt in enumerate(mixed) if index % 3], mixed[::3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--level", type=float, default=0.75, help="held-out reward to reach")
    parser.add_argument("--steps", type=int, default=96, help=f"training steps of {CLIPS} clips")
    parser.add_argument("--algorithms", nargs="+", choices=tuple(ALGORITHMS), default=list(ALGORITHMS))
    options = parser.parse_args()
    torch.set_num_threads(1)

    curves: dict[str, list[Curve]] = {}
    print(
        f"| algorithm | learning rate | clips to {options.level:g}, by seed | median | reward after "
        f"{options.steps * CLIPS} clips, by seed |\n| --- | --- | --- | --- | --- |"
    )
    for name in options.algorithms:
        rate = best_rate(name, options.steps, options.level, options.out)
        curves[name] = [run(name, rate, seed, options.steps, options.out) for seed in SEEDS]
        reached = [reaches(curve, options.level) for curve in curves[name]]
        ends = ", ".join(f"{curve[-1][1]:.3f}" for curve in curves[name])
        print(
            f"| {name} | {rate:g} | {', '.join(map(shown, reached))} | {shown(median(reached))} | {ends} |", flush=True
        )
    atomic_write(options.out / "align_samples.svg", plot(curves, options.level))


def best_rate(name: str, steps: int, level: float, out: Path) -> float:
    """The learning rate that reaches `level` with the fewest clips, or else the one that ends highest."""
    curves = {rate: run(name, rate, SEARCH_SEED, steps, out) for rate in RATES}
    return min(RATES, key=lambda rate: (reaches(curves[rate], level), -curves[rate][-1][1]))


def run(name: str, rate: float, seed: int, steps: int, out: Path) -> Curve:
    """One run; its curve, beginning with the model as it was. A policy that breaks down ends its curve there."""
    algorithm = ALGORITHMS[name]
    config = TrainConfig(
        steps=steps,
        prompts_per_step=CLIPS // getattr(algorithm, "group_size", 1),
        batch=CLIPS,
        denoising_steps=8,
        learning_rate=rate,
        lora_rank=8,
        lora_alpha=16,
        ema_decay=AVERAGED.get(name, 0.0),
        sample_every=0,
        save_every=steps,
        judge_every=4,
        judge_clips=64,
        seed=seed,
    )
    training, held_out = all_prompts()
    folder = out / f"{name.replace(', ', '-')}-{rate:g}-{seed}"
    watched: Reward = brightness()  # the loop looks at held-out clips for its judges
    try:
        train(
            HalvesModel(), AskedHalves(), algorithm, training, config, folder, judges=[watched], judge_prompts=held_out
        )
    except Diverged as error:  # what was logged until then counts
        print(f"{folder.name}: {error}", file=sys.stderr)
    rows = [row for row in read_metrics(folder) if "judge/trained_reward" in row]
    return [(row["samples"], row["judge/trained_reward"]) for row in rows]


def shown(count: float) -> str:
    return "-" if count == math.inf else f"{count:.0f}"


def plot(curves: dict[str, list[Curve]], level: float) -> str:
    """A panel per family, a colour per algorithm, a line per seed, as SVG."""
    most = max(count for several in curves.values() for curve in several for count, _ in curve)
    return picture(
        [
            Panel(family, {name: curves[name] for name in members if name in curves}, most, "clips", 0.5, 1.0, level)
            for family, members in FAMILIES.items()
        ]
    )


if __name__ == "__main__":
    main()
