"""What `tests/test_base_model_hub_parallel.py` starts twice: a gradient of a tiny family whose weights FSDP2 has cut.

torchrun --nproc-per-node 2 tests/sharded_hub.py NAME MODEL OUT TEAM
"""

import sys
from pathlib import Path

import torch
from processes import leave
from tiny_pipelines import CASES, PROMPTS
from torch.distributed.fsdp import fully_shard

import base_model
from align.policy import Velocity
from base_model import lora
from base_model.given import given
from base_model.large import repeated_blocks, whole
from base_model.options import ModelOptions
from base_model.protocol import take
from base_model.sampler import initial_noise


def gradient(name: str, model: str, team: int = 1, rank: int = 0, processes: int = 1) -> list[torch.Tensor]:
    """Of a mean over two clips by a LoRA's weights; every team has clips of its own, its processes tokens of theirs."""
    torch.set_num_threads(1)
    size = CASES[name].size
    options = ModelOptions(
        "float32", "cpu", num_frames=size.num_frames, height=size.height, width=32, context_parallel=team
    )
    generator = base_model.load(model, options, PROMPTS)
    network = generator.policy_module()
    weights = lora.attach(network, 2, 4, ["to_q", "to_v"])
    for index, weight in enumerate(weights):  # as after some training
        weight.data = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(index))
    policy = Velocity(generator)  # what the loop gives to accelerate
    if processes > 1:
        for part in (*repeated_blocks(network), policy):
            fully_shard(part)
    teams = processes // team
    rows = slice(rank // team * 2 // teams, (rank // team + 1) * 2 // teams)
    noise, condition = initial_noise(generator, [1, 2])[rows], take(generator.encode_prompts(PROMPTS), rows)
    if generator.model.given == "token":  # a noise level per token
        cells = torch.zeros(noise.shape[2:], dtype=torch.bool)
        cells[0] = True
        condition = given(generator, condition, cells, initial_noise(generator, [3, 4])[rows], PROMPTS[rows])
    answer = policy(noise, torch.zeros(len(noise), dtype=torch.long), generator.schedule(4), condition)
    answer.square().mean().backward()
    found = [weight for name, weight in network.named_parameters() if ".lora_" in name]
    return [whole(weight.grad) * team for weight in found if weight.grad is not None]


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    name, model, out, team = sys.argv[1:]
    found = gradient(name, model, int(team), rank, processes)
    if rank == 0:
        torch.save(found, Path(out))
    leave()
