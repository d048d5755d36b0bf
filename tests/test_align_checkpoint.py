"""What a checkpoint keeps, for every way to train: a resumed run is an unbroken one, and what is saved is the model."""

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_align_train import Killed
from toy_generator import Brightness, ToyGenerator

from align import ema
from align.ddpo import DDPO
from align.nft import NFT
from align.train import TrainConfig, train
from base_model import lora, native
from base_model.protocol import Condition
from core.errors import UserError
from core.run import Run, read_metrics

PROMPTS = ["a", "b", "c", "d", "e"]
CONFIG = TrainConfig(
    steps=5, prompts_per_step=2, batch=8, denoising_steps=6, learning_rate=1e-2, sample_every=0, save_every=2
)
TOY = DDPO(group_size=8, window=2, clip_range=1e-2)


def _toy() -> ToyGenerator:
    """The toy with an output layer that is not zero: DoRA divides by the length of its rows."""
    generator = ToyGenerator()
    generator.network.blocks[0][2].weight.data.fill_(0.01)
    return generator


def _weights(generator: ToyGenerator) -> list[torch.Tensor]:
    return [value.detach().clone() for value in generator.network.parameters()]


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        (TOY, {"ema_decay": 0.5}),
        (TOY, {"adapter": "dora"}),
        (TOY, {"adapter": "full", "ema_decay": 0.5}),
        (replace(TOY, kl_weight=0.1), {"adapter": "full"}),
        (TOY, {"rslora": True, "curriculum": 0.5}),
        (NFT(group_size=8, levels=2, old_decay=0.5), {"ema_decay": 0.9}),
        (TOY, {"overlap": "on", "gradient_checkpointing": True}),
    ],
    ids=["ema", "dora", "full-ema", "full-kl", "rslora-curriculum", "nft-old-policy", "overlap-recompute"],
)
def test_resumed_is_unbroken_bit_for_bit(tmp_path: Path, algorithm: Any, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    whole, resumed = _toy(), _toy()
    train(whole, Brightness(), algorithm, PROMPTS, config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(_toy(), Killed(fatal=8), algorithm, PROMPTS, config, tmp_path / "broken")
    assert len(read_metrics(tmp_path / "broken")) == 3
    run = train(resumed, Brightness(), algorithm, PROMPTS, config, tmp_path / "broken")
    assert all(torch.equal(a, b) for a, b in zip(_weights(whole), _weights(resumed), strict=True))
    states = [torch.load(tmp_path / name / "checkpoints/step-000005/state.pt") for name in ("whole", "broken")]
    _require_equal(*states)
    moved = _toy()
    assert not all(torch.equal(a, b) for a, b in zip(_weights(moved), _weights(whole), strict=False))
    assert read_metrics(run.folder)[-1]["step"] == 5


class InCompany(ToyGenerator):
    """A text tower whose rows hang on how many it reads at once, as the last bits of real ones do."""

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        return {name: value + 0.1 * len(prompts) for name, value in super().encode_prompts(prompts).items()}


def test_a_resumed_run_meets_its_prompts_in_other_company_and_reads_them_alike(tmp_path: Path) -> None:
    whole, resumed = InCompany(), InCompany()
    train(whole, Brightness(), TOY, PROMPTS, CONFIG, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(InCompany(), Killed(fatal=8), TOY, PROMPTS, CONFIG, tmp_path / "broken")
    train(resumed, Brightness(), TOY, PROMPTS, CONFIG, tmp_path / "broken")
    assert all(torch.equal(a, b) for a, b in zip(_weights(whole), _weights(resumed), strict=True))


def _require_equal(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _require_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            _require_equal(one, other)
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_the_average_is_what_is_saved_and_left_behind(tmp_path: Path) -> None:
    generator, fresh = ToyGenerator(), ToyGenerator()
    run = train(generator, Brightness(), TOY, PROMPTS, replace(CONFIG, ema_decay=0.5), tmp_path / "run")
    folder = run.latest()
    assert folder is not None
    state = torch.load(folder / "state.pt")
    lora.load(fresh.network, folder / "lora")
    for kept, live, left, loaded in zip(
        state["memory"][ema.KEY],
        state["weights"],
        lora.parameters(generator.network),
        lora.parameters(fresh.network),
        strict=True,
    ):
        assert torch.equal(kept, left) and torch.equal(kept, loaded) and not torch.equal(kept, live)


def test_the_average_starts_quickly_and_settles_at_its_decay() -> None:
    kept, new = [torch.zeros(1)], [torch.ones(1)]
    assert ema.average(kept, new, 0.99, updates=0)[0].item() == pytest.approx(0.9)
    assert ema.average(kept, new, 0.99, updates=10_000)[0].item() == pytest.approx(0.01)


def test_a_wholly_trained_network_is_saved_whole_and_keeps_its_start_for_reference(tmp_path: Path) -> None:
    generator = native.nano()
    config = TrainConfig(
        steps=1,
        prompts_per_step=2,
        batch=4,
        denoising_steps=4,
        learning_rate=1e-3,
        warmup=0,
        adapter="full",
        num_samples=0,
    )
    start = {name: value.clone() for name, value in generator.transformer.state_dict().items()}
    prompts = ["a red ball moves right", "a blue square falls"]
    run = train(generator, Brightness(), DDPO(group_size=2, window=1), prompts, config, tmp_path / "run")
    loaded = type(generator.transformer).from_pretrained(run.folder / "checkpoints/step-000001/model/transformer")
    state = generator.transformer.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert not all(torch.equal(value, start[name]) for name, value in state.items())


def test_computing_blocks_again_gives_the_same_gradient(tmp_path: Path) -> None:
    ends = []
    for again in (False, True):
        generator = ToyGenerator()
        train(
            generator, Brightness(), TOY, PROMPTS, replace(CONFIG, gradient_checkpointing=again), tmp_path / str(again)
        )
        ends.append(_weights(generator))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    config = replace(CONFIG, save_every=1, keep_checkpoints=2)
    run = train(ToyGenerator(), Brightness(), TOY, PROMPTS, config, tmp_path / "run")
    assert [folder.name for folder in run.checkpoints()] == ["step-000004", "step-000005"]


@pytest.mark.parametrize("where", ["state", "lora"])
def test_a_full_disk_leaves_the_old_checkpoint_and_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run = train(ToyGenerator(), Brightness(), TOY, PROMPTS, replace(CONFIG, steps=2), tmp_path / "run")
    before = run.latest()
    assert before is not None

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device") if where == "state" else ValueError("No space left")

    class Fuller(ToyGenerator):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full) if where == "state" else patch.setattr(lora, "save", full)
        (run.folder / "config.yaml").write_text(
            (run.folder / "config.yaml").read_text().replace("steps: 2", "steps: 4", 1)
        )
        with pytest.raises(OSError, match="No space left") as error:
            train(Fuller(), Brightness(), TOY, PROMPTS, replace(CONFIG, steps=4), run.folder)
    assert error.value.errno == errno.ENOSPC
    assert Run(run.folder).latest() == before and [path.name for path in before.parent.iterdir()] == [before.name]


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path: Path) -> None:
    run = train(ToyGenerator(), Brightness(), TOY, PROMPTS, replace(CONFIG, steps=2), tmp_path / "run")
    text = (run.folder / "config.yaml").read_text().replace("lora_rank: 16", "lora_rank: 8")
    (run.folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="is of another model or adapter"):
        train(ToyGenerator(), Brightness(), TOY, PROMPTS, replace(CONFIG, steps=2, lora_rank=8), run.folder)
