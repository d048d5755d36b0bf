"""One toy alignment run, as a script that a launcher can start: `toy_run.py OUT`."""

import sys

from toy_generator import Brightness, ToyGenerator

from align.ddpo import DDPO
from align.train import TrainConfig, train

CONFIG = TrainConfig(steps=4, prompts_per_step=3, batch=12, denoising_steps=6, learning_rate=1e-3, num_samples=2)
ALGORITHM = DDPO(group_size=8, window=3, clip_range=1e-2, kl_weight=0.1)

if __name__ == "__main__":
    train(ToyGenerator(), Brightness(), ALGORITHM, ["a", "b", "c", "d"], CONFIG, sys.argv[1])
