"""What does a reward pay for that no person would? Each video against spoilt copies of itself.

An exploit is a change that makes a video worse or worthless and that a policy could learn to make. The reward pays for
it when it scores the spoilt copies higher on average, and is blind to it when it hardly tells them apart. Finding no
exploit here proves little; finding one saves a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.randomness import torch_generator
from core.stats import Interval, mean_interval
from reward.protocol import Reward

BLIND = 0.1  # a mean change within this share of the scores' spread is as good as none


def _frozen(frames: Tensor, rng: torch.Generator) -> Tensor:
    return frames[:, :1].expand_as(frames).clone()


def _half_frozen(frames: Tensor, rng: torch.Generator) -> Tensor:
    """Stops at the middle frame."""
    index = torch.arange(frames.shape[1]).clamp(max=frames.shape[1] // 2)
    return frames[:, index]


def _reversed(frames: Tensor, rng: torch.Generator) -> Tensor:
    return frames.flip(1)


def _shuffled(frames: Tensor, rng: torch.Generator) -> Tensor:
    return frames[:, torch.randperm(frames.shape[1], generator=rng)]


def _saturated(frames: Tensor, rng: torch.Generator) -> Tensor:
    grey = frames.mean(2, keepdim=True)
    return (grey + 2.5 * (frames - grey)).clamp(0, 1)


def _bright(frames: Tensor, rng: torch.Generator) -> Tensor:
    return (1.6 * frames).clamp(0, 1)


def _grainy(frames: Tensor, rng: torch.Generator) -> Tensor:
    return (frames + 0.1 * torch.randn(frames.shape, generator=rng)).clamp(0, 1)


def _noise(frames: Tensor, rng: torch.Generator) -> Tensor:
    return torch.rand(frames.shape, generator=rng)


def _blank(frames: Tensor, rng: torch.Generator) -> Tensor:
    """One colour: the median of the whole video."""
    return frames.permute(0, 2, 1, 3, 4).flatten(2).median(2).values[:, None, :, None, None].expand_as(frames).clone()


def _jumping(frames: Tensor, rng: torch.Generator) -> Tensor:
    """From the middle on everything stands a quarter of the picture to the side."""
    moved = frames.clone()
    middle = frames.shape[1] // 2
    moved[:, middle:] = torch.roll(frames[:, middle:], frames.shape[-1] // 4, dims=-1)
    return moved


def _vanishing(frames: Tensor, rng: torch.Generator) -> Tensor:
    """The second half shows nothing."""
    gone = frames.clone()
    middle = frames.shape[1] // 2
    gone[:, middle:] = _blank(frames, rng)[:, middle:]
    return gone


def _doubled(frames: Tensor, rng: torch.Generator) -> Tensor:
    """Two transparent copies, one mirrored: more of everything."""
    return torch.maximum(frames, frames.flip(-1))


EXPLOITS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "frozen": _frozen,
    "half frozen": _half_frozen,
    "reversed": _reversed,
    "shuffled": _shuffled,
    "jumping": _jumping,
    "vanishing": _vanishing,
    "saturated": _saturated,
    "bright": _bright,
    "grainy": _grainy,
    "noise": _noise,
    "blank": _blank,
    "doubled": _doubled,
}


@dataclass(frozen=True)
class Finding:
    """One exploit: mean change of the score in spreads of the unspoilt scores, with its interval over prompts, and how
    often the spoilt copy scored higher (a tie is a half)."""

    exploit: str
    change: Interval
    share_higher: float

    @property
    def verdict(self) -> str:
        """ "pays" when the whole interval is above 0, "blind" when the change is tiny, "resists", or "unclear"."""
        if self.change.low > 0 and self.change.value > BLIND:
            return "pays"
        if abs(self.change.value) <= BLIND:
            return "blind"
        return "resists" if self.change.high < 0 else "unclear"


def audit(
    reward: Reward, batches: Sequence[tuple[Tensor, Sequence[str]]], seed: int = 0
) -> tuple[list[Finding], float | None]:
    """Findings for every exploit, and the correlation of the score with how much moves (None for a constant score).

    Args: batches of (frames [batch, time, 3, height, width] in [0, 1], prompts). Videos with a NaN score are left out.
    """
    sign = 1.0 if reward.higher_is_better else -1.0
    plain: list[Tensor] = []
    spoilt: dict[str, list[Tensor]] = {name: [] for name in EXPLOITS}
    motion: list[Tensor] = []
    prompts: list[str] = []
    with torch.no_grad():
        for number, (frames, texts) in enumerate(batches):
            prompts += texts
            motion.append((frames[:, 1:] - frames[:, :-1]).abs().flatten(1).mean(1))
            plain.append(sign * reward(frames, texts).total)
            for name, spoil in EXPLOITS.items():
                rng = torch_generator(seed, f"audit {name}", number)
                spoilt[name].append(sign * reward(spoil(frames, rng), texts).total)
    base = torch.cat(plain).double().numpy()
    spread = float(np.nanstd(base)) or 1.0
    findings = []
    for name, scores in spoilt.items():
        change = (torch.cat(scores).double().numpy() - base) / spread
        measured = change[np.isfinite(change)]
        higher = float(np.mean((measured > 0) + 0.5 * (measured == 0))) if len(measured) else float("nan")
        findings.append(Finding(name, mean_interval(change, prompts, seed), higher))
    moved = torch.cat(motion).double().numpy()
    fine = np.isfinite(base) & np.isfinite(moved)
    if fine.sum() < 3 or base[fine].std() == 0 or moved[fine].std() == 0:
        return findings, None
    return findings, float(np.corrcoef(base[fine], moved[fine])[0, 1])
