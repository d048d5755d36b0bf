"""The shipped accelerate configurations: each is one that accelerate takes, and the one for CPUs runs a command."""

from pathlib import Path

import processes
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from core.run import read_metrics

FOLDER = Path(__file__).parents[1] / "align" / "launch"
EXPECTED = {
    "one_gpu": ("NO", 1, 1),
    "ddp": ("MULTI_GPU", 8, 1),
    "fsdp2": ("FSDP", 8, 1),
    "deepspeed_zero2": ("DEEPSPEED", 8, 1),
    "multi_node": ("MULTI_GPU", 16, 2),
    "two_cpus": ("MULTI_GPU", 2, 1),
}


def test_every_file_is_known_here() -> None:
    assert {path.stem for path in FOLDER.glob("*")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_takes_the_file_and_launches_what_it_says(name: str) -> None:
    path = str(FOLDER / f"{name}.yaml")
    config = load_config_from_file(path)
    kind, processes, machines = EXPECTED[name]
    assert (str(config.distributed_type.value), config.num_processes, config.num_machines) == EXPECTED[name]
    assert config.mixed_precision == "no"  # --precision of the run decides, and nothing else
    words = launch_command_parser().parse_args(["--config_file", path, "-m", "align", "nft"])
    words, *_ = _validate_launch_command(words)
    assert (words.multi_gpu, words.use_fsdp, words.use_deepspeed) == (
        kind == "MULTI_GPU",
        kind == "FSDP",
        kind == "DEEPSPEED",
    )
    assert (words.num_processes, words.num_machines) == (processes, machines)
    if kind == "FSDP":
        assert int(words.fsdp_version) == 2 and words.fsdp_auto_wrap_policy == "TRANSFORMER_BASED_WRAP"
    if kind == "DEEPSPEED":
        assert int(words.zero_stage) == 2


@pytest.mark.slow
def test_a_launched_command_runs_on_both_processes_and_ends_well(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red ball rolls\na blue cube falls\n")
    words = "ddpo --model nano --reward brightness --steps 1 --prompts-per-step 2 --group-size 2 --batch 2"
    words += " --denoising-steps 4 --num-samples 1"
    told = processes.run(
        processes.ACCELERATE,
        "-m",
        "align",
        *words.split(),
        "--prompts",
        tmp_path / "prompts.txt",
        "--out",
        tmp_path / "run",
    )
    assert [row["samples"] for row in read_metrics(tmp_path / "run") if row["step"]] == [4]
    assert "Traceback" not in told and "destroy_process_group" not in told
