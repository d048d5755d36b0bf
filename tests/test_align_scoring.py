"""From latents to rewards: mixing by group, judging beside sampling, and parts that fail."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, Scores, ToyGenerator

from align.advantages import group_advantages, mixed_by_group
from align.ddpo import DDPO
from align.train import TrainConfig, train
from base_model import lora
from core.prompts import Prompt
from core.run import read_metrics
from reward.mixture import Mixture

PROMPTS = ["a", "b", "c", "d"]
CONFIG = TrainConfig(
    steps=3, prompts_per_step=4, batch=8, denoising_steps=6, learning_rate=1e-2, sample_every=0, save_every=100
)
TOY = DDPO(group_size=8, window=3, clip_range=1e-2)


@dataclass(frozen=True)
class Loud(Brightness):
    """How blue a clip is not, in thousands: summed as it is, nothing else would count."""

    name: str = "loud"

    def __call__(self, frames: torch.Tensor, prompts: Sequence[str]) -> Scores:
        return Scores(1000 * (1 - frames[:, :, 0].flatten(1).mean(1)), {})


@dataclass(frozen=True)
class Listening(Brightness):
    threads: set[int] = field(default_factory=set)
    sizes: list[int] = field(default_factory=list)

    def __call__(self, frames: torch.Tensor, prompts: Sequence[str]) -> Scores:
        self.threads.add(threading.get_ident())
        self.sizes.append(len(frames))
        return super().__call__(frames, prompts)


def test_every_reward_counts_by_its_place_in_the_group() -> None:
    quality = torch.tensor([0.0, 1.0, 2.0, 3.0, 5.0, 5.0, 5.0, 5.0])
    loud = 1000 * torch.tensor([1.0, 0.0, 1.0, 0.0, 4.0, 4.0, 8.0, 8.0])
    mixed = mixed_by_group(
        torch.stack([quality, loud], 1), torch.tensor([1.0, -0.5]), torch.ones(8, dtype=torch.bool), 4
    )
    z = (quality[:4] - 1.5) / 1.25**0.5
    expected = [*(z - 0.5 * torch.tensor([1.0, -1.0, 1.0, -1.0])).tolist(), 0.5, 0.5, -0.5, -0.5]
    assert mixed.tolist() == pytest.approx(expected, abs=1e-3)  # a group without spread in quality still has the other
    broken = torch.tensor([True] * 7 + [False])
    assert mixed_by_group(torch.stack([quality, loud], 1), torch.tensor([1.0, 0.0]), broken, 4)[4:].tolist() == [0] * 4
    batchwise = group_advantages(mixed, torch.ones(8, dtype=torch.bool), 4, limit=5.0, spread="all")
    assert float(batchwise.value.square().mean()) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("mix", "rises"), [("group", True), ("sum", False)])
def test_a_loud_reward_does_not_drown_the_other_by_default(tmp_path: Path, mix: str, rises: bool) -> None:
    both = Mixture({"brightness": 1.0, "loud": 0.2}, {"brightness": Brightness(), "loud": Loud()})
    run = train(ToyGenerator(), both, TOY, PROMPTS, replace(CONFIG, steps=14, batch=32, mix=mix), tmp_path / "run")
    rows = read_metrics(run.folder)
    assert (rows[-1]["reward/brightness"] > rows[0]["reward/brightness"] + 0.1) == rises
    assert {"reward/loud", "reward/loud_std", "reward/brightness/red", "reward/brightness_p50"} <= set(rows[0])
    assert "reward/brightness/red_std" not in rows[0]


def test_judging_beside_sampling_changes_no_bit(tmp_path: Path) -> None:
    ends, heard = [], []
    for overlap in ("off", "on"):
        generator, reward = ToyGenerator(), Listening()
        train(generator, reward, TOY, PROMPTS, replace(CONFIG, overlap=overlap), tmp_path / overlap)
        ends.append([value.detach() for value in lora.parameters(generator.network)])
        heard.append((reward.sizes, threading.get_ident() in reward.threads))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert heard[0] == (heard[1][0], True) and heard[1][1] is False


def test_a_reward_that_fails_beside_sampling_still_stops_the_run_by_name(tmp_path: Path) -> None:
    from core.errors import UserError

    with pytest.raises(UserError, match="reward 'brightness' failed on 8 clips"):
        train(ToyGenerator(), Brightness(broken=(99,)), TOY, PROMPTS, replace(CONFIG, overlap="on"), tmp_path / "run")


def test_a_part_that_is_not_finite_masks_its_sample(tmp_path: Path) -> None:
    both = Mixture({"brightness": 1.0, "loud": 0.2}, {"brightness": Brightness(broken=(3,)), "loud": Loud()})
    run = train(ToyGenerator(), both, TOY, PROMPTS, replace(CONFIG, steps=1), tmp_path / "run")
    assert read_metrics(run.folder)[0]["reward/masked"] == 4.0


def test_rewards_are_logged_by_tag(tmp_path: Path) -> None:
    listed = [Prompt("a", tag="one"), Prompt("b", tag="two"), Prompt("c", tag="two"), Prompt("d")]
    run = train(ToyGenerator(), Brightness(), TOY, listed, replace(CONFIG, steps=1), tmp_path / "run")
    row = read_metrics(run.folder)[0]
    assert 0 < row["reward/tag_one"] < 1 and 0 < row["reward/tag_two"] < 1 and "reward/tag_" not in row
