"""A critic for denoising: what reward is to be expected of half-denoised latents, for this prompt at this noise level?

It reads the frozen trunk: the tokens that enter the middle block of the denoiser with the adapters off, averaged over
the clip. A denoiser has to know there what the clip will be; three small layers on top are enough to say how good. The
trunk is the same for the whole run, so its features are computed once per visited state and kept; learning costs almost
nothing. Where votes have taught a latent reward to read half-denoised latents, its score is the critic's first guess.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from align.experience import Rollout
from align.policy import Policy
from base_model.protocol import Condition, take
from core.errors import UserError

if TYPE_CHECKING:
    from reward.preference_model import PreferenceModel

WIDTH = 64
TRUST = 0.5  # of a foretold value before the critic has seen any reward


class Critic(nn.Module):
    """Features [batch, feature] to expected reward [batch] in the units of `standardised`; 0 before training.

    Args: foretold: the last feature is a value that somebody foretells, in the same units; before training the critic
        says TRUST of it, and learns how far to go on trusting it.
    """

    def __init__(self, num_features: int, foretold: bool = False) -> None:
        super().__init__()
        self.trust = nn.Parameter(torch.tensor(TRUST)) if foretold else None
        last = nn.Linear(WIDTH, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.LayerNorm(num_features - foretold),
            nn.Linear(num_features - foretold, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
            last,
        )

    def forward(self, features: Tensor) -> Tensor:
        features = features.float()
        if self.trust is None:
            return self.layers(features).squeeze(-1)
        return self.layers(features[..., :-1]).squeeze(-1) + self.trust * features[..., -1]


def build(policy: Policy, foretold: bool = False) -> Critic:
    """An untrained critic that fits the policy's trunk; the same weights every time."""
    device = policy.accelerator.device
    latents = torch.zeros(1, 1, *policy.generator.latent_shape(policy.generator.size), device=device)
    empty = {name: value.to(device) for name, value in policy.generator.unconditional(1).items()}
    if policy.starts is not None:  # some networks do not run without
        empty = policy.condition([next(iter(policy.starts.prompts))]) | empty
    features = trunk_features(policy, latents, torch.zeros(1, dtype=torch.long), empty)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Critic(features.shape[-1] + foretold, foretold)


@torch.no_grad()
def trunk_features(policy: Policy, latents: Tensor, steps: Tensor, condition: Condition) -> Tensor:
    """Features fp32 [batch, S, feature] of `latents` [batch, S, ...] before denoising `steps` (long [S]).

    Mean and standard deviation over the clip of the tokens before the middle block, with the adapters off and without
    guidance, and the noise level.
    """
    middle = _middle_blocks(policy.generator.policy_module())
    found = []
    with policy.reference():
        for start in range(0, len(latents), policy.batch):
            rows = slice(start, start + policy.batch)
            given = take(condition, rows)
            columns = []
            for index, step in enumerate(steps.tolist()):
                part = latents[rows, index]
                at = torch.full((len(part),), step, device=part.device)
                with _input_of(middle) as seen:
                    policy.model(part, at, policy.schedule, given)
                tokens = seen[0].float().reshape(len(part), -1, seen[0].shape[-1])
                sigma = policy.schedule.at(at)[0].to(tokens)[:, None]
                columns.append(torch.cat([tokens.mean(1), tokens.std(1, correction=0), sigma], 1))
            found.append(torch.stack(columns, 1))
    return torch.cat(found)


@functools.cache
def latent_reward(folder: str) -> "PreferenceModel":
    """The reward in `folder`, loaded once."""
    from reward import preference_model

    return preference_model.load(folder)


def check_start(policy: Policy, folder: str) -> None:
    """Raises: UserError where the reward in `folder` cannot read the policy's latents."""
    from reward import latent

    theirs, ours = latent.eyes(latent_reward(folder)).generator, policy.generator
    shapes = [list(one.latent_shape(one.size)) for one in (theirs, ours)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"critic_start {folder!r} reads latents of {theirs.name}, {shapes[0]}, not of {ours.name}, {shapes[1]}"
        )


@torch.no_grad()
def foretold(policy: Policy, model: "PreferenceModel", rollout: Rollout) -> Tensor:
    """What a latent reward gives the states before the noisy steps of this process's clips, [batch, S]: each step's
    scores less their mean and over their deviation since the start of the run, as levels do not compare.
    """
    from reward import latent

    path, columns = rollout.trajectory, []
    for index, step in enumerate(path.steps.tolist()):
        parts = []
        for start in range(0, len(path.before), policy.batch):
            rows = slice(start, start + policy.batch)
            part = path.before[rows, index]
            sigma = policy.schedule.at(torch.full((len(part),), step, device=part.device))[0].to(part)
            parts.append(latent.score(model, part, sigma, take(rollout.condition, rows)))
        every = policy.gather(torch.cat(parts)).cpu()
        memory = policy.memory.setdefault("foretold", {}).setdefault(str(step), {})
        units = standardised(every, every.isfinite(), memory)
        columns.append(units[rollout.rows.start : rollout.rows.stop])
    return torch.stack(columns, 1).to(path.before.device)


def generalized_advantages(value: Tensor, reward: Tensor, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """(advantage, return) [batch, S] of S noisy steps, the last of which leads to `reward` [batch] without more choice.

    With one reward at the end and no discount, the one-step surprise is V(next) - V(now), and reward - V(now) at the
    last noisy step; an advantage is the sum of the surprises from its step on, each `gae_lambda` times fainter.

    Args: value: V of the states before the steps [batch, S].
    Source: Schulman et al. 2016 (GAE), eq. 16, with discount 1.
    """
    surprise = torch.cat([value[:, 1:], reward[:, None]], 1) - value
    advantage = torch.zeros_like(value)
    ahead = torch.zeros_like(reward)
    for index in reversed(range(value.shape[1])):
        ahead = surprise[:, index] + gae_lambda * ahead
        advantage[:, index] = ahead
    return advantage, advantage + value


def standardised(reward: Tensor, valid: Tensor, memory: dict[str, float]) -> Tensor:
    """`reward` [n] in running units: minus the mean, over the standard deviation, of all valid ones since the start.

    Updates `memory` (count, mean, squares) in place; what is not valid becomes 0.

    Source: Welford's running variance, joined over batches (Chan et al. 1983).
    """
    good = reward[valid].double()
    count, mean, squares = memory.get("count", 0.0), memory.get("mean", 0.0), memory.get("squares", 0.0)
    total = count + len(good)
    shift = float(good.mean()) - mean
    squares += float((good - good.mean()).square().sum()) + shift**2 * count * len(good) / total
    mean += shift * len(good) / total
    memory |= {"count": total, "mean": mean, "squares": squares}
    scale = max((squares / total) ** 0.5, 1e-6 * (1.0 + abs(mean)))
    return torch.where(valid, (reward.double() - mean) / scale, 0.0).float()


def _middle_blocks(network: nn.Module) -> list[nn.Module]:
    """The middle of the longest list of blocks; of every such list, where experts share the noise levels."""
    stacks = [module for module in network.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not stacks:
        raise UserError(f"{type(network).__name__} has no list of blocks for the critic of ppo to read; use grpo")
    longest = max(map(len, stacks))
    return [stack[longest // 2] for stack in stacks if len(stack) == longest]


@contextmanager
def _input_of(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Inside, a call of one of `blocks` leaves its first input (of the hidden states) in the list."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        seen.append((inputs[0] if inputs else options["hidden_states"]).detach())

    handles = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in blocks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
