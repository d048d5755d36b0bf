"""A small pretraining that test_base_model_pretrain starts in one process and in two: pretrain_run.py PARTS OUT"""

import sys
from pathlib import Path

import torch
from processes import leave

from base_model.pretrain import PretrainConfig, pretrain, transformer


def train(parts: Path, out: Path) -> None:
    """Three steps from the transformer in `parts`, in fp32: sums of two processes are taken in another order."""
    transformer.fast_dtype = lambda: torch.float32
    config = PretrainConfig(
        part="transformer",
        steps=3,
        batch=2,
        warmup=1,
        num_clips=4,
        start=str(parts / "transformer"),
        codec=str(parts / "codec"),
        clip=str(parts / "clip"),
    )
    pretrain(config, out)


if __name__ == "__main__":
    train(*map(Path, sys.argv[1:]))
    leave()
