"""The generator as something to train: one velocity, used alike for sampling and for learning.

A clipped-ratio method compares what the network said while sampling with what it says now. Anything that differs
between the two for another reason (guidance, batch shape, precision, train mode) reads as a policy change, so all of
it is fixed here, once, and both sides go through the same function.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from base_model import flow, lora, sampler
from base_model.protocol import Condition, Generator, cat


class Velocity(nn.Module):
    """`generator.predict` as a module, so that accelerate can wrap it (gradient averaging, autocast).

    own: the algorithm's networks. They live in the same module because FSDP and DeepSpeed wrap one module per run.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.network = generator.policy_module()
        self.predict = generator.predict
        self.own = nn.ModuleDict()

    def forward(self, *inputs: Any, name: str | None = None) -> Tensor:
        """Velocity, or what the algorithm's network `name` answers."""
        return self.predict(*inputs) if name is None else self.own[name](*inputs)


@dataclass
class Policy:
    """A generator with trainable adapters, under accelerate.

    num_steps, guidance, batch (clips per forward) are the same in sampling and training.
    memory: what an algorithm must remember between steps (plain containers and tensors); saved in every checkpoint.
    """

    generator: Generator
    model: nn.Module
    parameters: list[nn.Parameter]
    accelerator: Accelerator
    num_steps: int
    guidance: float
    batch: int
    memory: dict[str, Any] = field(default_factory=dict)
    _rows: dict[str, Condition] = field(default_factory=dict, repr=False)
    _empty: dict[int, Condition] = field(default_factory=dict, repr=False)

    @property
    def own(self) -> nn.ModuleDict:
        """The algorithm's networks, unwrapped."""
        return self.accelerator.unwrap_model(self.model).own

    @property
    def schedule(self) -> flow.Schedule:
        return self.generator.schedule(self.num_steps)

    def velocity(self, latents: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """Velocity with gradients, fp32; `step` long [batch]."""
        return self.model(latents, step, self.schedule, condition, self._unconditional(len(latents)), self.guidance)

    def call(self, name: str, *inputs: Any) -> Tensor:
        """What the algorithm's own network `name` (of `Algorithm.modules`) says, with gradients."""
        return self.model(*inputs, name=name)

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the policy is the model it started as."""
        return lora.reference(self.generator.policy_module())

    def weights(self) -> list[Tensor]:
        """A copy of the adapters' weights."""
        return [value.detach().clone() for value in self.parameters]

    @contextmanager
    def with_weights(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the adapters have these weights; the present ones are put back even after an exception."""
        present = [value.data for value in self.parameters]
        for value, other in zip(self.parameters, weights, strict=True):
            value.data = other.to(value.device)
        try:
            yield
        finally:
            for value, data in zip(self.parameters, present, strict=True):
                value.data = data

    def condition(self, prompts: Sequence[str]) -> Condition:
        """One row per prompt; every distinct prompt is encoded once for the whole run."""
        if fresh := [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._rows]:
            with torch.no_grad():
                encoded = self.generator.encode_prompts(fresh)
            for index, prompt in enumerate(fresh):
                self._rows[prompt] = {name: value[index : index + 1] for name, value in encoded.items()}
        return cat([self._rows[prompt] for prompt in prompts])

    def sample(
        self,
        condition: Condition,
        noise: Tensor,
        *,
        kind: flow.Kind = "ode",
        eta: float = 0.0,
        window: range | None = None,
        rng: Sequence[torch.Generator] = (),
    ) -> sampler.Trajectory:
        """`sampler.sample` with this policy's steps, guidance and precision, in forwards of `batch` clips."""
        parts = []
        with self.accelerator.autocast():
            for start in range(0, len(noise), self.batch):
                rows = slice(start, start + self.batch)
                part = noise[rows].to(self.accelerator.device)
                parts.append(
                    sampler.sample(
                        self.generator,
                        {name: value[rows] for name, value in condition.items()},
                        noise=part,
                        num_steps=self.num_steps,
                        guidance=self.guidance,
                        unconditional=self._unconditional(len(part)),
                        kind=kind,
                        eta=eta,
                        window=window,
                        rng=rng[rows],
                    )
                )
        return sampler.Trajectory(
            latents=torch.cat([part.latents for part in parts]),
            steps=parts[0].steps,
            before=torch.cat([part.before for part in parts]),
            after=torch.cat([part.after for part in parts]),
            mean=torch.cat([part.mean for part in parts]),
            log_prob=torch.cat([part.log_prob for part in parts]),
        )

    def _unconditional(self, batch: int) -> Condition | None:
        if self.guidance == 1.0:
            return None
        if batch not in self._empty:
            self._empty[batch] = self.generator.unconditional(batch)
        return self._empty[batch]
