"""One toy alignment run with all that processes must agree on: critic, average, two rewards mixed by group, curriculum.

A script that a launcher can start: `toy_run.py OUT`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from processes import leave
from torch import Tensor, nn
from toy_generator import Brightness, Scores, ToyGenerator

from align.ddpo import DDPO
from align.experience import Part
from align.policy import Policy
from align.train import TrainConfig, train
from core.run import Run
from reward.mixture import Mixture


@dataclass(frozen=True)
class WithCritic(DDPO):
    """DDPO beside a network of its own that learns to foretell the advantage."""

    critic_learning_rate: float = 3e-2

    def modules(self, policy: Policy) -> dict[str, nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return {"critic": nn.Linear(8, 1)}

    def loss(self, policy: Policy, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(policy, part)
        value = policy.call("critic", part.before.flatten(1)).flatten()
        error = (value - part.advantage).square().mean()
        return loss + error, metrics | {"value_error": error}


@dataclass(frozen=True)
class Redness(Brightness):
    """A hundred times the first channel."""

    name: str = "redness"

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        return Scores(100 * frames[:, :, 0].flatten(1).mean(1), {})


CONFIG = TrainConfig(
    steps=4,
    prompts_per_step=3,
    batch=12,
    denoising_steps=6,
    learning_rate=1e-3,
    curriculum=0.34,
    ema_decay=0.5,
    num_samples=2,
    save_every=1,
    keep_checkpoints=4,
    judge_every=2,
    judge_clips=4,
)
ALGORITHM = WithCritic(group_size=8, window=3, clip_range=1e-2, kl_weight=0.1)


def run(out: str) -> Run:
    reward = Mixture({"brightness": 1.0, "redness": 0.5}, {"brightness": Brightness(), "redness": Redness()})
    judge = Brightness(name="brightness-again", version="2")
    return train(ToyGenerator(), reward, ALGORITHM, list("abcdef"), CONFIG, out, judges=[judge])


if __name__ == "__main__":
    run(sys.argv[1])
    leave()
