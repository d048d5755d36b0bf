"""What `tests/test_base_model_hub_parallel.py` starts twice: a training step of a tiny Wan, alone or as a team of two.

python tests/token_team.py MODEL OUT TEAM
"""

import sys
from pathlib import Path

import torch
from processes import leave
from toy_generator import Brightness

import base_model
from align.ddpo import DDPO
from align.train import TrainConfig, train
from base_model.options import ModelOptions


def main(model: str, out: str, team: str) -> None:
    torch.set_num_threads(1)
    options = ModelOptions("float32", "cpu", num_frames=9, height=16, width=32, context_parallel=int(team))
    config = TrainConfig(
        steps=2,
        prompts_per_step=1,
        batch=2,
        denoising_steps=4,
        guidance=2.0,
        learning_rate=1e-3,
        warmup=0,
        lora_rank=2,
        lora_targets=["to_q", "to_v"],
        sample_every=0,
        save_every=2,
    )
    generator = base_model.load(model, options, ["a red ball rolls"])
    train(generator, Brightness(), DDPO(group_size=2), ["a red ball rolls"], config, Path(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave()
