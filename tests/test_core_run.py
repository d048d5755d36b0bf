import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from core import files
from core import run as core_run
from core.errors import UserError
from core.run import Run, read_metrics


def write(text: str):
    def fill(folder: Path) -> None:
        (folder / "lora").mkdir()
        (folder / "lora" / "weights.bin").write_text(text)
        (folder / "state.bin").write_text(text)

    return fill


def test_a_new_run_records_what_was_asked_and_what_ran_it(tmp_path):
    run = Run.open(tmp_path / "run", {"seed": 1, "out": tmp_path, "optimizer": {"betas": (0.9, 0.99)}})
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config == {"seed": 1, "out": str(tmp_path), "optimizer": {"betas": [0.9, 0.99]}}
    environment = json.loads((run.folder / "environment.json").read_text())
    assert environment["libraries"]["numpy"] and environment["created"].endswith("Z")
    assert run.samples.is_dir() and run.latest() is None and read_metrics(run.folder) == []


def test_the_same_config_reopens_and_another_is_refused_naming_the_keys(tmp_path):
    config = {"seed": 1, "optimizer": {"rate": 1e-4, "betas": (0.9, 0.99)}}
    Run.open(tmp_path, config)
    Run.open(tmp_path, config)
    with pytest.raises(
        UserError, match=r"optimizer\.rate: 0\.0001 there, 0\.0003 now; steps: '\(absent\)' there, 5 now"
    ):
        Run.open(tmp_path, {"seed": 1, "steps": 5, "optimizer": {"rate": 3e-4, "betas": (0.9, 0.99)}})


@pytest.mark.parametrize("text", ["steps: [", "a line of prose", "- 1"])
def test_a_config_that_is_none_any_more_is_told(tmp_path, text):
    Run.open(tmp_path / "run", {"steps": 3})
    (tmp_path / "run/config.yaml").write_text(text)
    with pytest.raises(UserError, match="config.yaml: not readable as YAML of a config"):
        Run.open(tmp_path / "run", {"steps": 3})


def test_a_key_that_came_after_a_run_began_counts_as_its_default(tmp_path):
    Run.open(tmp_path / "run", {"steps": 3})
    standard = {"steps": 1, "sizes": ["a"], "rate": 0.5}
    Run.open(tmp_path / "run", {"steps": 3, "sizes": ["a"], "rate": 0.5}, standard)
    with pytest.raises(UserError, match=r"rate: 0.5 there, 0.7 now"):
        Run.open(tmp_path / "run", {"steps": 3, "sizes": ["a"], "rate": 0.7}, standard)


def test_a_free_key_may_change_and_the_new_value_is_written(tmp_path):
    run = Run.open(tmp_path / "run", {"steps": 3, "rate": 0.5})
    Run.open(tmp_path / "run", {"steps": 5, "rate": 0.5}, free=("steps",))
    assert yaml.safe_load((run.folder / "config.yaml").read_text()) == {"steps": 5, "rate": 0.5}
    with pytest.raises(UserError, match="rate: 0.5 there, 0.7 now"):
        Run.open(tmp_path / "run", {"steps": 6, "rate": 0.7}, free=("steps",))
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["steps"] == 5


def test_a_run_killed_while_it_was_made_is_a_run(tmp_path, monkeypatch):
    def killed() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(core_run, "environment", killed)
        Run.open(tmp_path, {"seed": 1})
    assert (Run.open(tmp_path, {"seed": 1}).folder / "environment.json").exists()


def test_a_folder_that_a_living_process_writes_is_refused_and_free_once_it_is_killed(tmp_path):
    code = f"from core.run import Run; run = Run.open({str(tmp_path)!r}, {{}}); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"open\n"
        try:
            with pytest.raises(UserError, match=f"process {other.pid} writes .*choose another"):
                Run.open(tmp_path, {})
            Run.open(tmp_path, {}, writes=False)  # a further process of one launch
        finally:
            other.kill()
    Run.open(tmp_path, {})


def test_a_folder_is_free_when_the_last_run_of_it_is_let_go(tmp_path):
    code = f"from core.run import Run; Run.open({str(tmp_path)!r}, {{}})"
    first, second = Run.open(tmp_path, {}), Run.open(tmp_path, {})
    del first
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0
    open_files = len(os.listdir("/proc/self/fd"))
    del second
    assert len(os.listdir("/proc/self/fd")) == open_files - 1
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_with_other_things_is_not_taken(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not a run|nor a run"):
        Run.open(tmp_path, {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        Run.open(tmp_path / "file", {})


def test_metrics_are_lines_with_step_time_and_samples(tmp_path):
    run = Run.open(tmp_path, {})
    run.log(1, {"align/approx_kl": 0.5, "reward/total": float("nan")}, samples=16)
    row = read_metrics(tmp_path)[0]
    assert row.pop("time") > 1e9
    assert row == {"step": 1, "samples": 16, "align/approx_kl": 0.5, "reward/total": None}


def test_numbers_of_numpy_and_torch_become_plain(tmp_path):
    import numpy as np
    import torch

    run = Run.open(tmp_path, {})
    run.log(1, {"a": np.float32(0.5), "b": torch.tensor(2.0), "c": torch.tensor(float("inf"))}, samples=0)
    assert {key: read_metrics(tmp_path)[0][key] for key in "abc"} == {"a": 0.5, "b": 2.0, "c": None}


def test_a_half_written_metrics_line_is_dropped_on_reopening(tmp_path):
    run = Run.open(tmp_path, {})
    run.log(1, {"a": 1.0}, samples=1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "a"')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    Run.open(tmp_path, {}).log(2, {"a": 2.0}, samples=2)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_rewinding_forgets_what_came_after_the_checkpoint(tmp_path):
    run = Run.open(tmp_path, {})
    for step in range(1, 5):
        run.log(step, {"a": step / 3}, samples=step)
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    run.rewind(2)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == before[:2]


def test_checkpoints_are_kept_newest_first_and_old_ones_go(tmp_path):
    run = Run.open(tmp_path, {})
    for step in (1, 2, 10, 9):
        run.save(step, write(f"state {step}"), keep=3)
    assert [folder.name for folder in run.checkpoints()] == ["step-000002", "step-000009", "step-000010"]
    latest = run.latest()
    assert latest is not None and (latest / "lora/weights.bin").read_text() == "state 10"


def test_saving_a_step_again_replaces_it(tmp_path):
    run = Run.open(tmp_path, {})
    for text in ("first", "second"):
        folder = run.save(1, write(text))
    assert (folder / "state.bin").read_text() == "second"


@pytest.mark.parametrize("damage", ["truncate", "delete", "listing"])
def test_a_damaged_checkpoint_is_passed_over_with_a_word(tmp_path, capsys, damage):
    run = Run.open(tmp_path, {})
    run.save(1, write("good"))
    newest = run.save(2, write("longer text"))
    if damage == "truncate":
        (newest / "lora/weights.bin").write_text("long")
    elif damage == "delete":
        (newest / "state.bin").unlink()
    else:
        (newest / "files.json").write_text('{"state.bin": ')
    latest = run.latest()
    assert latest is not None and latest.name == "step-000001"
    assert "step-000002" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_nothing_half_written(tmp_path, error):
    run = Run.open(tmp_path, {})
    run.save(1, write("good"))

    def fail(folder: Path) -> None:
        (folder / "state.bin").write_text("half")
        raise error()

    with pytest.raises(error):
        run.save(2, fail)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


def test_what_a_killed_save_left_is_cleared_on_reopening(tmp_path):
    run = Run.open(tmp_path, {})
    leftover = tmp_path / "checkpoints" / ".step-000003.123"
    leftover.mkdir()
    assert run.latest() is None
    Run.open(tmp_path, {})
    assert not leftover.exists()


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.atomic_write(path, "old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError):
        files.atomic_write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
