"""What people prefer, learned from their votes: frozen features, a small head that sees order and motion, one utility
per aspect.

Two frozen views of a video feed the head: the sandbox CLIP image tower on a few frames beside the prompt's embedding
(what is shown, and is it what was asked for), and hue moments of every frame (`moments.py`: where it is, and how that
changes). Several heads, each trained on its own bootstrap of prompts, are averaged; where they disagree, they do not
know. Normalisation and calibration live in the checkpoint. The tower does not: the checkpoint names it by its hash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from base_model.text import SandboxClip, load_clip
from core.errors import UserError
from core.files import atomic_write, replacing
from reward.bradley_terry import log_probabilities
from reward.moments import FEATURES, moments
from reward.protocol import Scores, check, evenly_spaced, only_finite, weights_sha256

KIND = "soralign preference model"
VERSION = "1"
NUM_FRAMES = 17  # a longer or shorter video is brought to as many, by taking or repeating frames
NUM_IMAGES = 5  # frames that the image tower sees: the tower is nine tenths of the cost
# Brings each moment to a size near one.
SCALE = {"radius": 8.0, "x": 2.0, "y": 2.0, "width": 8.0, "height": 8.0, "lightness": 2.0}


@dataclass(frozen=True)
class Features:
    """What the frozen parts see of a batch of videos.

    image [batch, image, dim] and text [batch, dim]: CLIP embeddings, each of length 1;
    moments [batch, time, hue, feature] and mass [batch, time, hue]: see `moments.py`.
    """

    image: Tensor
    text: Tensor
    moments: Tensor
    mass: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def rows(self, index: Tensor) -> Features:
        return Features(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        return Features(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Features)))


def extract(clip: SandboxClip, frames: Tensor, prompts: Sequence[str]) -> Features:
    """Frozen features of frames [batch, time, 3, height, width] in [0, 1]; carries gradients to `frames`."""
    frames = frames[:, evenly_spaced(frames.shape[1], NUM_FRAMES)]
    image = clip.encode_frames(frames[:, evenly_spaced(NUM_FRAMES, NUM_IMAGES)])
    return Features(image, clip.encode_text(prompts), *moments(frames))


class MotionPooling(nn.Module):
    """Follows each hue through time with convolutions over moments, their first and second differences, then pools over
    time (mean and largest) and hues (by mass, and largest). The prompt shifts and scales what counts: falling is right
    for a thrown ball and wrong for one that slides."""

    scale: Tensor

    def __init__(self, text_dim: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(3 * len(FEATURES) + 1, width, 3, padding=1)
        self.prompt = nn.Linear(text_dim, 2 * width)
        self.second = nn.Conv1d(width, width, 3, padding=2, dilation=2)
        self.out = nn.Linear(2 * width, width)
        nn.init.zeros_(self.prompt.weight)
        nn.init.zeros_(self.prompt.bias)
        self.register_buffer("scale", torch.tensor([SCALE[name] for name in FEATURES]), persistent=False)

    def forward(self, features: Features) -> Tensor:
        """[batch, 2 * width]"""
        batch, time, hues, _ = features.moments.shape
        now = features.moments * self.scale
        velocity = F.pad(now[:, 1:] - now[:, :-1], (0, 0, 0, 0, 1, 0))
        bend = F.pad(velocity[:, 2:] - velocity[:, 1:-1], (0, 0, 0, 0, 1, 1))
        x = torch.cat([now, 4 * velocity, 4 * bend, features.mass.unsqueeze(-1) / 5], -1)
        x = F.gelu(self.first(x.permute(0, 2, 3, 1).flatten(0, 1)))
        gain, shift = self.prompt(features.text).repeat_interleave(hues, 0).unsqueeze(-1).chunk(2, 1)
        x = F.gelu(self.second(x * (1 + gain) + shift))
        x = F.gelu(self.out(torch.cat([x.mean(-1), x.amax(-1)], 1))).unflatten(0, (batch, hues))
        most = features.mass.amax(1)
        share = (most / (most.sum(1, keepdim=True) + 0.25)).unsqueeze(-1)
        return torch.cat([(x * share).sum(1), (x * (share > 0.03)).amax(1)], 1)


class Head(nn.Module):
    """From frozen features to one utility per aspect, in logits of a vote."""

    def __init__(self, dim: int, num_aspects: int, width: int = 32, words: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        self.motion = MotionPooling(dim, width)
        self.agreement = nn.Linear(dim, words)  # of the products that sum to the cosine of image and prompt
        inputs = 2 * width + 2 * words + 6
        self.out = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(inputs, 64), nn.GELU(), nn.Dropout(dropout), nn.Linear(64, num_aspects)
        )

    def forward(self, features: Features) -> Tensor:
        """[batch, aspect]"""
        image = features.image
        product = image * features.text.unsqueeze(1)
        cosine = 4 * product.sum(-1)
        words = self.agreement(math.sqrt(product.shape[-1]) * product)
        change = 1 - (image[:, 1:] * image[:, :-1]).sum(-1)
        parts = [self.motion(features), words.mean(1), words.amin(1)]
        series = [cosine.mean(1), cosine.amin(1), cosine.amax(1), change.mean(1), change.amin(1), change.amax(1)]
        return self.out(torch.cat([*parts, torch.stack(series, 1)], 1))


class PreferenceModel:
    """A trained judge of videos; a Reward.

    Args:
        clip: the frozen towers.
        heads: averaged; each maps Features to [batch, aspect].
        aspects: what each utility is about. `total` is "overall" where there is one, else the mean of all.
        mean, deviation: of each aspect's utility over the training videos [aspect]; scores are normalised with them.
        temperature, log_theta: turn differences of utilities into calibrated chances [aspect]; see `probabilities`.
    """

    name = "preference"
    unit = "standard deviations over the training videos"
    range = (-math.inf, math.inf)
    higher_is_better = True
    differentiable = True

    def __init__(
        self,
        clip: SandboxClip,
        heads: Sequence[Head],
        aspects: Sequence[str],
        *,
        mean: Tensor,
        deviation: Tensor,
        temperature: Tensor,
        log_theta: Tensor,
    ) -> None:
        self.clip, self.heads, self.aspects = clip, nn.ModuleList(heads).eval().requires_grad_(False), tuple(aspects)
        self.mean, self.deviation, self.temperature, self.log_theta = mean, deviation, temperature, log_theta
        self.clip_sha256 = weights_sha256(clip)
        self.version = f"{VERSION} {weights_sha256(self.heads)[:12]}"

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        """`total` and one part per aspect; "disagreement" is the standard deviation of `total` over the heads."""
        check(frames, prompts)
        if next(self.heads.parameters()).device != frames.device:
            self._to(frames.device)
        scores = self.normalised(extract(self.clip, frames, prompts))  # [head, batch, aspect]
        each = scores[..., self.aspects.index("overall")] if "overall" in self.aspects else scores.mean(-1)
        parts = {aspect: scores[..., column].mean(0) for column, aspect in enumerate(self.aspects)}
        parts["disagreement"] = each.std(0, correction=0)
        return Scores(
            only_finite(each.mean(0), frames), {key: only_finite(part, frames) for key, part in parts.items()}
        )

    def utilities(self, features: Features) -> Tensor:
        """Utility of every head, in logits of a vote, [head, batch, aspect]."""
        return torch.stack([head(features) for head in self.heads])

    def normalised(self, features: Features) -> Tensor:
        """Utilities less their mean over the training videos, in its standard deviations, [head, batch, aspect]."""
        return (self.utilities(features) - self.mean) / self.deviation

    def probabilities(self, a: Features, b: Features) -> Tensor:
        """Calibrated chances that an annotator votes (a, tie, b), [batch, aspect, 3]; they sum to one."""
        difference = (self.utilities(a) - self.utilities(b)).mean(0)
        return log_probabilities(difference / self.temperature, self.log_theta).exp()

    def save(self, folder: str | Path) -> None:
        """Write model.safetensors, then config.json: a folder with a config is whole."""
        folder = Path(folder)
        statistics = {"mean": self.mean, "deviation": self.deviation}
        statistics |= {"temperature": self.temperature, "log_theta": self.log_theta}
        state = {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()} | statistics
        with replacing(folder / "model.safetensors") as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)
        config = {"kind": KIND, "version": VERSION, "aspects": self.aspects, "num_heads": len(self.heads)}
        atomic_write(folder / "config.json", json.dumps(config | {"clip_sha256": self.clip_sha256}, indent=2) + "\n")

    def _to(self, device: torch.device) -> None:
        self.clip.to(device)
        self.heads.to(device)
        for name in ("mean", "deviation", "temperature", "log_theta"):
            setattr(self, name, getattr(self, name).to(device))


def load(folder: str | Path, clip: SandboxClip | None = None) -> PreferenceModel:
    """A saved model, on the CPU.

    Args: clip: the towers it was trained on; None for the shipped ones.
    Raises: UserError when the folder holds no such model, a newer one, a damaged one, or one of another CLIP.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no reward (no config.json); `soralign reward train --out` writes one"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / 'config.json'}: not JSON ({error}); train the reward again") from None
    if not isinstance(config, dict) or config.get("kind") != KIND:
        raise UserError(f"{folder} is not a preference model; `soralign reward train --out` writes one")
    if config["version"] != VERSION:
        raise UserError(f"{folder}: model of version {config['version']}, this code reads {VERSION}; train it again")
    clip = clip or load_clip()
    if (seen := weights_sha256(clip)) != config["clip_sha256"]:
        raise UserError(
            f"{folder}: trained on CLIP {config['clip_sha256'][:12]}, the one given is {seen[:12]}; train it again"
        )
    try:
        state = load_file(folder / "model.safetensors")
        heads = nn.ModuleList([Head(clip.dim, len(config["aspects"])) for _ in range(config["num_heads"])])
        statistics = {name: state.pop(name) for name in ("mean", "deviation", "temperature", "log_theta")}
        heads.load_state_dict({name.removeprefix("heads."): tensor for name, tensor in state.items()})
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder / 'model.safetensors'} is missing or damaged ({line}); train it again") from None
    return PreferenceModel(clip, [h for h in heads if isinstance(h, Head)], config["aspects"], **statistics)
