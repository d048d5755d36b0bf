"""THE loop: collect experience, take optimizer steps, log, save. Nothing subclasses it and no algorithm copies it.

Everything runs through accelerate, so the same code serves one CPU, `torchrun` and `accelerate launch`. All randomness
derives from (seed, purpose, step), so a checkpoint needs no random state: weights, optimizer, the algorithm's networks
and memory and a sample count are the whole truth, and a run that was killed goes on to the same weights, bit for bit on
a CPU.
"""

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from align import checkpoint, ema, health
from align.experience import Experience
from align.held_out import HeldOut
from align.policy import Policy, Velocity, checkpoint_activations
from align.prompts import PromptSet
from align.protocol import Algorithm, option
from align.sharding import whole
from base_model import lora
from base_model.protocol import Generator
from base_model.starts import Starts
from core import video, videoset
from core.errors import UserError
from core.progress import track
from core.prompts import Prompt
from core.randomness import seed_for
from core.run import Run

if TYPE_CHECKING:
    from reward.protocol import Reward


@dataclass(frozen=True)
class TrainConfig:
    """What the loop needs to know; what an algorithm needs is in the algorithm."""

    steps: int = option(30, "training steps: rounds of sampling, judging and updating")
    prompts_per_step: int = option(8, "different prompts per training step, over all processes")
    curriculum: float = option(
        0.0, "share of a step's prompts drawn by how far apart the rewards of their groups were; the rest in turn"
    )
    batch: int = option(16, "clips per forward, the same in sampling and training")
    denoising_steps: int = option(10, "denoising steps of a training clip")
    guidance: float = option(1.0, "guidance scale, the same in sampling and training; 1 = none, half the cost")
    updates: int = option(1, "optimizer steps per pass over the samples, each on its own share of them")
    passes: int = option(1, "passes over the samples of a training step")
    learning_rate: float = option(3e-4, "of AdamW, constant after the warm-up")
    warmup: int = option(5, "training steps over which the learning rate rises to its value")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm")
    mix: Literal["group", "sum"] = option(
        "group", "several rewards: each one's place in its group, weighted (GDPO), or the weighted sum of their values"
    )
    adapter: Literal["lora", "dora", "full"] = option(
        "lora", "what is trained: low-rank updates, the same with lengths of their own, or all weights"
    )
    rslora: bool = option(False, "scale LoRA updates by lora_alpha / sqrt(lora_rank)")
    lora_rank: int = option(16, "width of the LoRA updates")
    lora_alpha: int = option(32, "LoRA updates are scaled by lora_alpha / lora_rank")
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={"help": "endings of layer names to adapt; empty = every linear layer in the blocks"},
    )
    ema_decay: float = option(0.0, "per training step, of the averaged weights that are judged and saved; 0 = none")
    gradient_checkpointing: bool = option(False, "compute the blocks again in the backward pass to save memory")
    precision: Literal["no", "bf16"] = option(
        "no", "bf16 = autocast; adapters, latents and log-probabilities stay fp32"
    )
    overlap: Literal["auto", "on", "off"] = option(
        "auto", "judge a batch while the next is sampled; auto = on a GPU and for rewards behind HTTP"
    )
    save_every: int = option(5, "training steps between checkpoints")
    keep_checkpoints: int = option(3, "the newest ones that are kept")
    judge_every: int = option(5, "training steps between looks of the held-out judges")
    judge_clips: int = option(32, "clips that the held-out judges see, always from the same noise")
    sample_every: int = option(5, "training steps between sample clips; 0 = none")
    num_samples: int = option(4, "sample clips, of the first prompts, always from the same noise")
    seed: int = option(0, "everything random derives from it")

    def check(self) -> None:
        """Raises: UserError for a number that makes no sense."""
        counts = (
            "steps",
            "prompts_per_step",
            "batch",
            "denoising_steps",
            "updates",
            "passes",
            "lora_rank",
            "save_every",
            "keep_checkpoints",
            "judge_every",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if self.warmup < 0:
            raise UserError(f"warmup is {self.warmup}, it must be 0 or more")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay is {self.ema_decay}, it must be 0 (none) or more and below 1; .9 is usual")
        if not 0 <= self.curriculum <= 1:
            raise UserError(f"curriculum is {self.curriculum}, it must be a share from 0 to 1")
        for name in ("learning_rate", "max_grad_norm", "lora_alpha"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}, it must be above 0")


def train(
    generator: Generator,
    reward: "Reward",
    algorithm: Algorithm,
    prompts: Sequence[str | Prompt],
    config: TrainConfig,
    out: Path | str,
    *,
    judges: Sequence["Reward"] = (),
    judge_prompts: Sequence[str | Prompt] = (),
) -> Run:
    """Train `generator` (in place) and leave a run folder at `out`; continues a run that is there.

    Afterwards `generator` is the aligned model; `lora.reference(generator.policy_module())` gives the original.

    Args:
        judges: rewards that are watched and not trained on. judge_prompts: what they see; without any, the last fifth
            of `prompts` (at most `judge_clips` of them) is kept from training for it.
    Raises: UserError for settings that do not fit together, a run folder of another configuration, or rewards that
        are all broken.
    """
    config.check()
    listed, kept = (
        [one if isinstance(one, Prompt) else Prompt(one) for one in some] for some in (prompts, judge_prompts)
    )
    if judges and not kept:
        count = min(config.judge_clips, len(listed) // 5)
        listed, kept = listed[: len(listed) - count], listed[len(listed) - count :]
    if not listed:
        raise UserError("there are no prompts to train on; give at least one")
    held_out = HeldOut(judges, reward, [one.text for one in kept], config.judge_clips)
    held_out.check()
    accelerator = launch(config.precision)
    policy = policy_for(generator, reward, config, accelerator, {one.text: one.tag for one in listed if one.tag})
    policy.starts = Starts.of(generator, [*listed, *kept])
    algorithm.check(policy, reward)
    optimizer = prepare(policy, algorithm, config)
    prompt_set = PromptSet.of(listed, config.seed, config.curriculum)

    run = _open(out, _description(generator, reward, algorithm, listed, config, held_out), accelerator)
    done, samples = checkpoint.restore(run, policy, optimizer)
    texts = [one.text for one in listed]
    if done == 0:
        _show(run, policy, texts, config, step=0)
    first = held_out.judge(policy, config.seed, 0) if done == 0 else {}
    if first and accelerator.is_main_process:
        run.log(0, {**first}, 0)
    name = type(algorithm).__name__
    for step in track(range(done, config.steps), f"align {name}", total=config.steps - done):
        chosen = prompt_set.at(step, config.prompts_per_step, policy.memory.get("prompt_spread", {}))
        experience = algorithm.collect(policy, reward, chosen, config.seed, step)
        samples += experience.num_sampled * accelerator.num_processes
        for group in optimizer.param_groups:  # AdamW's first steps have full size however noisy the gradient is:
            # without warm-up they moved the sandbox policy ten times as far as later ones, in no direction.
            group["lr"] = group["initial_lr"] * min(1.0, (step + 1) / (config.warmup + 1))
        metrics = experience.metrics | learn(policy, algorithm, experience, optimizer, config, step + 1)
        ema.update(policy, config.ema_decay, step)
        if (step + 1) % config.judge_every == 0 or step + 1 == config.steps:
            metrics |= held_out.judge(policy, config.seed, step + 1)
        if accelerator.is_main_process:
            run.log(step + 1, {**metrics}, samples)
        if config.sample_every and (step + 1) % config.sample_every == 0:
            _show(run, policy, texts, config, step + 1)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            checkpoint.save(run, policy, optimizer, step + 1, samples, config.keep_checkpoints)
    if ema.KEY in policy.memory:
        policy.set_weights(policy.memory[ema.KEY])
    return run


def launch(precision: str = "no") -> Accelerator:
    """The accelerator, checked against what the launcher promised.

    `cpu=True` matters: without it torchrun on a machine without GPU starts processes that all believe to be alone.

    Raises: UserError if the launcher started more processes than accelerate sees.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision)
    promised = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != promised:
        raise UserError(
            f"the launcher started {promised} processes but accelerate sees {accelerator.num_processes}; on CPUs "
            "start with `torchrun --nproc-per-node N -m align ...`"
        )
    return accelerator


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
    network.eval()  # for good: dropout would make replay differ from sampling
    if config.gradient_checkpointing:
        checkpoint_activations(network)
    return Policy(
        generator,
        Velocity(generator),
        parameters,
        accelerator,
        num_steps=config.denoising_steps,
        guidance=config.guidance,
        batch=config.batch,
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
    if accelerator.state.deepspeed_plugin is not None:  # it wants to know, and there is no data loader to ask
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.batch
    policy.model, optimizer = accelerator.prepare(policy.model, torch.optim.AdamW(groups, weight_decay=0.0))
    if accelerator.is_fsdp2:  # it has replaced every weight by its own view
        policy.parameters = list(optimizer.param_groups[0]["params"])
    return optimizer


def learn(
    policy: Policy,
    algorithm: Algorithm,
    experience: Experience,
    optimizer: Any,
    config: TrainConfig,
    step: int,
) -> dict[str, float]:
    """The optimizer steps of one training step; returns what to log."""
    accelerator = policy.accelerator
    begin = time.perf_counter()
    tally = health.Tally()
    logged: dict[str, float] = {}
    norms: dict[str, list[float]] = {}
    rounds = config.passes * config.updates
    for update in range(rounds):
        parts = list(experience.parts(config.batch, update % config.updates, config.updates))
        half: list[Tensor] | None = None
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            if update == 0 and index == len(parts) // 2 > 0 and accelerator.num_processes == 1:
                half = _gradient(policy)
            accelerator.gradient_state._set_sync_gradients(last)  # DeepSpeed steps at every backward that syncs
            with nullcontext() if last else accelerator.no_sync(policy.model):  # average over processes once
                loss, metrics = algorithm.loss(policy, part)
                accelerator.backward(loss * part.share)
            tally.add({name: value.detach() for name, value in metrics.items()} | {"loss": loss.detach()}, part.share)
        error = tally.read("ratio_error")
        if update == 0 and error is not None:
            logged["align/first_pass_ratio_error"] = float(accelerator.gather(error.reshape(1)).max())
            health.check_first_pass(logged["align/first_pass_ratio_error"], step)
        if half is not None:
            cosine = health.agreement(half, [value.grad for value in policy.parameters])
            logged |= {} if cosine is None else {"align/gradient_agreement": cosine}
        for group in optimizer.param_groups:  # each by itself: a critic's error must not shrink the policy's step
            norm = float(whole(accelerator.clip_grad_norm_(group["params"], config.max_grad_norm)))
            health.check_gradient(norm, step)
            norms.setdefault(group["name"], []).append(norm)
            if norm == 0:  # with nothing to learn, AdamW would still drift on its momentum
                for value in group["params"]:
                    value.grad = None
        optimizer.step()
        optimizer.zero_grad()
    for name, value in tally.means(rounds).items():
        logged[f"align/{name}"] = float(accelerator.reduce(value, "mean"))
    logged["align/grad_norm"] = sum(norms["policy"]) / rounds
    if "own" in norms:
        logged["align/critic_grad_norm"] = sum(norms["own"]) / rounds
    logged["align/lora_norm"] = health.norm(policy.parameters)
    logged["time/train_seconds"] = time.perf_counter() - begin
    return logged


def _gradient(policy: Policy) -> list[Tensor] | None:
    """A copy of the gradient so far; None where some weight has none yet."""
    found = [value.grad.clone() for value in policy.parameters if value.grad is not None]
    return found if len(found) == len(policy.parameters) else None


def _description(
    generator: Generator,
    reward: "Reward",
    algorithm: Algorithm,
    prompts: Sequence[Prompt],
    config: TrainConfig,
    held_out: HeldOut,
) -> dict[str, Any]:
    """What makes a run this run: a folder is continued only if all of it is equal."""
    size = generator.size
    return {
        "model": generator.name,
        "clip": f"{size.num_frames}x{size.height}x{size.width}",
        "reward": f"{reward.name} {reward.version}",
        "judges": [f"{judge.name} {judge.version}" for judge in held_out.judges],
        "algorithm": type(algorithm).__name__,
        **asdict(algorithm),  # type: ignore[call-overload]
        **asdict(config),
        "num_prompts": len(prompts),
        "prompts_sha256": sha256("\n".join(map(_line, prompts)).encode()).hexdigest(),
        "judge_prompts_sha256": sha256("\n".join(held_out.prompts).encode()).hexdigest(),
    }


def _line(prompt: Prompt) -> str:
    """All that makes a prompt this prompt."""
    begun = f"\t{video.sha256(prompt.start)}" if prompt.start else ""
    return f"{prompt.text}\t{prompt.weight}\t{prompt.tag}{begun}"


def _open(out: Path | str, description: dict[str, Any], accelerator: Accelerator) -> Run:
    """The run folder; the first process makes it, the others find it."""
    with accelerator.main_process_first():
        return Run.open(Path(out), description)


def _show(run: Run, policy: Policy, prompts: Sequence[str], config: TrainConfig, step: int) -> None:
    """Write sample clips as a video set: always the same prompts and noise, so that steps compare.

    Every process must call it; the first one writes.
    """
    if not config.sample_every or config.num_samples < 1:
        return
    shown = list(dict.fromkeys(prompts))[: config.num_samples]
    seeds = [seed_for(config.seed, "sample clip", index) for index in range(len(shown))]
    with ema.averaging(policy):
        frames = torch.cat(list(policy.generate(shown, seeds)))
    if not policy.accelerator.is_main_process:
        return
    writer = videoset.Writer(run.samples / f"step-{step:06d}")
    for index, (clip, prompt, seed) in enumerate(zip(frames, shown, seeds, strict=True)):
        if index >= len(writer.items):  # a killed run may have written some already
            writer.append(
                clip.numpy(),
                prompt,
                id=f"{index:04d}",
                seed=seed,
                model=policy.generator.name,
                fps=policy.generator.fps,
            )
