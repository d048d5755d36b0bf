"""Every algorithm of the table with settings for the toy.

A script that a launcher can start: `toy_algorithms.py OUT`."""

import sys

from processes import leave
from toy_generator import Brightness, ToyGenerator

from align.advantage_matching import AdvantageMatching
from align.ddpo import DDPO
from align.dpo import DPO
from align.grpo import GRPO
from align.nft import NFT
from align.ppo import PPO
from align.protocol import Algorithm
from align.reward_gradient import RewardGradient
from align.train import TrainConfig, train
from align.weighted_regression import WeightedRegression

TOYS: dict[str, Algorithm] = {
    "awm": AdvantageMatching(group_size=4, keep=2, clip_range=0.1),
    "ddpo": DDPO(group_size=4, window=3, clip_range=1e-2, advantage="prompt", history_enough=4),
    "dpo": DPO(group_size=4, levels=4, beta=1.0),
    "grpo": GRPO(group_size=4, keep=2, window=3, clip_range=1e-2, kl_weight=0.1),
    "nft": NFT(group_size=4, keep=2, advantage_limit=2.0, old_decay=0.5),
    "ppo": PPO(group_size=4, window=3, clip_range=1e-2, critic_learning_rate=1e-2),
    "reward_gradient": RewardGradient(last_steps=3, kl_weight=0.1),
    "weighted_regression": WeightedRegression(group_size=4),
}
CONFIG = TrainConfig(
    steps=3,
    prompts_per_step=4,
    batch=8,
    denoising_steps=6,
    learning_rate=1e-3,
    passes=2,
    sample_every=0,
    save_every=1,
)


def run(name: str, out: str) -> ToyGenerator:
    generator = ToyGenerator()
    train(generator, Brightness(), TOYS[name], list("abcdef"), CONFIG, out)
    return generator


if __name__ == "__main__":
    for name in TOYS:
        run(name, f"{sys.argv[1]}/{name}")
    leave()
