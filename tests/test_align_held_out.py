"""The held-out judges: what they see, when they warn, and that they cannot be what is trained on."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from toy_generator import Brightness, Scores, ToyGenerator

from align.ddpo import DDPO
from align.held_out import change
from align.train import TrainConfig, train
from core.errors import UserError
from core.run import read_metrics

PROMPTS = list("abcdefghij")
CONFIG = TrainConfig(
    steps=12, prompts_per_step=4, batch=16, denoising_steps=6, learning_rate=1e-2, sample_every=0, judge_every=4
)
TOY = DDPO(group_size=8, window=3, clip_range=1e-2)


@dataclass(frozen=True)
class Darkness(Brightness):
    """The opposite of what the policy is trained for."""

    name: str = "darkness"

    def __call__(self, frames: torch.Tensor, prompts: list[str]) -> Scores:  # type: ignore[override]
        total = 1 - frames.flatten(1).mean(1)
        return Scores(total, {})


@dataclass(frozen=True)
class Redness(Brightness):
    name: str = "redness"


def test_a_judge_that_falls_while_the_reward_rises_is_called_over_optimisation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train(
        ToyGenerator(),
        Brightness(),
        TOY,
        PROMPTS,
        replace(CONFIG, batch=32),
        tmp_path / "run",
        judges=[Darkness(), Redness()],
    )
    rows = [row for row in read_metrics(run.folder) if "judge/darkness" in row]
    assert [row["step"] for row in rows] == [0, 4, 8, 12]
    assert rows[0]["align/over_optimised"] == 0.0 and rows[-1]["align/over_optimised"] == 1.0
    assert rows[-1]["judge/darkness"] < rows[0]["judge/darkness"] < 0.6
    assert rows[-1]["judge/trained_reward"] == pytest.approx(1 - rows[-1]["judge/darkness"])
    assert rows[-1]["judge/redness"] > rows[0]["judge/redness"]
    assert "the reward still rises while darkness, which" in caplog.text


def test_judged_prompts_are_kept_from_training(tmp_path: Path) -> None:
    generator = ToyGenerator()
    config = TrainConfig(steps=1, prompts_per_step=8, batch=16, denoising_steps=6, sample_every=0, judge_clips=4)
    run = train(generator, Brightness(), TOY, PROMPTS, config, tmp_path / "run", judges=[Darkness()])
    assert read_metrics(run.folder)[-1]["step"] == 1
    assert generator.encoded[:2] == ["i", "j"]  # judged before training; the eight others are trained on
    assert sorted(generator.encoded[2:]) == PROMPTS[:8]


def test_a_judge_must_be_held_out_and_have_something_to_judge(tmp_path: Path) -> None:
    def start(**options: object) -> None:
        train(ToyGenerator(), Brightness(), TOY, PROMPTS[:3], CONFIG, tmp_path / "run", **options)  # type: ignore[arg-type]

    with pytest.raises(UserError, match="judge 'brightness' is what the policy is trained on"):
        start(judges=[Brightness()], judge_prompts=["z"])
    with pytest.raises(UserError, match="two judges have one name"):
        start(judges=[Darkness(), Darkness()], judge_prompts=["z"])
    with pytest.raises(UserError, match="a prompt that is not trained on"):
        start(judges=[Darkness()])
    assert not (tmp_path / "run").exists()


def test_a_judge_that_fails_is_named(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Blind(Brightness):
        name: str = "blind"

        def __call__(self, frames: torch.Tensor, prompts: list[str]) -> Scores:  # type: ignore[override]
            raise ZeroDivisionError("no eyes")

    with pytest.raises(UserError, match="reward 'blind' failed on 16 clips.*ZeroDivisionError: no eyes"):
        train(ToyGenerator(), Brightness(), TOY, PROMPTS, CONFIG, tmp_path / "run", judges=[Blind()])


def test_a_paired_change_is_in_standard_errors() -> None:
    before = torch.tensor([0.0, 1.0, 2.0, float("nan")])
    assert change(before, before + torch.tensor([1.0, 2.0, 3.0, 0.0])) == pytest.approx(2 / (1 / 3**0.5))
    assert change(before, before) == 0.0 and change(before, before - 1) == -float("inf")


def test_a_resumed_run_judges_as_the_unbroken_one(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Leaving(Darkness):
        calls: list[int] = field(default_factory=list)

        def __call__(self, frames: torch.Tensor, prompts: list[str]) -> Scores:  # type: ignore[override]
            self.calls.append(len(frames))
            if len(self.calls) == 3:
                raise KeyboardInterrupt
            return super().__call__(frames, prompts)

    config = replace(CONFIG, steps=6, judge_every=2, save_every=2, judge_clips=8)
    unbroken = train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / "whole", judges=[Darkness()])
    with pytest.raises(KeyboardInterrupt):
        train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / "broken", judges=[Leaving()])
    resumed = train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / "broken", judges=[Darkness()])
    rows = [
        [
            {name: value for name, value in row.items() if not name.startswith("time")}
            for row in read_metrics(run.folder)
        ]
        for run in (unbroken, resumed)
    ]
    assert rows[0] == rows[1] and [row["step"] for row in rows[0]] == list(range(7))
