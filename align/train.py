"""THE loop: collect experience, take optimizer steps, log, save. Nothing subclasses it and no algorithm copies it.

Everything runs through accelerate, so the same code serves one CPU, `torchrun` and `accelerate launch`. All randomness
derives from (seed, purpose, step), so a checkpoint needs no random state: adapters, optimizer, the algorithm's memory
and a sample count are the whole truth, and a run that was killed goes on to the same adapters, bit for bit on a CPU.
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
from torch import nn

from align import health
from align.experience import Experience
from align.policy import Policy, Velocity
from align.prompts import PromptSet
from align.protocol import Algorithm, option
from base_model import lora
from base_model.protocol import Generator
from base_model.sampler import generate_frames
from core import videoset
from core.errors import UserError
from core.progress import track
from core.randomness import seed_for
from core.run import Run, step_of

if TYPE_CHECKING:
    from reward.protocol import Reward


@dataclass(frozen=True)
class TrainConfig:
    """What the loop needs to know; what an algorithm needs is in the algorithm."""

    steps: int = option(30, "training steps: rounds of sampling, judging and updating")
    prompts_per_step: int = option(8, "different prompts per training step, over all processes")
    batch: int = option(16, "clips per forward, the same in sampling and training")
    denoising_steps: int = option(10, "denoising steps of a training clip")
    guidance: float = option(1.0, "guidance scale, the same in sampling and training; 1 = none, half the cost")
    updates: int = option(1, "optimizer steps per pass over the samples, each on its own share of them")
    passes: int = option(1, "passes over the samples of a training step")
    learning_rate: float = option(3e-4, "of AdamW, constant after the warm-up")
    warmup: int = option(5, "training steps over which the learning rate rises to its value")
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm")
    lora_rank: int = option(16, "width of the LoRA updates")
    lora_alpha: int = option(32, "LoRA updates are scaled by lora_alpha / lora_rank")
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={"help": "endings of layer names to adapt; empty = every linear layer in the blocks"},
    )
    precision: Literal["no", "bf16"] = option(
        "no", "bf16 = autocast; adapters, latents and log-probabilities stay fp32"
    )
    save_every: int = option(5, "training steps between checkpoints")
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
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, it must be 1 or more")
        if self.warmup < 0:
            raise UserError(f"warmup is {self.warmup}, it must be 0 or more")
        for name in ("learning_rate", "max_grad_norm", "lora_alpha"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}, it must be above 0")


def train(
    generator: Generator,
    reward: "Reward",
    algorithm: Algorithm,
    prompts: Sequence[str],
    config: TrainConfig,
    out: Path | str,
) -> Run:
    """Train LoRA adapters on `generator` (in place) and leave a run folder at `out`; continues a run that is there.

    Afterwards `generator` is the aligned model; `lora.reference(generator.policy_module())` gives the original.

    Raises: UserError for settings that do not fit together, a run folder of another configuration, or rewards that
        are all broken.
    """
    config.check()
    if not prompts:
        raise UserError("there are no prompts to train on; give at least one")
    accelerator = launch(config.precision)
    network = generator.policy_module()
    parameters = lora.attach(
        network, config.lora_rank, config.lora_alpha, config.lora_targets, seed_for(config.seed, "lora")
    )
    network.eval()  # for good: dropout would make replay differ from sampling
    velocity = Velocity(generator)
    policy = Policy(generator, velocity, parameters, accelerator, config.denoising_steps, config.guidance, config.batch)
    algorithm.check(policy, reward)
    velocity.own.update(algorithm.modules(policy))
    policy.model, prepared = accelerator.prepare(velocity, _optimizer(velocity, parameters, algorithm, config))
    prompt_set = PromptSet(tuple(prompts), config.seed)

    run = _open(out, _description(generator, reward, algorithm, prompts, config), accelerator)
    done, samples = _restore(run, policy, prepared)
    if done == 0:
        _show(run, policy, prompts, config, step=0)
    name = type(algorithm).__name__
    for step in track(range(done, config.steps), f"align {name}", total=config.steps - done):
        experience = algorithm.collect(policy, reward, prompt_set.at(step, config.prompts_per_step), config.seed, step)
        samples += experience.num_sampled * accelerator.num_processes
        for group in prepared.param_groups:  # AdamW's first steps have full size however noisy the gradient is:
            # without warm-up they moved the sandbox policy ten times as far as later ones, in no direction.
            group["lr"] = group["initial_lr"] * min(1.0, (step + 1) / (config.warmup + 1))
        metrics = experience.metrics | _learn(policy, algorithm, experience, prepared, config, step + 1)
        if accelerator.is_main_process:
            run.log(step + 1, {**metrics}, samples)
        if config.sample_every and (step + 1) % config.sample_every == 0:
            _show(run, policy, prompts, config, step + 1)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            _save(run, policy, prepared, step + 1, samples)
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


def _learn(
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
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            with nullcontext() if last else accelerator.no_sync(policy.model):  # average over processes once
                loss, metrics = algorithm.loss(policy, part)
                accelerator.backward(loss * part.share)
            tally.add({name: value.detach() for name, value in metrics.items()} | {"loss": loss.detach()}, part.share)
        error = tally.read("ratio_error")
        if update == 0 and error is not None:
            logged["align/first_pass_ratio_error"] = float(accelerator.gather(error.reshape(1)).max())
            health.check_first_pass(logged["align/first_pass_ratio_error"], step)
        for group in optimizer.param_groups:  # each by itself: a critic's error must not shrink the policy's step
            norm = float(accelerator.clip_grad_norm_(group["params"], config.max_grad_norm))
            health.check_gradient(norm, step)
            norms.setdefault(group["name"], []).append(norm)
            if norm == 0:  # with nothing to learn, AdamW would still drift on its momentum
                for value in group["params"]:
                    value.grad = None
        optimizer.step()
        optimizer.zero_grad()
    for name, value in tally.means(rounds).items():
        logged[f"align/{name}"] = float(accelerator.reduce(value, "mean"))
    logged["align/grad_norm"] = sum(norms["adapters"]) / rounds
    if "own" in norms:
        logged["align/critic_grad_norm"] = sum(norms["own"]) / rounds
    logged["align/lora_norm"] = health.norm(policy.parameters)
    logged["time/train_seconds"] = time.perf_counter() - begin
    return logged


def _optimizer(
    velocity: Velocity, parameters: list[nn.Parameter], algorithm: Algorithm, config: TrainConfig
) -> torch.optim.Optimizer:
    """AdamW over the adapters and, as a group with a learning rate of its own, the algorithm's networks."""
    groups: list[dict[str, Any]] = [
        {"name": "adapters", "params": parameters, "lr": config.learning_rate, "initial_lr": config.learning_rate}
    ]
    if own := list(velocity.own.parameters()):
        rate = algorithm.critic_learning_rate  # type: ignore[attr-defined]
        groups.append({"name": "own", "params": own, "lr": rate, "initial_lr": rate})
    return torch.optim.AdamW(groups, weight_decay=0.0)


def _description(
    generator: Generator, reward: "Reward", algorithm: Algorithm, prompts: Sequence[str], config: TrainConfig
) -> dict[str, Any]:
    """What makes a run this run: a folder is continued only if all of it is equal."""
    return {
        "model": generator.name,
        "reward": f"{reward.name} {reward.version}",
        "algorithm": type(algorithm).__name__,
        **asdict(algorithm),  # type: ignore[call-overload]
        **asdict(config),
        "num_prompts": len(prompts),
        "prompts_sha256": sha256("\n".join(prompts).encode()).hexdigest(),
    }


def _open(out: Path | str, description: dict[str, Any], accelerator: Accelerator) -> Run:
    """The run folder; the first process makes it, the others find it."""
    with accelerator.main_process_first():
        return Run.open(Path(out), description)


def _save(run: Run, policy: Policy, optimizer: Any, step: int, samples: int) -> None:
    """A checkpoint: adapters in diffusers' format and the rest of the training state."""

    def write(folder: Path) -> None:
        lora.save(policy.generator.policy_module(), folder / "lora")
        state = {"optimizer": optimizer.state_dict(), "memory": policy.memory, "samples": samples}
        torch.save(state | {"own": policy.own.state_dict()}, folder / "state.pt")

    if policy.accelerator.is_main_process:
        run.save(step, write)
    policy.accelerator.wait_for_everyone()


def _restore(run: Run, policy: Policy, optimizer: Any) -> tuple[int, int]:
    """(training steps done, samples drawn) of the newest whole checkpoint, loaded into policy and optimizer."""
    folder = run.latest()
    step = step_of(folder) if folder else 0
    if policy.accelerator.is_main_process:
        run.rewind(step)
    if folder is None:
        return 0, 0
    lora.load(policy.generator.policy_module(), folder / "lora")
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    policy.own.load_state_dict(state["own"])
    policy.memory.update(state["memory"])
    return step, state["samples"]


def _show(run: Run, policy: Policy, prompts: Sequence[str], config: TrainConfig, step: int) -> None:
    """Write sample clips as a video set: always the same prompts and noise, so that steps compare."""
    if not policy.accelerator.is_main_process or not config.sample_every or config.num_samples < 1:
        return
    shown = list(dict.fromkeys(prompts))[: config.num_samples]
    seeds = [seed_for(config.seed, "sample clip", index) for index in range(len(shown))]
    frames = generate_frames(
        policy.generator,
        shown,
        seeds=seeds,
        num_steps=config.denoising_steps,
        guidance=config.guidance,
        batch=config.batch,
    )
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
