"""The generator as something to train: one velocity, used alike for sampling and for learning.

A clipped-ratio method compares what the network said while sampling with what it says now. Anything that differs
between the two for another reason (guidance, batch shape, precision, train mode) reads as a policy change, so all of
it is fixed here, once, and both sides go through the same function.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from base_model import flow, lora, sampler, solvers
from base_model.large import gather_anew, place, repeated_blocks
from base_model.protocol import Condition, Generator, cat, take
from base_model.starts import Starts
from core.errors import UserError

if TYPE_CHECKING:
    from reward.protocol import Reward


class Velocity(nn.Module):
    """`generator.predict` as a module, so that accelerate can wrap it (gradient averaging, autocast).

    own: the algorithm's networks. They live in the same module because FSDP and DeepSpeed wrap one module per run.
    one_graph: sample with the graph of training. A compiler makes another one for a forward without gradients, which
        rounds differently: in bf16 by so much that the ratio would not be 1.
    """

    def __init__(self, generator: Generator, one_graph: bool = False) -> None:
        super().__init__()
        self.one_graph = one_graph
        self.network = generator.policy_module()
        self.predict = generator.predict
        self.own = nn.ModuleDict()
        # What FSDP cuts one by one, by class; accelerate looks here for the names.
        self._no_split_modules = sorted({type(block).__name__ for block in repeated_blocks(self.network)})

    def forward(self, *inputs: Any, name: str | None = None) -> Tensor:
        """Velocity, or what the algorithm's network `name` answers."""
        if name is not None:
            return self.own[name](*inputs)
        with torch.enable_grad() if self.one_graph else nullcontext():
            velocity = self.predict(*inputs)
        return velocity if torch.is_grad_enabled() else velocity.detach()


class _Through:
    """The generator, predicting through the wrapped model: FSDP must see every forward."""

    def __init__(self, generator: Generator, model: nn.Module) -> None:
        self._generator, self._model = generator, model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def predict(self, *inputs: Any) -> Tensor:
        return self._model(*inputs)


@dataclass
class Policy:
    """A generator with trainable weights, under accelerate.

    parameters: the trained weights in a fixed order: adapters, or all weights of the network (`start` given).
    denoising_steps (from pure noise), guidance, batch (clips per forward) are the same in sampling and training.
    prompts_per_step (over all processes), rounds (optimizer steps): of a training step.
    solver: takes the steps of clips that are not asked for noisy steps.
    mix: several rewards as the sum of each one's place in its group ("group"), or as the weighted sum of their values.
    overlap: judge a batch while the next one is sampled. tags: of prompts; every tag's reward is logged by itself.
    starts: what the clips of every prompt are made from, where they are made from something.
    start: copies of all weights before training, where there are no adapters to switch off for the reference.
    memory: what an algorithm must remember between steps (plain containers and tensors); saved in every checkpoint.
    """

    generator: Generator
    model: nn.Module
    parameters: list[nn.Parameter]
    accelerator: Accelerator
    denoising_steps: int
    guidance: float
    batch: int
    prompts_per_step: int
    solver: solvers.Name = "euler"
    rounds: int = 1
    mix: Literal["group", "sum"] = "group"
    overlap: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    starts: Starts | None = None
    start: list[Tensor] | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    _rows: dict[str, Condition] = field(default_factory=dict, repr=False)
    _empty: dict[int, Condition] = field(default_factory=dict, repr=False)

    @property
    def own(self) -> nn.ModuleDict:
        """The algorithm's networks, unwrapped."""
        return self.accelerator.unwrap_model(self.model).own

    @property
    def rank(self) -> int:
        """Of this process among `world` that draw clips of their own; a team that shares its tokens counts as one."""
        return self.accelerator.process_index // self.generator.team

    @property
    def world(self) -> int:
        return self.accelerator.num_processes // self.generator.team

    def gather(self, rows: Tensor) -> Tensor:
        """Everybody's `rows`, in the order of `rank`."""
        everyone = self.accelerator.gather(rows)
        return everyone.unflatten(0, (self.world, self.generator.team, -1))[:, 0].flatten(0, 1)

    @property
    def strength(self) -> float:
        """Noise level at which clips begin: 1, or lower where they are edited."""
        return 1.0 if self.starts is None else self.starts.strength

    @property
    def schedule(self) -> flow.Schedule:
        """Of the denoising steps that are taken: where clips are edited, of those below `strength`."""
        return flow.from_level(self.generator.schedule(self.denoising_steps), self.strength)

    @property
    def num_steps(self) -> int:
        return self.schedule.num_steps

    def velocity(self, latents: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """Velocity with gradients, fp32; `step` long [batch]."""
        return self.model(latents, step, self.schedule, condition, self._unconditional(len(latents)), self.guidance)

    def call(self, name: str, *inputs: Any) -> Tensor:
        """What the algorithm's own network `name` (of `Algorithm.modules`) says, with gradients."""
        return self.model(*inputs, name=name)

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the policy is the model it started as."""
        if self.start is not None:
            return self.with_weights(self.start)
        return lora.reference(self.generator.policy_module())

    @torch.no_grad()
    def reference_velocity(self, latents: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """What the model it started as says, without gradients."""
        with self.reference():
            return self.velocity(latents, step, condition)

    def weights(self) -> list[Tensor]:
        """A copy of the trained weights."""
        return [value.detach().clone() for value in self.parameters]

    @contextmanager
    def with_weights(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the policy has these weights; the present ones are put back even after an exception."""
        present = self.weights()
        self.set_weights(weights)
        try:
            yield
        finally:
            self.set_weights(present)

    def set_weights(self, weights: Sequence[Tensor]) -> None:
        """Give the trained weights these values, in place: FSDP holds on to its own view of every shard."""
        for value, other in zip(self.parameters, weights, strict=True):
            value.data.copy_(place(other, value.data))
        gather_anew(self.model)

    def condition(self, prompts: Sequence[str]) -> Condition:
        """One row per prompt; every distinct prompt is encoded once for the whole run, and kept off the GPU.

        By itself: a resumed run meets its prompts in other company, and the size of a batch can decide a last bit.
        """
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._rows:
                with torch.no_grad():
                    encoded = {name: value.cpu() for name, value in self.generator.encode_prompts([prompt]).items()}
                begun = self.starts.row(prompt) if self.starts is not None else {}
                self._rows[prompt] = encoded | begun
        return self._here(cat([self._rows[prompt] for prompt in prompts]))

    def sample_batches(
        self,
        condition: Condition,
        noise: Tensor,
        *,
        kind: flow.Kind = "ode",
        eta: float = 0.0,
        window: range | None = None,
        rng: Sequence[torch.Generator] = (),
    ) -> Iterator[sampler.Trajectory]:
        """`sampler.sample` with this policy's steps, guidance and precision, `batch` clips at a time."""
        for start in range(0, len(noise), self.batch):
            rows = slice(start, start + self.batch)
            given = take(condition, rows)
            part = self.begun(given, noise[rows])
            empty = self._unconditional(len(part))
            with self.accelerator.autocast():  # not around the yield: what the caller does in between is its own
                if self.solver != "euler":
                    trajectory = sampler.without_path(self._solved(given, part, empty))
                else:
                    trajectory = sampler.sample(
                        sampler.denoise(
                            self._through,
                            given,
                            noise=part,
                            num_steps=self.denoising_steps,
                            strength=self.strength,
                            guidance=self.guidance,
                            unconditional=empty,
                            kind=kind,
                            eta=eta,
                            window=window,
                            rng=rng[rows],
                        )
                    )
            yield trajectory

    @torch.no_grad()
    def _solved(self, condition: Condition, noise: Tensor, unconditional: Condition | None) -> Tensor:
        """Clean latents by `solver`."""
        sampling = sampler.Sampling(self.denoising_steps, self.guidance, solver=self.solver)
        return sampler.draw(
            sampler.solve(
                self._through,
                condition,
                noise=noise,
                sampling=sampling,
                unconditional=unconditional,
                schedule=self.schedule,
            )
        )

    def check_single_steps(self) -> None:
        """Raises: UserError where denoising steps are judged one by one, which only Euler's can be."""
        if self.solver != "euler":
            raise UserError(
                f"solver '{self.solver}' takes steps that cannot be judged one by one; use euler, or an algorithm that "
                "learns from whole clips: nft, awm, dpo, weighted_regression"
            )

    def begun(self, condition: Condition, noise: Tensor) -> Tensor:
        """Latents at the first level of `schedule`, on the policy's device."""
        return sampler.begun(self.generator, condition, noise.to(self.accelerator.device), self.strength)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Tensor]:
        """Frames [batch, time, 3, height, width] of the deterministic sampler, on the CPU, `batch` clips at a time.

        Every process must ask for the same clips: a sharded model needs all of them in every forward.
        """
        noise = sampler.initial_noise(self.generator, seeds)
        for part in self.sample_batches(self.condition(prompts), noise):
            with torch.no_grad():
                yield self.generator.decode(part.latents).float().cpu()

    def mix_weights(self, reward: "Reward") -> dict[str, float]:
        """Component -> weight (negative where lower is better) of a mixture of several; empty: the total decides."""
        from reward.mixture import Mixture

        several = self.mix == "group" and isinstance(reward, Mixture) and len(reward.weights) > 1
        return dict(cast(Mixture, reward).weights) if several else {}

    def by_tag(self, prompts: Sequence[str], total: Tensor, valid: Tensor) -> dict[str, float]:
        """`reward/tag_<tag>`: mean of `total` over the valid clips of every tag among `prompts`."""
        found: dict[str, list[int]] = {}
        for index, prompt in enumerate(prompts):
            if valid[index] and prompt in self.tags:
                found.setdefault(self.tags[prompt], []).append(index)
        return {f"reward/tag_{tag}": float(total[rows].mean()) for tag, rows in found.items()}

    @property
    def _through(self) -> Generator:
        return cast(Generator, _Through(self.generator, self.model))

    def _here(self, condition: Condition) -> Condition:
        return {name: value.to(self.accelerator.device) for name, value in condition.items()}

    def _unconditional(self, batch: int) -> Condition | None:
        if self.guidance == 1.0:
            return None
        if batch not in self._empty:
            self._empty[batch] = self._here(self.generator.unconditional(batch))
        return self._empty[batch]


def join(parts: Sequence[sampler.Trajectory]) -> sampler.Trajectory:
    """The clips of all `parts`, which were sampled with the same steps, in order."""
    return sampler.Trajectory(
        latents=torch.cat([part.latents for part in parts]),
        steps=parts[0].steps,
        before=torch.cat([part.before for part in parts]),
        after=torch.cat([part.after for part in parts]),
        mean=torch.cat([part.mean for part in parts]),
        log_prob=torch.cat([part.log_prob for part in parts]),
    )
