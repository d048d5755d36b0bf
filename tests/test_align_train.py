"""The loop: a run that was killed ends where an unbroken one does, and a run folder belongs to one configuration."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy_generator import Brightness, Scores, ToyGenerator
from toy_run import WithCritic

from align import diagnose
from align.ddpo import DDPO
from align.prompts import PromptSet
from align.train import TrainConfig, set_rates, train
from base_model import lora
from core import videoset
from core.errors import UserError
from core.prompts import read
from core.run import read_metrics

PROMPTS = ["a", "b", "c", "d", "e"]
CONFIG = TrainConfig(
    steps=7,
    prompts_per_step=2,
    batch=8,
    denoising_steps=6,
    learning_rate=1e-2,
    decay=0.5,
    updates=2,
    sample_every=0,
    save_every=2,
)
TOY = DDPO(group_size=8, window=2, clip_range=1e-2, advantage="prompt", history_enough=4)


@dataclass(frozen=True)
class Killed(Brightness):
    """Stops the process (as Ctrl-C does) at its `fatal` call."""

    fatal: int = 11
    calls: tuple[int, ...] = ()

    def __call__(self, frames: torch.Tensor, prompts: list[str]) -> Scores:  # type: ignore[override]
        object.__setattr__(self, "calls", (*self.calls, len(frames)))
        if len(self.calls) == self.fatal:
            raise KeyboardInterrupt
        return super().__call__(frames, prompts)


def _adapters(generator: ToyGenerator) -> list[torch.Tensor]:
    return [value.detach() for value in lora.parameters(generator.network)]


@pytest.mark.parametrize("torn", [False, True], ids=["killed", "killed-and-newest-checkpoint-cut"])
def test_a_killed_run_ends_bit_equal_to_an_unbroken_one(tmp_path: Path, torn: bool) -> None:
    whole, first, second = ToyGenerator(), ToyGenerator(), ToyGenerator()
    unbroken = train(whole, Brightness(), TOY, PROMPTS, CONFIG, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(first, Killed(), TOY, PROMPTS, CONFIG, tmp_path / "broken")
    assert [path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()] != []
    assert len(read_metrics(tmp_path / "broken")) == 5
    if torn:
        state = tmp_path / "broken" / "checkpoints" / "step-000004" / "state.pt"
        state.write_bytes(state.read_bytes()[:-7])
    resumed = train(second, Brightness(), TOY, PROMPTS, CONFIG, tmp_path / "broken")

    assert all(torch.equal(a, b) for a, b in zip(_adapters(whole), _adapters(second), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(_adapters(whole), _adapters(first), strict=True))
    timeless = [
        [{name: row[name] for name in row if not name.startswith("time")} for row in read_metrics(run.folder)]
        for run in (unbroken, resumed)
    ]
    assert timeless[0] == timeless[1] and len(timeless[0]) == CONFIG.steps


def test_an_algorithms_own_networks_are_trained_saved_and_restored_beside_the_adapters(tmp_path: Path) -> None:
    algorithm = WithCritic(group_size=8, window=2, clip_range=1e-2)
    config = replace(CONFIG, warmup=0, decay=0.0, updates=1, steps=4)
    unbroken = train(ToyGenerator(), Brightness(), algorithm, PROMPTS, config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(ToyGenerator(), Killed(fatal=6), algorithm, PROMPTS, config, tmp_path / "broken")
    resumed = train(ToyGenerator(), Brightness(), algorithm, PROMPTS, config, tmp_path / "broken")
    ends = [torch.load(run.folder / "checkpoints" / "step-000004" / "state.pt") for run in (unbroken, resumed)]
    assert all(torch.equal(ends[0]["own"][name], ends[1]["own"][name]) for name in ("critic.weight", "critic.bias"))
    assert [group["lr"] for group in ends[0]["optimizer"]["param_groups"]] == [1e-2, 3e-2]
    start = algorithm.modules(None)["critic"].weight.detach()  # type: ignore[arg-type]
    moved = (ends[0]["own"]["critic.weight"] - start).abs().max()
    assert 3e-2 < float(moved) < 4.1 * 3e-2
    assert all(row["align/critic_grad_norm"] > 0 for row in read_metrics(unbroken.folder))


def test_a_finished_run_is_loaded_and_not_trained_further(tmp_path: Path) -> None:
    first, second = ToyGenerator(), ToyGenerator()
    train(first, Brightness(), TOY, PROMPTS, CONFIG, tmp_path / "run")
    train(second, Killed(fatal=1), TOY, PROMPTS, CONFIG, tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(_adapters(first), _adapters(second), strict=True))


def test_the_saved_adapters_are_the_aligned_model(tmp_path: Path) -> None:
    trained, fresh = ToyGenerator(), ToyGenerator()
    run = train(trained, Brightness(), TOY, PROMPTS, CONFIG, tmp_path / "run")
    folder = run.latest()
    assert folder is not None
    lora.load(fresh.network, folder / "lora")
    inputs = torch.randn(3, 2, 1, 2, 2), torch.ones(3, 1), torch.ones(3, 4)
    assert torch.equal(trained.network(*inputs), fresh.network(*inputs))


def test_a_run_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1)
    train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / "run")
    with pytest.raises(UserError, match="learning_rate"):
        train(ToyGenerator(), Brightness(), TOY, PROMPTS, replace(config, learning_rate=1.0), tmp_path / "run")
    with pytest.raises(UserError, match="eta"):
        train(ToyGenerator(), Brightness(), replace(TOY, eta=0.5), PROMPTS, config, tmp_path / "run")
    with pytest.raises(UserError, match="prompts_sha256"):
        train(ToyGenerator(), Brightness(), TOY, ["x", *PROMPTS[1:]], config, tmp_path / "run")


def test_a_run_from_before_a_setting_goes_on_as_it_was(tmp_path: Path) -> None:
    config = replace(CONFIG, decay=0.0, steps=1)
    path = train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / "run").folder / "config.yaml"
    written = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({key: written[key] for key in written if key not in ("decay", "lower_is_better")}))
    train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / "run")
    with pytest.raises(UserError, match=r"decay: 0\.0 there, 0\.5 now"):
        train(ToyGenerator(), Brightness(), TOY, PROMPTS, replace(config, decay=0.5), tmp_path / "run")


def test_a_run_knows_which_of_its_curves_should_fall(tmp_path: Path) -> None:
    reward, judge = Brightness(higher_is_better=False), Brightness("darkness", higher_is_better=False)
    config = replace(CONFIG, steps=1, judge_clips=2)
    run = train(ToyGenerator(), reward, TOY, PROMPTS, config, tmp_path / "run", judges=[judge])
    assert diagnose.read(run.folder).config["lower_is_better"] == [
        "reward/total",
        "judge/trained_reward",
        "judge/darkness",
    ]


def test_a_run_that_ended_goes_on_for_more_steps_as_if_they_had_been_planned(tmp_path: Path) -> None:
    whole, further = ToyGenerator(), ToyGenerator()
    config = replace(CONFIG, steps=3, decay=0.0)
    train(whole, Brightness(), TOY, PROMPTS, config, tmp_path / "whole")
    train(ToyGenerator(), Brightness(), TOY, PROMPTS, replace(config, steps=1), tmp_path / "run")
    run = train(further, Brightness(), TOY, PROMPTS, config, tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(_adapters(whole), _adapters(further), strict=True))
    assert [row["step"] for row in read_metrics(run.folder)] == [1, 2, 3]
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["steps"] == 3


def test_a_rate_that_falls_toward_the_last_step_holds_a_run_to_its_steps(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1, decay=0.5)
    train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / "run")
    with pytest.raises(UserError, match="steps: 1 there, 2 now"):
        train(ToyGenerator(), Brightness(), TOY, PROMPTS, replace(config, steps=2), tmp_path / "run")


def test_more_updates_than_batches_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 updates .* the 16 clips .* make 2 of 8"):
        train(ToyGenerator(), Killed(fatal=1), TOY, PROMPTS, replace(CONFIG, updates=3), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sample_clips_are_video_sets_of_the_same_prompts_and_seeds(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=2, sample_every=2, num_samples=2)
    run = train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / "run")
    assert sorted(path.name for path in run.samples.iterdir()) == ["step-000000", "step-000002"]
    before, after = (videoset.read(run.samples / name) for name in ("step-000000", "step-000002"))
    assert [(item.prompt, item.seed) for item in before] == [(item.prompt, item.seed) for item in after]
    assert [item.prompt for item in before] == PROMPTS[:2]


@pytest.mark.parametrize(("warmup", "expected"), [(0, 1e-2), (4, 2e-3)])
def test_the_first_step_has_the_size_that_the_warm_up_allows(tmp_path: Path, warmup: int, expected: float) -> None:
    generator = ToyGenerator()
    config = replace(CONFIG, steps=1, updates=1, warmup=warmup)
    train(generator, Brightness(), TOY, PROMPTS, config, tmp_path / "run")
    moved = max(
        float(value.detach().abs().max()) for name, value in generator.network.named_parameters() if "lora_B" in name
    )
    assert moved == pytest.approx(expected, rel=0.02)  # AdamW's first step is learning rate x sign


def test_learning_rates_rise_stay_and_fall_to_nothing_after_the_last_step() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)])
    for group in optimizer.param_groups:
        group["initial_lr"] = 1.0
    config = TrainConfig(steps=10, warmup=3, decay=0.4)
    seen = []
    for step in range(config.steps):
        set_rates(optimizer, step, config)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_two_seeds_differ_and_one_seed_repeats(tmp_path: Path) -> None:
    ends = []
    for index, seed in enumerate((0, 0, 1)):
        generator = ToyGenerator()
        train(generator, Brightness(), TOY, PROMPTS, replace(CONFIG, steps=2, seed=seed), tmp_path / str(index))
        ends.append(_adapters(generator)[-1])
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_every_prompt_comes_once_before_any_comes_again() -> None:
    prompts = PromptSet(tuple(PROMPTS), seed=3)
    drawn = [prompt for step in range(5) for prompt in prompts.at(step, 2)]
    assert sorted(drawn[:5]) == PROMPTS and sorted(drawn[5:]) == PROMPTS and drawn[:5] != drawn[5:]


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "is empty"), (b" \n\n", "is empty"), (b"caf\xe9\n", "not UTF-8"), (None, "cannot be read")],
)
def test_bad_prompt_files_are_one_clear_line(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        read(path)


@pytest.mark.parametrize(
    ("changes", "settings", "forwards"),
    [
        ({}, {}, 6 + 2),  # every batch: one per denoising step, one per trained step
        ({"guidance": 2.0}, {}, 2 * (6 + 2)),
        ({}, {"kl_weight": 0.1}, 6 + 2 * 2),
        ({"passes": 3}, {}, 6 + 3 * 2),
        ({}, {"window": 0}, 6 + 5),
    ],
    ids=["window", "guidance", "kl", "passes", "all-steps"],
)
def test_no_forward_is_spent_beyond_the_floor(
    tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any], forwards: int
) -> None:
    generator, calls = ToyGenerator(), []
    generator.network.register_forward_hook(lambda *_: calls.append(1))
    config = replace(CONFIG, steps=3, updates=1, **changes)
    train(generator, Brightness(), replace(TOY, **settings), PROMPTS, config, tmp_path / "run")
    assert len(calls) == 3 * 2 * forwards  # 3 steps of 2 batches


def test_runs_of_one_process_may_differ_in_precision(tmp_path: Path) -> None:
    """Accelerate holds a process to its first precision, which a notebook and these tests would trip over."""
    for precision in ("bf16", "no"):
        config = replace(CONFIG, steps=1, precision=precision)
        train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / precision)
    low, full = (load_file(next((tmp_path / name).rglob("*lora*.safetensors"))) for name in ("bf16", "no"))
    assert any(not torch.equal(value, full[name]) for name, value in low.items())
