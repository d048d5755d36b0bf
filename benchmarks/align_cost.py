"""What does a step of alignment cost, beside the forwards it cannot do without and beside the loop peers write?

    python benchmarks/align_cost.py [--model sandbox] [--repeats 3] [--parts phases plain memory shapes]
    python benchmarks/align_cost.py --curves SECONDS --out DIR [--loops "plain DDPO"] [--seeds 0 1]   held-out reward
        against processor seconds; given again it goes on, so a long run can be made in pieces

Everything runs in one process and one thread and is measured in processor seconds, alternating with the forward that
it is compared with, so that a busy machine moves both alike. The unit f is one forward of one batch without gradient.
Floor of a clipped-ratio step with LoRA: c (T + 2 E S) f, T sampled and S trained denoising steps, E passes, c = 2 with
guidance; a backward through frozen weights is counted as one forward.

The plain loop is DDPO as it is usually written (flow_grpo's settings for Wan): noise and gradients in every step but
the last, one forward per denoising step, guidance 4.5 in sampling and training, KL to the reference, clip range 1e-3,
prompts encoded again for every batch. For the curves all loops have the same adapters (rank 16, none on the
cross-attention), 16 clips a forward, 10 denoising steps, 32 clips an update (reward gradients 16), bf16 where that is
fast, the same prompts, and no warm-up. Held-out clips are sampled with the guidance that was trained with, so those of
the plain loop are better, and twice as dear, before any training.
"""

import argparse
import itertools
import math
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lines import Panel, picture, reaches
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import base_model
from align import objectives
from align.advantages import group_advantages
from align.config import TrainConfig
from align.grpo import GRPO
from align.nft import NFT
from align.policy import Policy
from align.protocol import Algorithm
from align.reward_gradient import RewardGradient
from align.scoring import judge
from align.setup import policy_for, prepare
from align.train import learn
from base_model import flow, lora, native, sampler
from base_model.large import launch
from base_model.protocol import Condition, Generator, take
from base_model.world import dataset
from core.files import atomic_write, replacing
from core.randomness import seed_for, torch_generator
from reward import load as load_reward
from reward.protocol import Reward

PARTS = ("phases", "plain", "memory", "shapes")
KL_WEIGHT = 0.004
GROUP = 8
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox", help="sandbox, or nano: two tiny blocks with random weights")
    parser.add_argument("--reward", default="clip")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--curves", type=float, default=0.0, help="processor seconds of learning for each loop")
    parser.add_argument("--loops", nargs="+", choices=tuple(LOOPS), default=list(LOOPS), help="with --curves")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="with --curves")
    parser.add_argument("--out", type=Path, default=Path("runs/align_cost"), help="with --curves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    reward = load_reward(options.reward)

    def fresh() -> Generator:
        return native.nano() if options.model == "nano" else base_model.load(options.model)

    if options.curves:
        for seed, name in itertools.product(options.seeds, options.loops):
            _learn(name, fresh(), reward, options.curves, seed, options.out / f"{name}, seed {seed}.pt")
        curves(options.out, f"{options.model}, {options.reward}")
        return
    print(
        f"model {options.model}, reward {options.reward}, batch {BATCH}, {options.repeats} repeats, processor seconds"
    )
    if "phases" in options.parts:
        phases(fresh, reward, options.repeats)
    if "plain" in options.parts:
        plain(fresh, reward, options.repeats)
    if "memory" in options.parts:
        memory(fresh, reward)
    if "shapes" in options.parts:
        shapes(fresh, reward)


@dataclass
class Bench:
    """A policy ready to train, and the stopwatch."""

    policy: Policy
    optimizer: Any
    algorithm: Algorithm
    config: TrainConfig
    reward: Reward

    @property
    def guidance(self) -> float:
        return self.policy.guidance

    @classmethod
    def of(cls, generator: Generator, reward: Reward, algorithm: Algorithm, config: TrainConfig) -> "Bench":
        policy = policy_for(generator, reward, config, launch(), {})
        algorithm.check(policy, reward)
        return cls(policy, prepare(policy, algorithm, config), algorithm, config, reward)

    def step(self, prompts: Sequence[str], step: int) -> tuple[float, float]:
        """Processor seconds of (collecting, learning) one training step."""
        begin = time.process_time()
        experience = self.algorithm.collect(self.policy, self.reward, prompts, self.config.seed, step)
        middle = time.process_time()
        learn(self.policy, self.algorithm, experience, self.optimizer, self.config, step + 1)
        return middle - begin, time.process_time() - middle

    def forward(self, prompts: Sequence[str]) -> float:
        """Processor seconds of one forward of `BATCH` clips without gradient."""
        policy = self.policy
        condition = take(policy.condition((list(prompts) * BATCH)[:BATCH]), slice(0, BATCH))
        latents = sampler.initial_noise(policy.generator, range(BATCH))
        steps = torch.full((BATCH,), policy.num_steps // 2)
        begin = time.process_time()
        with torch.no_grad():
            policy.velocity(latents, steps, condition)
        return time.process_time() - begin


def phases(fresh: Callable[[], Generator], reward: Reward, repeats: int) -> None:
    """Sampling, training and whole step over their floors."""
    prompts = dataset.prompts(7, 2, "train", most_objects=1)
    print(
        f"\n{'setting':<24}{'f':>8}{'sampling / T c f':>18}{'training / 2 S c f':>20}{'step / floor':>14}   parts in s"
    )
    for name, window, guidance in (
        ("GRPO, window 2", 2, 1.0),
        ("GRPO, all steps", 0, 1.0),
        ("GRPO, window 2, CFG", 2, 2.0),
    ):
        config = TrainConfig(denoising_steps=10, batch=BATCH, guidance=guidance, lora_rank=16)
        bench = Bench.of(fresh(), reward, GRPO(group_size=GROUP, window=window, clip_range=1e-3), config)
        bench.step(prompts, 0)
        c, trained = (2 if guidance != 1 else 1), (window or config.denoising_steps - 1)
        batches = len(prompts) * GROUP / BATCH
        clips = [prompt for prompt in prompts for _ in range(GROUP)]
        rows = []
        for repeat in range(repeats):
            forwards = [bench.forward(prompts) for _ in range(3)]
            begin = time.process_time()
            noise = sampler.initial_noise(bench.policy.generator, range(len(clips)))
            rng = [torch_generator(0, "bench", index) for index in range(len(clips))]
            parts = [
                part.latents
                for part in bench.policy.sample_batches(
                    bench.policy.condition(clips), noise, kind="flow", eta=0.7, window=range(0, trained), rng=rng
                )
            ]
            sampled = time.process_time() - begin
            begin = time.process_time()
            judge(bench.policy, reward, torch.cat(parts), clips, range(len(clips)), 0)
            judged = time.process_time() - begin
            collecting, learning = bench.step(prompts, repeat + 1)
            forwards += [bench.forward(prompts) for _ in range(3)]
            f = median(forwards)  # as the policy does it, so with guidance it is two
            floor = (config.denoising_steps + 2 * trained) * batches * f
            rows.append((f, sampled, learning, collecting + learning, floor + judged, judged))
        f, sampled, learning, whole, floor, judged = (median(column) for column in zip(*rows, strict=True))
        print(
            f"{name:<24}{f / c:>8.3f}{sampled / (config.denoising_steps * batches * f):>18.3f}"
            f"{learning / (2 * trained * batches * f):>20.3f}{whole / floor:>14.3f}"
            f"   sample {sampled:.2f} judge {judged:.2f} train {learning:.2f} whole {whole:.2f}"
        )


def memory(fresh: Callable[[], Generator], reward: Reward) -> None:
    """Peak memory of a training step against the number of sampling steps."""
    lengths = (5, 10, 20)
    print(f"\npeak MiB of tensors of one step of {GROUP} clips at {', '.join(map(str, lengths))} sampling steps")
    for name, algorithm in {
        "GRPO, window 2": GRPO(group_size=GROUP, window=2, clip_range=1e-3),
        "NFT, 2 levels": NFT(group_size=GROUP, levels=2),
        "GRPO, all steps": GRPO(group_size=GROUP, window=0, clip_range=1e-3),
    }.items():
        peaks = [peak_bytes(fresh(), reward, algorithm, length) / 2**20 for length in lengths]
        print(f"{name:<24}" + "".join(f"{peak:10.2f}" for peak in peaks), flush=True)


def peak_bytes(generator: Generator, reward: Reward, algorithm: Algorithm, num_steps: int) -> int:
    """Most bytes of tensors that one training step has alive at a time, beyond what was there before it."""
    config = TrainConfig(denoising_steps=num_steps, batch=GROUP, lora_rank=16)
    bench = Bench.of(generator, reward, algorithm, config)
    prompts = dataset.prompts(7, 1, "train", most_objects=1)
    bench.step(prompts, 0)  # the optimizer's averages and the encoded prompt are there from now on
    with Alive() as alive:
        bench.step(prompts, 0)
    return alive.peak


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors made inside; `peak` is the most that were alive at once.

    Resident memory would not do: an allocator keeps what it was given, so only the first peak of a process shows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._users: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._hold(tensor)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if not self._users.get(place):
            self._now += size
            self.peak = max(self.peak, self._now)
        self._users[place] = self._users.get(place, 0) + 1
        weakref.finalize(tensor, self._release, place, size)

    def _release(self, place: int, size: int) -> None:
        self._users[place] -= 1
        if not self._users[place]:
            self._now -= size


def shapes(fresh: Callable[[], Generator], reward: Reward) -> None:
    """How far the ratio is from 1 where steps are replayed in batches of another size than they were sampled in."""
    batches = (16, 8, 4, 1)
    print(f"\nlargest |ratio - 1| of 16 clips sampled together and replayed by {', '.join(map(str, batches))}")
    for precision in ("no", "bf16"):
        config = TrainConfig(denoising_steps=10, batch=16, precision=precision)  # type: ignore[arg-type]
        bench = Bench.of(fresh(), reward, GRPO(group_size=GROUP, window=2), config)
        prompts = dataset.prompts(7, 2, "train", most_objects=1)
        experience = bench.algorithm.collect(bench.policy, reward, prompts, 0, 0)
        with torch.no_grad():
            worst = [
                max(
                    float(bench.algorithm.loss(bench.policy, part)[1]["ratio_error"])
                    for part in experience.parts(batch, 0, 1)
                )
                for batch in batches
            ]
        print(f"precision {precision:<14}" + "".join(f"{error:10.1e}" for error in worst), flush=True)


def plain(fresh: Callable[[], Generator], reward: Reward, repeats: int) -> None:
    """Processor seconds per training step of as many clips: ours against the plain loop."""
    prompts = dataset.prompts(7, 2, "train", most_objects=1)
    config = TrainConfig(denoising_steps=10, batch=BATCH, lora_rank=16)
    ours: dict[str, Algorithm] = {
        "GRPO, window 2": GRPO(group_size=GROUP, window=2, clip_range=1e-3),
        "NFT, 4 levels": NFT(group_size=GROUP, levels=4),
    }
    benches = {name: Bench.of(fresh(), reward, algorithm, config) for name, algorithm in ours.items()}
    loop = PlainLoop(fresh(), reward, config)
    seconds: dict[str, list[float]] = {name: [] for name in (*ours, "plain DDPO")}
    for repeat in range(repeats):
        for name, bench in benches.items():
            seconds[name].append(sum(bench.step(prompts, repeat)))
        begin = time.process_time()
        loop.step(prompts, repeat)
        seconds["plain DDPO"].append(time.process_time() - begin)
    base = median(seconds["plain DDPO"])
    print(f"\none training step of {len(prompts) * GROUP} clips, T = 10, reward included")
    for name, values in seconds.items():
        print(f"{name:<24}{median(values):8.2f} s   plain / this {base / median(values):6.2f}")


class PlainLoop:
    """DDPO as peers write it; see the head of this file."""

    guidance = 4.5

    def __init__(self, generator: Generator, reward: Reward, config: TrainConfig) -> None:
        self.generator, self.reward, self.config = generator, reward, config
        self.num_steps, self.seed = config.denoising_steps, config.seed
        self.network = generator.policy_module()
        self.parameters = lora.attach(
            self.network, config.lora_rank, config.lora_alpha, config.lora_targets, seed_for(config.seed, "lora")
        )
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=0.0)

    def step(self, prompts: Sequence[str], step: int) -> float:
        """One round of sampling and one optimizer step; returns the mean reward."""
        clips = [prompt for prompt in prompts for _ in range(GROUP)]
        batches = [
            self._sample(clips[start : start + self.config.batch], step, start)
            for start in range(0, len(clips), self.config.batch)
        ]
        total = torch.cat([batch[-1] for batch in batches])
        advantages = group_advantages(total, total.isfinite(), GROUP, limit=5.0).value.split(self.config.batch)
        for (condition, path, log_probs, _), advantage in zip(batches, advantages, strict=True):
            empty = self.generator.unconditional(len(advantage))
            for index, log_prob in enumerate(log_probs):
                velocity = self._velocity(path[index], index, condition, empty)
                mean, std = self._transition(path[index], velocity, index)
                with torch.no_grad(), lora.reference(self.network):
                    reference, _ = self._transition(
                        path[index], self._velocity(path[index], index, condition, empty), index
                    )
                log_ratio = flow.log_prob(path[index + 1], mean, std) - log_prob
                loss = objectives.clipped_surrogate(log_ratio, advantage, 1e-3)
                loss = loss + KL_WEIGHT * objectives.latent_kl(mean, reference, std)
                (loss.mean() / len(log_probs) / len(batches)).backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(total.mean())

    @torch.no_grad()
    def _sample(
        self, clips: Sequence[str], step: int, start: int
    ) -> tuple[Condition, list[Tensor], list[Tensor], Tensor]:
        condition, empty = self.generator.encode_prompts(clips), self.generator.unconditional(len(clips))
        rng = [torch_generator(self.seed, "plain", step, start + row) for row in range(len(clips))]
        latents = sampler.initial_noise(
            self.generator, [seed_for(self.seed, "plain", step, start + row) for row in range(len(clips))]
        )
        path, log_probs = [latents], []
        for index in range(self.num_steps):
            velocity = self._velocity(latents, index, condition, empty)
            if index < self.num_steps - 1:
                mean, std = self._transition(latents, velocity, index)
                latents = mean + std * torch.stack([torch.randn(mean.shape[1:], generator=one) for one in rng])
                log_probs.append(flow.log_prob(latents, mean, std))
            else:
                schedule = self.generator.schedule(self.num_steps)
                levels = schedule.at(torch.full((len(clips),), index))
                latents, _ = flow.transition("ode", latents, velocity, *levels, 0.0, sigma_max=schedule.sigma_max)
            path.append(latents)
        return condition, path, log_probs, self.reward(self.generator.decode(latents), list(clips)).total

    def _velocity(self, latents: Tensor, index: int, condition: Condition, empty: Condition) -> Tensor:
        steps = torch.full((len(latents),), index)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.generator.predict(
                latents, steps, self.generator.schedule(self.num_steps), condition, empty, self.guidance
            )

    def _transition(self, latents: Tensor, velocity: Tensor, index: int) -> tuple[Tensor, Tensor]:
        schedule = self.generator.schedule(self.num_steps)
        levels = schedule.at(torch.full((len(latents),), index))
        return flow.transition("flow", latents, velocity, *levels, 0.7, sigma_max=schedule.sigma_max)


LOOPS: dict[str, tuple[float, Algorithm | None]] = {
    "DRaFT-1": (3e-4, RewardGradient()),
    "NFT, 4 levels": (1e-3, NFT(group_size=GROUP, levels=4)),
    "GRPO, window 2": (1e-4, GRPO(group_size=GROUP, window=2, clip_range=1e-3)),
    "plain DDPO": (3e-4, None),
}
"""Learning rates are those of the sandbox recipes; the plain loop's is that of flow_grpo's SD3 recipe."""
LOOKS = 3
ADAPTED = ["attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out", "mlp_in", "mlp_out", "modulation"]


def _learn(name: str, generator: Generator, reward: Reward, seconds: float, seed: int, path: Path) -> None:
    """Train one loop for `seconds`, going on from `path`; looking at held-out clips is not counted.

    `path` keeps (seconds, clips, mean reward on held-out prompts) of every look.
    """
    train_prompts = dataset.prompts(7, 64, "train", most_objects=1)
    held_out = dataset.prompts(8, 64, "heldout", most_objects=1)
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
    if path.is_file():
        state = torch.load(path)
        loop.optimizer.load_state_dict(state["optimizer"])
        for value, kept in zip(weights, state["weights"], strict=True):
            value.data.copy_(kept)
        points, used, clips = state["points"], state["seconds"], state["clips"]
    else:
        points, used, clips = [(0.0, 0, _held_out(generator, reward, held_out, loop.guidance))], 0.0, 0
    while used < seconds:
        step = clips // (per_step * group)
        prompts = [train_prompts[(per_step * step + index) % len(train_prompts)] for index in range(per_step)]
        begin = time.process_time()
        loop.step(prompts, step)
        used, clips = used + time.process_time() - begin, clips + per_step * group
        if used >= min(points[-1][0] + seconds / LOOKS, seconds):
            points.append((used, clips, _held_out(generator, reward, held_out, loop.guidance)))
            print(f"{name}, seed {seed}: {used:.0f} s, {clips} clips, {points[-1][2]:.4f}", flush=True)
        state = {"points": points, "seconds": used, "clips": clips}
        with replacing(path) as temporary:
            torch.save(state | {"optimizer": loop.optimizer.state_dict(), "weights": weights}, temporary)


def curves(out: Path, setting: str) -> None:
    """Table and picture of all loops and seeds that have left a file in `out`."""
    found: dict[str, list[list[tuple[float, int, float]]]] = {}
    for name in LOOPS:
        points = [torch.load(path)["points"] for path in sorted(out.glob(f"{name}, seed *.pt"))]
        found |= {name: points} if points else {}
    lines = {name: [[(used, value) for used, _, value in one] for one in several] for name, several in found.items()}
    gains = {name: [[(used, value - one[0][1]) for used, value in one] for one in lines[name]] for name in lines}
    print("| loop | seconds | s a clip | held-out reward | best gain | s to +.01 | s to +.02 | s to +.04 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, several in found.items():
        for points, gain in zip(several, gains[name], strict=True):
            used, clips, value = points[-1]
            reached = [reaches(gain, level) for level in (0.01, 0.02, 0.04)]
            shown = " | ".join("-" if seconds == math.inf else f"{seconds:.0f}" for seconds in reached)
            print(
                f"| {name} | {used:.0f} | {used / clips:.3f} | {points[0][2]:.4f} -> {value:.4f} "
                f"| {max(value for _, value in gain):+.4f} | {shown} |"
            )
    panels = []
    for title, drawn in (("held-out reward", lines), ("gain", gains)):
        values = [value for several in drawn.values() for one in several for _, value in one]
        low, high = math.floor(100 * min(values)) / 100, math.ceil(100 * max(values)) / 100
        most = max(one[-1][0] for several in drawn.values() for one in several)
        panels.append(Panel(f"{title}, {setting}", drawn, math.ceil(most), "s", low, high))
    atomic_write(out / "align_cost.svg", picture(panels))


def _held_out(generator: Generator, reward: Reward, prompts: Sequence[str], guidance: float) -> float:
    frames = sampler.generate_frames(
        generator, prompts, seeds=list(range(len(prompts))), num_steps=10, guidance=guidance, batch=32
    )
    with torch.no_grad():
        return float(reward(frames, list(prompts)).total.mean())


if __name__ == "__main__":
    main()
