"""ZeRO-2 from the shipped file, on two CPU processes: the weights of one process.

DeepSpeed offers itself to GPUs, so `tests/deepspeed_run.py` tells accelerate which backend to use, and leaves out the
kernel for shared memory, which it would compile for minutes first.
"""

from pathlib import Path

import processes
import pytest
import torch

from core.run import read_metrics

pytest.importorskip("deepspeed")


@pytest.mark.slow
def test_two_processes_of_zero_2_end_where_one_does_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    _launch(1, tmp_path / "one")
    _launch(2, tmp_path / "two")
    one, two = (torch.load(tmp_path / name / "checkpoints" / "step-000004" / "state.pt") for name in ("one", "two"))
    assert max(float((a - b).abs().max()) for a, b in zip(one["weights"], two["weights"], strict=True)) < 1e-6
    for a, b in zip(*(read_metrics(tmp_path / name)[1:] for name in ("one", "two")), strict=True):
        assert a["align/first_pass_ratio_error"] == b["align/first_pass_ratio_error"] == 0.0
        assert b["align/loss"] == pytest.approx(a["align/loss"], rel=1e-5)
    last = tmp_path / "two" / "checkpoints" / "step-000004" / "state.pt"
    last.write_bytes(b"cut")
    assert "averages" not in _launch(2, tmp_path / "two")
    again = torch.load(last)
    assert all(torch.equal(a, b) for a, b in zip(two["weights"], again["weights"], strict=True))
    assert all(torch.equal(two["own"][name], value) for name, value in again["own"].items())
    assert [row["step"] for row in read_metrics(tmp_path / "two")] == [0, 1, 2, 3, 4]
    last.write_bytes(b"cut")
    assert "averages were cut over processes in another way" in _launch(1, tmp_path / "two")
    moved = zip(two["weights"], torch.load(last)["weights"], strict=True)
    assert max(float((a - b).abs().max()) for a, b in moved) < 2e-3  # two steps of 1e-3: it goes on from its weights


def _launch(count: int, out: Path) -> str:
    launcher = ("accelerate.commands.launch", "--num_processes", str(count), "--main_process_port", "0")
    launcher += ("--config_file", str(processes.ROOT / "align" / "launch" / "deepspeed_zero2.yaml"))
    return processes.run(launcher, "deepspeed_run.py", out, DS_ACCELERATOR="cpu")
