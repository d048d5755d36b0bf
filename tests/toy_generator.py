"""A generator of a few hundred numbers with a known answer: without adapters it samples N(0, 1) latents exactly (up
to the step size), and its frames get brighter with the latents. `Brightness` is best at 1."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor, nn

from align.policy import Policy, Velocity
from base_model import lora
from base_model.flow import Schedule, linear_schedule
from base_model.large import launch
from base_model.protocol import Condition, VideoSize


class Network(nn.Module):
    """What the policy adds to the exact velocity: zero before training."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8 + 1 + 4, 16), nn.SiLU(), nn.Linear(16, 8))])
        nn.init.zeros_(self.blocks[0][2].weight)
        nn.init.zeros_(self.blocks[0][2].bias)

    def forward(self, latents: Tensor, sigma: Tensor, prompt: Tensor) -> Tensor:
        return self.blocks[0](torch.cat([latents.flatten(1), sigma, prompt], 1)).reshape(latents.shape)


@dataclass
class ToyGenerator:
    name: str = "toy"
    fps: float = 8.0
    family: str = "flow"
    size: VideoSize = VideoSize(1, 2, 2)
    team: int = 1
    encoded: list[str] = field(default_factory=list)
    """Every prompt that was encoded, in order, so that a test can count."""

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = Network()

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        self.encoded.extend(prompts)
        rows = [list(sha256(prompt.encode()).digest()[:4]) for prompt in prompts]
        return {"prompt": torch.tensor(rows).float() / 255 - 0.5}

    def unconditional(self, batch: int) -> Condition:
        return {"prompt": torch.zeros(batch, 4)}

    def latent_shape(self, size: VideoSize) -> tuple[int, ...]:
        return (2, size.num_frames, size.height, size.width)

    def schedule(self, num_steps: int) -> Schedule:
        return linear_schedule(num_steps)

    def predict(
        self,
        latents: Tensor,
        step: Tensor,
        schedule: Schedule,
        condition: Condition,
        unconditional: Condition | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        sigma = schedule.at(step)[0].float().reshape(-1, 1)
        wide = sigma.reshape(-1, 1, 1, 1, 1)
        exact = (2 * wide - 1) * latents / ((1 - wide) ** 2 + wide**2)
        velocity = self.network(latents, sigma, condition["prompt"])
        if unconditional is not None and guidance != 1.0:
            empty = self.network(latents, sigma, unconditional["prompt"])
            velocity = empty + guidance * (velocity - empty)
        return exact + velocity

    def decode(self, latents: Tensor) -> Tensor:
        frames = latents.transpose(1, 2).sigmoid()
        return torch.cat([frames, frames.mean(2, keepdim=True)], 2)

    def encode(self, frames: Tensor) -> Tensor:
        return frames[:, :, :2].logit().transpose(1, 2)

    def policy_module(self) -> nn.Module:
        return self.network


def toy_policy(batch: int = 16) -> Policy:
    """The toy under accelerate with adapters, as the loop would make it: 6 denoising steps, 1 prompt."""
    generator = ToyGenerator()
    parameters = lora.attach(generator.network, rank=4, alpha=8)
    accelerator = launch()
    model = accelerator.prepare(Velocity(generator))
    return Policy(
        generator, model, parameters, accelerator, denoising_steps=6, guidance=1.0, batch=batch, prompts_per_step=1
    )


@dataclass(frozen=True)
class Scores:
    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class Brightness:
    """Mean of all pixels; the optimum is 1. `broken` rows (by call order inside a batch) come back as NaN."""

    name: str = "brightness"
    version: str = "1"
    unit: str = "share"
    range: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True
    differentiable: bool = True
    aspects: tuple[str, ...] = ()
    broken: tuple[int, ...] = ()
    constant: bool = False

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        total = frames.flatten(1).mean(1)
        if self.constant:
            total = torch.full_like(total, 0.5)
        total[list(self.broken)] = float("nan")
        return Scores(total, {"mean": total.clone(), "red": frames[:, :, 0].flatten(1).mean(1)})
