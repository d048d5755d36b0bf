"""What held-out reward has a loop after how many processor seconds of training: ours, and the one that peers write?

    python benchmarks/align_curves.py --reward runs/demo/reward --out DIR [--loops "NFT, 4 levels"] [--seconds 150]
        [--looks 4] [--seeds 0 1 2]

Given again it goes on, so a long run can be made in pieces; prints the table and draws the picture of all that is in
DIR. One process, one thread; seconds are the processor's, and looking at held-out clips is not counted.

All loops have the same adapters (rank 16, none on the cross-attention), 16 clips a forward, 10 denoising steps, 32
clips an update (reward gradients 16), bf16 where that is fast, the same prompts, and no warm-up. The plain loop trains
with guidance (`plain_loop.py`), ours without. So every policy is judged in the same two ways, whatever it was trained
with, on the same prompts and noise: drawn as `soralign generate` draws by default, with the guidance that is usual for
the model, and drawn in 10 steps without any. The table says at which look a loop was first above all that the plain one
ever showed.
"""

import argparse
import itertools
import math
import time
from pathlib import Path

import torch
from align_cost import Bench
from lines import Panel, picture
from plain_loop import GROUP, PlainLoop
from torch import Tensor

import base_model
from align.commands import load_reward
from align.config import TrainConfig
from align.demo import ADAPTED
from align.grpo import GRPO
from align.nft import NFT
from align.protocol import Algorithm
from align.reward_gradient import RewardGradient
from base_model import lora, native, sampler
from base_model.protocol import Generator
from base_model.sampler import Sampling
from base_model.world import dataset
from core.errors import UserError
from core.files import atomic_write, replacing
from reward.protocol import Reward

LOOPS: dict[str, tuple[float, Algorithm | None]] = {
    "NFT, 4 levels": (1e-3, NFT(group_size=GROUP, levels=4)),
    "DRaFT-1": (3e-4, RewardGradient()),
    "GRPO, window 2": (1e-4, GRPO(group_size=GROUP, window=2, clip_range=1e-3)),
    "plain DDPO": (3e-4, None),
}
"""Learning rates are those of the sandbox recipes; the plain loop's is that of flow_grpo's SD3 recipe."""
PLAIN = "plain DDPO"
DRAWN = {"usual sampling": native.USUAL, "10 steps without guidance": Sampling(num_steps=10)}
HELD_OUT = 128  # prompts, one clip each
Points = list[tuple[float, float]]  # (processor seconds, mean held-out reward)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox", help="sandbox, or nano: two tiny blocks with random weights")
    parser.add_argument("--reward", nargs="+", default=["clip"], help="as for `soralign align`")
    parser.add_argument("--seconds", type=float, default=150.0, help="of training, for each loop and seed")
    parser.add_argument("--looks", type=int, default=4, help="at held-out clips in this time, besides the first")
    parser.add_argument("--loops", nargs="+", choices=tuple(LOOPS), default=list(LOOPS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    reward = load_reward(options.reward)

    def fresh() -> Generator:
        return native.nano() if options.model == "nano" else base_model.load(options.model)

    start = _start(options.out / "start.pt", fresh(), reward)
    for seed, name in itertools.product(options.seeds, options.loops):
        path = options.out / f"{name}, seed {seed}.pt"
        _learn(name, fresh(), reward, seed, path, start, options.seconds, options.seconds / options.looks)
    summary(options.out)


def _start(path: Path, generator: Generator, reward: Reward) -> Tensor:
    """What the untrained model gets, which is every loop's first point."""
    setting = f"{generator.name}, {reward.name} {reward.version}"
    if not path.is_file():
        with replacing(path) as temporary:
            torch.save({"setting": setting, "scores": _held_out(generator, reward)}, temporary)
    kept = torch.load(path)
    if kept["setting"] != setting:
        raise UserError(f"'{path.parent}' has curves of {kept['setting']}, not of {setting}; choose another --out")
    return kept["scores"]


def _learn(
    name: str,
    generator: Generator,
    reward: Reward,
    seed: int,
    path: Path,
    start: Tensor,
    seconds: float,
    between: float,
) -> None:
    """Train one loop for `seconds`, looking at held-out clips every `between`; goes on from `path`."""
    train_prompts = dataset.prompts(7, 192, "train", most_objects=1)
    rate, algorithm = LOOPS[name]
    config = TrainConfig(
        denoising_steps=10,
        batch=16,
        precision="bf16" if native.fast_dtype() == torch.bfloat16 else "no",
        lora_targets=ADAPTED,
        learning_rate=rate,
        updates=2 if isinstance(algorithm, NFT) else 1,
        seed=seed,
    )
    loop = PlainLoop(generator, reward, config) if algorithm is None else Bench.of(generator, reward, algorithm, config)
    group = 1 if isinstance(algorithm, RewardGradient) else GROUP
    per_step = 16 if group == 1 else 32 * config.updates // group

    weights = lora.parameters(generator.policy_module())
    looks, used, clips = [(0.0, 0, start)], 0.0, 0
    if path.is_file():
        state = torch.load(path)
        loop.optimizer.load_state_dict(state["optimizer"])
        for value, kept in zip(weights, state["weights"], strict=True):
            value.data.copy_(kept)
        looks, used, clips = state["looks"], state["seconds"], state["clips"]
    while used < seconds:
        step = clips // (per_step * group)
        prompts = [train_prompts[(per_step * step + index) % len(train_prompts)] for index in range(per_step)]
        begin = time.process_time()
        loop.step(prompts, step)
        used, clips = used + time.process_time() - begin, clips + per_step * group
        if used >= min(looks[-1][0] + between, seconds):
            looks.append((used, clips, _held_out(generator, reward)))
            means = ", ".join(f"{mean:.4f}" for mean in looks[-1][2].mean(1).tolist())
            print(f"{name}, seed {seed}: {used:.0f} s, {clips} clips, {means}", flush=True)
        state = {"looks": looks, "seconds": used, "clips": clips}
        with replacing(path) as temporary:
            torch.save(state | {"optimizer": loop.optimizer.state_dict(), "weights": weights}, temporary)


@torch.no_grad()
def _held_out(generator: Generator, reward: Reward) -> Tensor:
    """Reward of every held-out clip, in every way of drawing [ways, clips]."""
    prompts = dataset.prompts(8, HELD_OUT, "heldout", most_objects=1)
    seeds = list(range(len(prompts)))
    drawn = [sampler.generate_frames(generator, prompts, seeds=seeds, sampling=way) for way in DRAWN.values()]
    return torch.stack([reward(frames, list(prompts)).total.double() for frames in drawn])


def summary(out: Path) -> None:
    """Table and picture of all loops and seeds that have left a file in `out`."""
    found = {name: [torch.load(path)["looks"] for path in sorted(out.glob(f"{name}, seed *.pt"))] for name in LOOPS}
    panels = []
    for row, way in enumerate(DRAWN):
        curves: dict[str, list[Points]] = {
            name: [[(used, float(scores[row].mean())) for used, _, scores in looks] for looks in several]
            for name, several in found.items()
            if several
        }
        plain = [point for curve in curves.get(PLAIN, []) for point in curve]
        level = max((value for _, value in plain), default=math.inf)
        print(f"\n{way}\n\n| loop | seconds | s a clip | held-out reward | change | above {level:.4f} after |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, several in curves.items():
            for looks, curve in zip(found[name], several, strict=True):
                used, clips, scores = looks[-1]
                change = scores[row] - looks[0][2][row]
                error = float(change.std()) / math.sqrt(len(change))
                passed = next((f"{used:.0f}" for used, value in curve if value > level), "-")
                print(
                    f"| {name} | {used:.0f} | {used / clips:.3f} | {curve[0][1]:.4f} -> {curve[-1][1]:.4f} "
                    f"| {float(change.mean()):+.4f} +- {error:.4f} | {passed} |"
                )
        if plain:
            print(f"{level:.4f} is the best that the plain loop showed in {max(used for used, _ in plain):.0f} s.")
        panels.append(_panel(f"held-out reward, {way}", curves))
    atomic_write(out / "align_curves.svg", picture(panels))


def _panel(title: str, curves: dict[str, list[Points]]) -> Panel:
    points = [point for several in curves.values() for curve in several for point in curve]
    values = [value for _, value in points]
    low, high = math.floor(10 * min(values)) / 10, math.ceil(10 * max(values)) / 10
    return Panel(title, curves, math.ceil(max(used for used, _ in points)), "s", low, high)


if __name__ == "__main__":
    main()
