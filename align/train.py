"""THE loop: collect experience, take optimizer steps, log, save. Nothing subclasses it and no algorithm copies it.

Everything runs through accelerate, so the same code serves one CPU, `torchrun` and `accelerate launch`. All randomness
derives from (seed, purpose, step), so a checkpoint needs no random state: weights, optimizer, the algorithm's networks
and memory and a sample count are the whole truth, and a run that was killed goes on to the same weights, bit for bit on
a CPU.
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from align import checkpoint, ema, health, identity
from align.config import TrainConfig
from align.experience import Experience
from align.held_out import HeldOut
from align.policy import Policy
from align.prompts import PromptSet
from align.protocol import Algorithm
from align.setup import check_updates, policy_for, prepare
from base_model.large import launch, rate_share, whole
from base_model.options import ModelOptions
from base_model.protocol import Generator
from base_model.starts import Starts
from core import videoset
from core.errors import UserError
from core.progress import track
from core.prompts import Prompt
from core.randomness import seed_for
from core.run import Run

if TYPE_CHECKING:
    from reward.protocol import Reward


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
    loaded: ModelOptions | None = None,
) -> Run:
    """Train `generator` (in place) and leave a run folder at `out`; continues a run that is there.

    Afterwards `generator` is the aligned model; `lora.reference(generator.policy_module())` gives the original.

    Args:
        judges: rewards that are watched and not trained on. judge_prompts: what they see; without any, the last fifth
            of `prompts` (at most `judge_clips` of them) is kept from training for it.
        loaded: how `generator` was; None = with nothing chosen. A run goes on only with the same of what changes it.
    Raises: UserError for settings that do not fit together, a run folder of another configuration, or rewards that
        are all broken.
    """
    config.check()
    listed, kept = _parted(prompts, judge_prompts, config.judge_clips if judges else 0)
    held_out = HeldOut(judges, reward, [one.text for one in kept], config.judge_clips)
    held_out.check()
    accelerator = launch(config.precision)
    description = identity.describe(generator, loaded or ModelOptions(), reward, algorithm, listed, config, held_out)
    policy = policy_for(generator, reward, config, accelerator, {one.text: one.tag for one in listed if one.tag})
    policy.starts = Starts.of(generator, [*listed, *kept])
    algorithm.check(policy, reward)
    check_updates(algorithm, config, policy.world)
    optimizer = prepare(policy, algorithm, config)
    prompt_set = PromptSet.of(listed, config.seed, config.curriculum)

    with accelerator.main_process_first():
        run = identity.open_run(out, description, accelerator.is_main_process)
    done, samples = checkpoint.restore(run, policy, optimizer)
    texts = [one.text for one in listed]
    if done == 0:
        _show(run, policy, texts, config, step=0)
    first = held_out.judge(policy, config.seed, 0) if done == 0 else {}
    if first and accelerator.is_main_process:
        run.log(0, first, 0)
    name = type(algorithm).__name__
    left = range(done, config.steps)
    for step in track(left, f"align {name}", total=len(left)):
        chosen = prompt_set.at(step, config.prompts_per_step, policy.memory.get("prompt_spread", {}))
        experience = algorithm.collect(policy, reward, chosen, config.seed, step)
        samples += experience.num_sampled * policy.world
        set_rates(optimizer, step, config)
        metrics = experience.metrics | learn(policy, algorithm, experience, optimizer, config, step + 1)
        ema.update(policy, config.ema_decay, step)
        if (step + 1) % config.judge_every == 0 or step + 1 == config.steps:
            metrics |= held_out.judge(policy, config.seed, step + 1)
        if accelerator.is_main_process:
            run.log(step + 1, metrics, samples)
        if config.sample_every and (step + 1) % config.sample_every == 0:
            _show(run, policy, texts, config, step + 1)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            checkpoint.save(run, policy, optimizer, step + 1, samples, config.keep_checkpoints)
    if ema.KEY in policy.memory:
        policy.set_weights(policy.memory[ema.KEY])
    return run


def _parted(
    prompts: Sequence[str | Prompt], judge_prompts: Sequence[str | Prompt], most: int
) -> tuple[list[Prompt], list[Prompt]]:
    """(prompts to train on, prompts for the judges); where these have none, the last fifth but at most `most`.

    Raises: UserError if nothing is left to train on.
    """
    listed, kept = (
        [one if isinstance(one, Prompt) else Prompt(one) for one in some] for some in (prompts, judge_prompts)
    )
    if not kept:
        first = len(listed) - min(most, len(listed) // 5)
        listed, kept = listed[:first], listed[first:]
    if not listed:
        raise UserError("there are no prompts to train on; give at least one")
    return listed, kept


def set_rates(optimizer: Any, step: int, config: TrainConfig) -> None:
    """Set the learning rates of training step `step` (0-based).

    AdamW's first steps have full size however noisy the gradient is: without warm-up they moved the sandbox policy ten
    times as far as later ones, in no direction.
    """
    share = rate_share(step, config.steps, config.warmup + 1, config.decay)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * share


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
    for update in range(config.rounds):
        parts = list(experience.parts(config.batch, update % config.updates, config.updates))
        steps = len(experience.trajectory.steps)
        middle = len(parts) // steps // 2 * steps  # between two batches: two steps of the same clips are no halves
        half: list[Tensor] | None = None
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            if update == 0 and index == middle > 0 and accelerator.num_processes == 1:
                half = _gradient(policy)
            accelerator.gradient_state._set_sync_gradients(last)  # DeepSpeed steps at every backward that syncs
            with nullcontext() if last else accelerator.no_sync(policy.model):  # average over processes once
                loss, metrics = algorithm.loss(policy, part)
                accelerator.backward(loss * part.share)
            tally.add({name: value.detach() for name, value in metrics.items()} | {"loss": loss.detach()}, part.share)
        for weight in policy.parameters if policy.generator.team > 1 else ():
            if weight.grad is not None:  # of its own tokens in every process, and averaged: a team's sum is wanted
                weight.grad *= policy.generator.team
        error = tally.read("ratio_error")
        if update == 0 and error is not None:
            logged["align/first_pass_ratio_error"] = float(accelerator.gather(error.reshape(1)).max())
            health.check_first_pass(logged["align/first_pass_ratio_error"], step)
        if half is not None:
            cosine = health.agreement(half, [value.grad for value in policy.parameters if value.grad is not None])
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
    for name, value in tally.means(config.rounds).items():
        logged[f"align/{name}"] = float(accelerator.reduce(value, "mean"))
    logged["align/grad_norm"] = sum(norms["policy"]) / config.rounds
    if "own" in norms:
        logged["align/critic_grad_norm"] = sum(norms["own"]) / config.rounds
    logged["align/lora_norm"] = health.norm(policy.parameters)
    logged["time/train_seconds"] = time.perf_counter() - begin
    return logged


def _gradient(policy: Policy) -> list[Tensor] | None:
    """A copy of the gradient so far; None where some weight has none yet."""
    found = [value.grad.clone() for value in policy.parameters if value.grad is not None]
    return found if len(found) == len(policy.parameters) else None


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
