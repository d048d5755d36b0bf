"""`compile: true`: the blocks as the compiler writes them sample and learn the same, and the ratio stays 1."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness

from align.ddpo import DDPO
from align.grpo import GRPO
from align.train import TrainConfig, train
from base_model import lora, native
from core.run import read_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch compiles for a CPU with a C++ compiler"
    ),
]
PROMPTS = ["a red ball", "a blue cube"]
CONFIG = TrainConfig(steps=2, prompts_per_step=2, batch=4, denoising_steps=4, sample_every=0, lora_rank=2, warmup=0)


def test_a_compiled_grpo_run_ends_within_1e_5_of_one_that_is_not(tmp_path: Path) -> None:
    ends, logged = [], []
    for compiled in (False, True):
        generator = native.nano()
        config = replace(CONFIG, compile=compiled, learning_rate=1e-3, passes=2)
        algorithm = GRPO(group_size=4, window=2, clip_range=1e-3)
        run = train(generator, Brightness(), algorithm, PROMPTS, config, tmp_path / str(compiled))
        ends.append(torch.cat([value.detach().flatten() for value in lora.parameters(generator.policy_module())]))
        logged.append(read_metrics(run.folder))
    assert [row["align/first_pass_ratio_error"] for row in logged[1]] == [0.0, 0.0]
    assert float((ends[0] - ends[1]).abs().max()) < 1e-5  # 1.3e-7 seen
    for plain, compiled in zip(*logged, strict=True):
        for name in ("reward/total", "align/loss", "align/grad_norm", "align/lora_norm", "align/diversity"):
            assert compiled[name] == pytest.approx(plain[name], rel=1e-3), name


def test_compiled_blocks_reproduce_their_own_samples_in_bf16(tmp_path: Path) -> None:
    algorithm = DDPO(group_size=2, window=2, kl_weight=0.1)
    config = replace(CONFIG, compile=True, learning_rate=1e-2)
    run = train(native.nano("bfloat16"), Brightness(), algorithm, PROMPTS, config, tmp_path / "run")
    assert [row["align/first_pass_ratio_error"] for row in read_metrics(run.folder)] == [0.0, 0.0]
    assert read_metrics(run.folder)[-1]["align/kl_reference"] > 0  # the reference is compiled without adapters
