"""What a run stands on before its first step: processes, the generator with what is trained of it, the optimizer."""

import math
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import nn

from align.config import TrainConfig
from align.policy import Policy, Velocity
from align.protocol import Algorithm
from base_model import lora
from base_model.hub.generator import HubGenerator
from base_model.large import checkpoint_activations, repeated_blocks
from base_model.protocol import Generator
from core.errors import UserError
from core.randomness import seed_for

if TYPE_CHECKING:
    from reward.protocol import Reward


def policy_for(
    generator: Generator, reward: "Reward", config: TrainConfig, accelerator: Accelerator, tags: dict[str, str]
) -> Policy:
    """The generator with what is trained of it, not yet wrapped."""
    network = generator.policy_module()
    for part in vars(generator).values():  # codec and text tower: accelerate moves only what is trained
        if isinstance(part, nn.Module) and any(one.device != accelerator.device for one in part.parameters()):
            part.to(accelerator.device)
    start = None
    if config.adapter == "full":
        parameters = list(network.requires_grad_(True).parameters())
        for value in parameters:
            value.data = value.data.float()  # small steps vanish in a bf16 weight
        if isinstance(generator, HubGenerator):
            generator.dtype = torch.float32  # what it gives its network; `precision` says what that computes in
        start = [value.detach().clone() for value in parameters]
    else:
        parameters = lora.attach(
            network,
            config.lora_rank,
            config.lora_alpha,
            config.lora_targets,
            seed_for(config.seed, "lora"),
            dora=config.adapter == "dora",
            rslora=config.rslora,
        )
    if config.compile:
        for block in repeated_blocks(network):  # the method and not the module: hooks of a critic stay outside
            block.forward = torch.compile(block.forward, dynamic=False)
    network.eval()  # for good: dropout would make replay differ from sampling
    if config.gradient_checkpointing:
        checkpoint_activations(network)
    return Policy(
        generator,
        Velocity(generator, one_graph=config.compile),
        parameters,
        accelerator,
        denoising_steps=config.denoising_steps,
        guidance=config.guidance,
        batch=config.batch,
        prompts_per_step=config.prompts_per_step,
        solver=config.solver,
        rounds=config.rounds,
        mix=config.mix,
        overlap=config.overlap == "on" or (config.overlap == "auto" and _pays(accelerator, reward)),
        tags=tags,
        start=start,
    )


def _pays(accelerator: Accelerator, reward: "Reward") -> bool:
    """Whether judging leaves the processor to the sampling: on a GPU, and where a reward waits for a server."""
    from reward.mixture import Mixture
    from reward.remote import RemoteReward

    several = reward.components.values() if isinstance(reward, Mixture) else (reward,)
    return accelerator.device.type == "cuda" or any(isinstance(one, RemoteReward) for one in several)


def check_updates(algorithm: Algorithm, config: TrainConfig, world: int) -> None:
    """Raises: UserError if a process has fewer forwards in a training step than the step has updates."""
    clips = algorithm.learned(config.prompts_per_step) // world
    forwards = math.ceil(clips / config.batch)
    if config.updates > forwards:
        raise UserError(
            f"{config.updates} updates need as many batches, but the {clips} clips that a process learns from in a "
            f"step make {forwards} of {config.batch}; lower updates or batch, or raise prompts_per_step"
        )


def prepare(policy: Policy, algorithm: Algorithm, config: TrainConfig) -> Any:
    """Put model and optimizer under accelerate; returns the optimizer.

    AdamW over the trained weights and, as a group with a learning rate of its own, the algorithm's networks.
    """
    accelerator = policy.accelerator
    policy.own.update(algorithm.modules(policy))
    groups: list[dict[str, Any]] = [{"name": "policy", "params": policy.parameters, "lr": config.learning_rate}]
    if own := list(policy.own.parameters()):
        rate = algorithm.critic_learning_rate  # type: ignore[attr-defined]
        groups.append({"name": "own", "params": own, "lr": rate})
    for group in groups:
        group["initial_lr"] = group["lr"]
    if (plugin := accelerator.state.deepspeed_plugin) is not None:  # it scales gradients down itself, of all groups
        plugin.deepspeed_config["gradient_clipping"] = config.max_grad_norm
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.batch  # there is no data loader to ask
    policy.model, optimizer = accelerator.prepare(policy.model, torch.optim.AdamW(groups, weight_decay=0.0))
    if accelerator.is_fsdp2:  # it has replaced every weight by its own view
        policy.parameters = list(optimizer.param_groups[0]["params"])
    return optimizer
