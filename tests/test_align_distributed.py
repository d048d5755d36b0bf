"""Two processes on CPU (gloo) against one on the same global batch; of three groups of eight, one spans both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from toy_generator import Brightness, ToyGenerator
from toy_run import ALGORITHM, CONFIG

from align.train import launch, train
from core.errors import UserError
from core.run import read_metrics

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_two_processes_make_the_same_update_as_one(tmp_path: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, str(ROOT / "tests" / "toy_run.py"), str(tmp_path / "two")],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
        capture_output=True,
    )
    one = train(ToyGenerator(), Brightness(), ALGORITHM, ["a", "b", "c", "d"], CONFIG, tmp_path / "one")

    rows = [read_metrics(tmp_path / name) for name in ("one", "two")]
    assert [row["samples"] for row in rows[1]] == [24, 48, 72, 96] == [row["samples"] for row in rows[0]]
    for name in ("reward/total", "reward/std", "align/dead_groups", "align/grad_norm", "align/kl_reference"):
        assert [row[name] for row in rows[1]] == pytest.approx([row[name] for row in rows[0]], rel=1e-4, abs=1e-8), name
    latest = one.latest()
    assert latest is not None
    weights = [
        load_file(tmp_path / name / "checkpoints" / latest.name / "lora" / "pytorch_lora_weights.safetensors")
        for name in ("one", "two")
    ]
    for name, value in weights[0].items():
        assert float((value - weights[1][name]).abs().max()) < 1e-5, name


def test_a_launcher_whose_processes_do_not_meet_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    launch()  # the accelerator of this process exists and is alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="started 2 processes but accelerate sees 1"):
        launch()


def test_samples_that_do_not_divide_over_the_processes_are_refused() -> None:
    from align.experience import rows_of

    assert [rows_of(3, 8, rank, 2) for rank in (0, 1)] == [range(0, 12), range(12, 24)]
    with pytest.raises(UserError, match="3 prompts x group_size 9 = 27 samples do not divide over 2 processes"):
        rows_of(3, 9, 0, 2)
