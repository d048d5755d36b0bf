"""What does a step of alignment cost, beside the forwards it cannot do without and beside the loop peers write?

    python benchmarks/align_cost.py [--model sandbox] [--repeats 3] [--parts phases plain memory shapes]

Everything runs in one process and one thread and is measured in processor seconds, alternating with the forward that
it is compared with, so that a busy machine moves both alike. The unit f is one forward of one batch without gradient.
Floor of a clipped-ratio step with LoRA: c (T + 2 E S) f, T sampled and S trained denoising steps, E passes, c = 2 with
guidance; a backward through frozen weights is counted as one forward.

The loop that peers write is in `plain_loop.py`; how soon each gets to a reward is in `align_curves.py`.
"""

import argparse
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from plain_loop import GROUP, PlainLoop
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import base_model
from align.config import TrainConfig
from align.grpo import GRPO
from align.nft import NFT
from align.policy import Policy
from align.protocol import Algorithm
from align.scoring import judge
from align.setup import policy_for, prepare
from align.train import learn
from base_model import native, sampler
from base_model.large import launch
from base_model.protocol import Generator, take
from base_model.world import dataset
from core.randomness import torch_generator
from reward import load as load_reward
from reward.protocol import Reward

PARTS = ("phases", "plain", "memory", "shapes")
BATCH = 16
"""Of most sandbox recipes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox", help="sandbox, or nano: two tiny blocks with random weights")
    parser.add_argument("--reward", default="clip")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    reward = load_reward(options.reward)

    def fresh() -> Generator:
        return native.nano() if options.model == "nano" else base_model.load(options.model)

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


if __name__ == "__main__":
    main()
