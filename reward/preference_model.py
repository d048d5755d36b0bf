"""What people prefer, learned from their votes: frozen features, small heads, one utility per aspect.

The features (`backbone.py`) see what is shown, whether it is what the prompt asked for, and how it moves. Several
heads, each trained on its own bootstrap of prompts, are averaged; where they disagree, they do not know. Normalisation
and calibration live in the checkpoint. The backbone does not: the checkpoint names it by its hash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from base_model.text import SandboxClip
from core.errors import UserError, first_line
from core.files import atomic_write, replacing
from reward import backbone as backbones
from reward.backbone import Backbone
from reward.bradley_terry import vote_chances
from reward.ensemble import AGGREGATIONS
from reward.protocol import Scores, check, only_finite, weights_sha256

KIND = "soralign preference model"
VERSION = "2"
STATISTICS = ("mean", "deviation", "temperature", "log_theta", "lapse", "blend")
WIDTH = 32  # of a head's hidden layer
LIMIT = 4.0  # standard deviations at which a feature saturates: far from the votes nothing is known


class Head(nn.Module):
    """From frozen features to one utility per aspect, in logits of a vote.

    Args: mean, deviation [feature]: of the training videos; they are kept in the head's state.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor, num_aspects: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("deviation", deviation.clone())
        self.layers = nn.Sequential(
            nn.Linear(len(mean), WIDTH), nn.GELU(), nn.Dropout(0.3), nn.Linear(WIDTH, num_aspects)
        )

    def forward(self, features: Tensor) -> Tensor:
        """[batch, feature] to [batch, aspect]"""
        scaled = (features - self.mean) / self.deviation
        return self.layers(LIMIT * torch.tanh(scaled / LIMIT))


class PreferenceModel:
    """A trained judge of videos; a Reward.

    Args:
        backbone: frozen.
        heads: their mean is an aspect's utility; `total` follows `aggregation` (`ensemble.py`).
        aspects: what each utility is about. `total` is "overall" where there is one, else the mean of all.
        mean, deviation: of each aspect's utility over the training videos [aspect]; scores are normalised with them.
        temperature, log_theta, lapse: turn differences of utilities into calibrated chances [aspect]; without lapses
            unless given.
        blend: how much of every other aspect's utility is added to that of "overall". Votes on the aspects are further
            looks at the same video: on 2,000 pairs with 15 % wrong votes they raise the order of "overall" by .02.
    """

    name = "preference"
    unit = "standard deviations over the training videos"
    range = (-math.inf, math.inf)
    higher_is_better = True

    def __init__(
        self,
        backbone: Backbone,
        heads: Sequence[Head],
        aspects: Sequence[str],
        *,
        mean: Tensor,
        deviation: Tensor,
        temperature: Tensor,
        log_theta: Tensor,
        lapse: Tensor | None = None,
        blend: Tensor | None = None,
        aggregation: str = "mean",
    ) -> None:
        self.backbone, self.differentiable, self.aggregation = backbone, backbone.differentiable, aggregation
        self.heads, self.aspects = nn.ModuleList(heads).eval().requires_grad_(False), tuple(aspects)
        self.mean, self.deviation, self.temperature, self.log_theta = mean, deviation, temperature, log_theta
        self.lapse = torch.zeros_like(temperature) if lapse is None else lapse
        self.blend = torch.zeros(()) if blend is None else blend
        self.version = f"{VERSION} {weights_sha256(self.heads)[:12]} {aggregation}"

    def __call__(self, frames: Tensor, prompts: Sequence[str]) -> Scores:
        """`total` and one part per aspect; "disagreement" is the standard deviation of `total` over the heads."""
        return self.judged(frames, prompts)[0]

    def judged(self, frames: Tensor, prompts: Sequence[str]) -> tuple[Scores, Tensor]:
        """The scores, and what each head would have for `total` by itself, [head, batch]."""
        check(frames, prompts)
        if next(self.heads.parameters()).device != frames.device:
            self.to(frames.device)
        scores = self.normalised(self.features(frames, prompts))  # [head, batch, aspect]
        each = scores[..., self.aspects.index("overall")] if "overall" in self.aspects else scores.mean(-1)
        parts = {aspect: scores[..., column].mean(0) for column, aspect in enumerate(self.aspects)}
        parts["disagreement"] = each.std(0, correction=0)
        total = AGGREGATIONS[self.aggregation](each)
        scored = Scores(only_finite(total, frames), {key: only_finite(part, frames) for key, part in parts.items()})
        return scored, each

    def features(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        """Frozen features [batch, feature]; carries gradients to `frames`."""
        return self.backbone.features(frames, prompts)

    def utilities(self, features: Tensor) -> Tensor:
        """Utility of every head, in logits of a vote, [head, batch, aspect]."""
        each = torch.stack([head(features) for head in self.heads])
        return blended(each, self.aspects, self.blend)

    def normalised(self, features: Tensor) -> Tensor:
        """Utilities less their mean over the training videos, in its standard deviations, [head, batch, aspect]."""
        return (self.utilities(features) - self.mean) / self.deviation

    def probabilities(self, a: Tensor, b: Tensor) -> Tensor:
        """Calibrated chances that an annotator votes (a, tie, b), [batch, aspect, 3]; they sum to one."""
        difference = (self.utilities(a) - self.utilities(b)).mean(0)
        return vote_chances(difference / self.temperature, self.log_theta, self.lapse)

    def save(self, folder: str | Path) -> None:
        """Write model.safetensors, then config.json: a folder with a config is whole."""
        folder = Path(folder)
        statistics = {name: getattr(self, name) for name in STATISTICS}
        state = {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()} | statistics
        with replacing(folder / "model.safetensors") as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)
        config = {"kind": KIND, "version": VERSION, "aspects": self.aspects, "num_heads": len(self.heads)}
        seen = {"kind": self.backbone.kind, "weights": self.backbone.weights, "sha256": self.backbone.sha256}
        config |= {"aggregation": self.aggregation, "backbone": seen}
        atomic_write(folder / "config.json", json.dumps(config, indent=2) + "\n")

    def to(self, device: torch.device) -> None:
        """Move heads, statistics and backbone, in place."""
        self.backbone.to(device)
        self.heads.to(device)
        for name in STATISTICS:
            setattr(self, name, getattr(self, name).to(device))


def kind(folder: str | Path) -> str | None:
    """What a reward's folder says it holds; None where it says nothing."""
    try:
        told = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told.get("kind") if isinstance(told, dict) else None


def blended(utility: Tensor, aspects: Sequence[str], blend: Tensor | float) -> Tensor:
    """Utilities [..., aspect] in which "overall" has gained `blend` of each other aspect's; the same without it."""
    if "overall" not in aspects or len(aspects) == 1:
        return utility
    column = list(aspects).index("overall")
    others = utility.sum(-1, keepdim=True) - utility[..., [column]]
    here = torch.arange(len(aspects), device=utility.device) == column
    return torch.where(here, utility + blend * others, utility)


def load(folder: str | Path, clip: SandboxClip | None = None) -> PreferenceModel:
    """A saved model, on the CPU.

    Args: clip: the towers that a model of the sandbox's features was trained on; None for the shipped ones.
    Raises: UserError when the folder holds no such model, a newer one, a damaged one, or one of another backbone.
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
    backbone = backbones.load(config["backbone"]["kind"], config["backbone"]["weights"], clip)
    if backbone.sha256 != config["backbone"]["sha256"]:
        raise UserError(
            f"{folder}: trained on {backbone.kind} {config['backbone']['sha256'][:12]}, the one found is "
            f"{backbone.sha256[:12]}; train it again"
        )
    try:
        state = load_file(folder / "model.safetensors")
        statistics = {name: state.pop(name) for name in STATISTICS}
        blank = torch.zeros_like(state["heads.0.mean"])
        heads = [Head(blank, blank, len(config["aspects"])) for _ in range(config["num_heads"])]
        whole = {name.removeprefix("heads."): tensor for name, tensor in state.items()}
        nn.ModuleList(heads).load_state_dict(whole)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{folder / 'model.safetensors'} is missing or damaged ({first_line(error)}); train it again"
        ) from None
    return PreferenceModel(backbone, heads, config["aspects"], **statistics, aggregation=config["aggregation"])
