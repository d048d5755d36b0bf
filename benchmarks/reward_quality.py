"""How good is a reward learned from few and noisy votes? Held-out accuracy, its ceiling, calibration, cost.

Clips of the shipped generator, pairs within prompts, votes of the gold taste of which a share is wrong. The ceiling is
what a judge with the gold order itself reaches against such votes. The models: features of pixels with five heads or
one, and the generator's own transformer on noisy latents, which needs no decoding.

Clips are what takes time: minutes of one core. They are kept, 32 at a time, in a folder that is named by the weights
that they were made and seen with, so a stopped run goes on, and only other weights make other clips.

python benchmarks/reward_quality.py [--cache FOLDER] [--pairs 2000] [--noise 0.15] [--seeds 2]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import base_model
from base_model.protocol import Generator
from base_model.sampler import generate_frames
from base_model.text import load_clip
from base_model.world import dataset
from core.files import replacing
from core.preferences import ASPECTS
from core.progress import track
from core.randomness import numpy_generator, seed_for
from core.stats import mean_interval
from reward import accuracy
from reward.annotators import SimulatedAnnotator, gold_utility
from reward.backbone import Backbone, LatentBackbone, SandboxBackbone
from reward.bradley_terry import TIE, A, B
from reward.examples import Examples
from reward.protocol import weights_sha256
from reward.train import fit, most_changed
from reward.train_config import TrainConfig

CHOICE = {"a": A, "tie": TIE, "b": B}
NUM_PROMPTS, CLIPS_PER_PROMPT = 752, 4
LEARNED_FROM = 340  # prompts, whose pairs are a few more than 2,000; all others are held out, for a calibration error
# of so many pairs is little but chance: .045 of 675 honest ones, half of that of 2,472
NUM_FROZEN = 256
BATCH = 32


@dataclass(frozen=True)
class Clips:
    """features, latent [clip, feature]; frozen [NUM_FROZEN, feature] of frozen copies of the first clips; gold
    [clip, aspect]; prompts [clip]. The clips of one prompt stand together."""

    features: Tensor
    latent: Tensor
    frozen: Tensor
    gold: Tensor
    prompts: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("runs/reward_quality"), help="folder that keeps clips")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--noise", type=float, default=0.15)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clips = clips_of(options.cache)
    counts = [options.pairs, options.pairs // 2, options.pairs // 4, options.pairs // 8]
    print(
        f"{'':>26}{'pairs':>6}{'votes':>6}{'of ceiling':>22}{'gold order':>11}{'ECE':>6}{'floor':>6}{'debiased':>10}"
        f"{'Brier':>7}{'frozen':>8}"
    )
    for name, config, features in (
        ("five heads", TrainConfig(guard_weight=0.0), clips.features),
        ("five heads, guard .01", TrainConfig(), clips.features),
        ("one head", TrainConfig(num_heads=1, guard_weight=0.0), clips.features),
        ("latent, five heads", TrainConfig(guard_weight=0.0), clips.latent),
    ):
        for count in counts if name == "five heads" else counts[:1]:
            _judge(name, config, features, clips, count, options.noise, options.seeds)


def clips_of(cache: Path) -> Clips:
    """Clips of the shipped generator for training prompts, as features and gold."""
    generator = base_model.load("sandbox")
    eyes: tuple[Backbone, Backbone] = SandboxBackbone(load_clip()), LatentBackbone(generator=generator)
    folder = kept_at(cache, generator, eyes[0])
    distinct = dataset.prompts(seed_for(0, "training prompts"), NUM_PROMPTS, "train", most_objects=1)
    prompts = [prompt for prompt in distinct for _ in range(CLIPS_PER_PROMPT)]
    found: dict[str, list[Tensor]] = {"features": [], "latent": [], "frozen": [], "gold": []}
    for start in track(range(0, len(prompts), BATCH), "clips"):
        path = folder / f"{start:05d}.safetensors"
        if not path.exists():
            with replacing(path) as temporary:
                save_file(_made(generator, eyes, prompts[start : start + BATCH], start), temporary)
        for name, part in load_file(path).items():
            found[name].append(part)
    return Clips(**{name: torch.cat(parts) for name, parts in found.items()}, prompts=prompts)


def kept_at(folder: Path, generator: Generator, eyes: Backbone) -> Path:
    """Where in `folder` that is kept which these weights made and saw; others must not meet it."""
    made = nn.ModuleList([part for part in vars(generator).values() if isinstance(part, nn.Module)])
    found = folder / f"{weights_sha256(made)[:12]}-{eyes.sha256[:12]}"
    found.mkdir(parents=True, exist_ok=True)
    return found


@torch.no_grad()
def _made(generator: Generator, eyes: tuple[Backbone, Backbone], prompts: list[str], start: int) -> dict[str, Tensor]:
    """The parts of `Clips` that clips number `start` onwards give."""
    seeds = [seed_for(0, "pairs", index) for index in range(start, start + len(prompts))]
    frames = generate_frames(generator, prompts, seeds=seeds, num_steps=10, batch=BATCH)
    gold = [gold_utility(clip.numpy(), prompt) for clip, prompt in zip(frames, prompts, strict=True)]
    parts = {"features": eyes[0].features(frames, prompts), "latent": eyes[1].features(frames, prompts)}
    parts["gold"] = torch.tensor([[one[aspect] for aspect in ASPECTS] for one in gold])
    if start < NUM_FROZEN:
        parts["frozen"] = eyes[0].features(frames[:, :1].expand_as(frames), prompts)
    return parts


def examples_of(clips: Clips, num_pairs: int, noise: float, seed: int) -> tuple[Examples, list[Tensor]]:
    """Votes on `num_pairs` pairs of LEARNED_FROM prompts, a sixth of which calibrate, and all pairs of the others."""
    distinct = sorted(set(clips.prompts))
    order = numpy_generator(seed, "benchmark split").permutation(len(distinct))
    learned_from = {distinct[n] for n in order[:LEARNED_FROM].tolist()}
    by_prompt: dict[str, list[int]] = {}
    for index, prompt in enumerate(clips.prompts):
        by_prompt.setdefault(prompt, []).append(index)
    everyone = [pair for rows in by_prompt.values() for pair in itertools.combinations(rows, 2)]
    learning = [pair for pair in everyone if clips.prompts[pair[0]] in learned_from]
    chosen = numpy_generator(seed, "benchmark pairs").permutation(len(learning))[:num_pairs]
    held_out = [pair for pair in everyone if clips.prompts[pair[0]] not in learned_from]
    taught = sorted(learning[n] for n in chosen.tolist())
    pairs = taught + held_out
    annotator = SimulatedAnnotator(seed=seed, noise=noise)
    votes = torch.zeros(len(pairs), len(ASPECTS), 3)
    gold = [dict(zip(ASPECTS, row, strict=True)) for row in clips.gold.tolist()]
    for row, (a, b) in enumerate(pairs):
        for aspect, choice in annotator.label(gold[a], gold[b], row).items():
            votes[row, ASPECTS.index(aspect), CHOICE[choice]] = 1
    # Of the votes that may be learned from, those of every sixth prompt calibrate.
    kept = sorted({clips.prompts[a] for a, _ in taught})
    calibrating = set(kept[::6])
    rows = [[], []]
    for row, (a, _) in enumerate(taught):
        rows[clips.prompts[a] in calibrating].append(row)
    parts = [torch.tensor(rows[0]), torch.tensor(rows[1]), torch.arange(len(taught), len(pairs))]
    videos = tuple(Path(str(index)) for index in range(len(clips.prompts)))
    return Examples(videos, tuple(clips.prompts), torch.tensor(pairs), votes, ASPECTS), parts


def _judge(
    name: str, config: TrainConfig, features: Tensor, clips: Clips, num_pairs: int, noise: float, seeds: int
) -> None:
    """One line: means over seeds; the interval is over held-out prompts of all seeds."""
    eyes = SandboxBackbone()  # the features are there already; the model wants to know whose they are
    share: list[np.ndarray] = []
    clusters: list[str] = []
    rows: list[list[float]] = []
    for seed in range(seeds):
        data, parts = examples_of(clips, num_pairs, noise, seed)
        guards = None
        if config.guard_weight:
            learnt = set(data.pair[parts[0]].flatten().tolist())
            shown = torch.tensor([row for row in range(len(clips.frozen)) if row in learnt])
            guards = most_changed(shown, features[shown], clips.frozen[shown])
        begin = time.perf_counter()
        model = fit(features, data, parts, eyes, dataclasses.replace(config, seed=seed), guards)
        seconds = time.perf_counter() - begin
        column, held = ASPECTS.index("overall"), data.pair[parts[2]]
        with torch.no_grad():
            utility = model.utilities(features).mean(0)[:, column].double()
            frozen = model.utilities(clips.frozen).mean(0)[:, column].double() if features is clips.features else None
            chances = model.probabilities(features[held[:, 0]], features[held[:, 1]])[:, column].double().numpy()
        difference = (utility[held[:, 0]] - utility[held[:, 1]]).numpy()
        truth = (clips.gold[held[:, 0], column] - clips.gold[held[:, 1], column]).double().numpy()
        choice = data.votes[parts[2], column].argmax(-1).numpy()
        right = accuracy.correct_without_ties(difference, choice)
        ceiling = accuracy.correct_without_ties(truth, choice)
        decided = choice != TIE
        two = chances[decided][:, [A, B]]
        confidence = two.max(1) / two.sum(1)
        clear = np.abs(truth) > 0.02
        change = float("nan")
        if frozen is not None:
            change = float((frozen - utility[: len(frozen)]).mean() / utility.std())
        share.append(right / np.nanmean(ceiling))
        clusters += [clips.prompts[a] for a in held[:, 0].tolist()]
        rows.append(
            [
                float(np.nanmean(right)),
                float(np.mean((difference > 0) == (truth > 0), where=clear)),
                accuracy.expected_calibration_error(confidence, right[decided]),
                accuracy.calibration_floor(confidence),
                accuracy.debiased_calibration_square(confidence, right[decided]),
                accuracy.brier_score(chances, np.eye(3)[choice]),
                change,
                seconds,
            ]
        )
    votes, order, error, floor, square, brier, change, seconds = np.mean(rows, 0)
    debiased = max(square, 0.0) ** 0.5
    of = mean_interval(np.concatenate(share), clusters)
    between = f"{of.value:.3f} [{of.low:.3f}, {of.high:.3f}]"
    print(
        f"{name:>26}{num_pairs:>6}{votes:>6.3f}{between:>22}{order:>11.3f}{error:>6.3f}{floor:>6.3f}{debiased:>10.3f}"
        f"{brier:>7.3f}{change:>+8.2f}   {seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
