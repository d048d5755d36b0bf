"""What `tests/test_base_model_hub_parallel.py` starts: whole runs of a tiny Wan on two processes that FSDP2 cuts, each
once without a break and once gone on from its first checkpoint; or the same run in one process.

torchrun --nproc-per-node 2 tests/sharded_run.py MODEL OUT
"""

import shutil
import sys
from pathlib import Path
from unittest import mock

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from processes import leave
from tiny_pipelines import PROMPTS
from torch.distributed.tensor import DTensor
from toy_generator import Brightness

import base_model
from align.ddpo import DDPO
from align.train import TrainConfig, train
from base_model import large
from base_model.options import ModelOptions
from base_model.protocol import Generator

ADAPTERS = ("lora", "full")


def run(model: str, out: Path, adapter: str) -> Generator:
    """Two steps; the trained model."""
    torch.set_num_threads(1)
    config = TrainConfig(
        steps=2, prompts_per_step=1, batch=2, denoising_steps=4, guidance=2.0, learning_rate=1e-3, warmup=0,
        adapter=adapter, lora_rank=2, lora_targets=["to_q", "to_v"], ema_decay=0.5, save_every=1,
        sample_every=2, num_samples=1,
    )  # fmt: skip
    options = ModelOptions("float32", "cpu", num_frames=9, height=16, width=16)
    generator = base_model.load(model, options, PROMPTS)
    train(generator, Brightness(), DDPO(group_size=4, kl_weight=0.01), PROMPTS, config, out)
    return generator


def cut(precision: str = "no") -> Accelerator:
    """`large.launch` with what align/launch/fsdp2.yaml asks for, which accelerate offers to GPUs alone."""
    accelerator = large.launch(precision)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    # Both: every look at accelerate's state begins with a copy of the second.
    accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    return accelerator


def main(model: str, out: Path) -> None:
    with mock.patch("align.train.launch", cut):
        for adapter in ADAPTERS:
            whole, broken = out / f"{adapter}-whole", out / f"{adapter}-broken"
            run(model, whole, adapter)
            if torch.distributed.get_rank() == 0:
                shutil.copytree(whole, broken)
                shutil.rmtree(broken / "checkpoints/step-000002")
            torch.distributed.barrier()
            generator = run(model, broken, adapter)
            assert all(isinstance(value, DTensor) for value in generator.policy_module().parameters())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
    leave()
