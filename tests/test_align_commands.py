"""`soralign align` on the nano model: recipe and options end up where they say, bad input is one line and exit 2."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from align import ALGORITHMS
from align.commands import load_reward
from base_model import lora
from core.cli import main
from core.errors import UserError
from core.run import read_metrics

QUICK = "--model nano --reward brightness --steps 1 --prompts-per-step 2 --group-size 2 --batch 4 --denoising-steps 4"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a red ball falls\na blue square slides\n")
    return path


def test_a_run_from_a_recipe_with_overrides(tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("clip_range: 3.0e-4\nwindow: 1\nlearning_rate: 1.0e-3\n")
    words = ["align", "ddpo", "--config", str(recipe), "--prompts", str(prompts), "--out", str(tmp_path / "run")]
    assert main([*words, *QUICK.split(), "--learning-rate", "2e-3"]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["algorithm"], config["clip_range"], config["window"]) == ("DDPO", 3e-4, 1)
    assert config["learning_rate"] == 2e-3
    (row,) = read_metrics(tmp_path / "run")
    assert row["samples"] == 4 and row["align/first_pass_ratio_error"] == 0.0
    assert "checkpoints/step-000001/lora" in capsys.readouterr().out


def test_a_run_goes_on_only_with_the_precision_and_guidance_it_had(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["align", "ddpo", *QUICK.split(), "--prompts", str(prompts), "--out", str(tmp_path / "run")]
    assert main([*words, "--dtype", "float32"]) == 0
    capsys.readouterr()
    assert main([*words, "--dtype", "bfloat16"]) == 2
    told = capsys.readouterr().err
    assert "dtype: 'float32' there, 'bfloat16' now" in told and told.count("\n") == 1
    assert main(words) == 0  # what auto comes to is what counts

    path = tmp_path / "run" / "config.yaml"
    made = path.read_text()
    path.write_text(made.replace("quantize: none", "quantize: int8").replace("guidance_2: null", "guidance_2: 3.0"))
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "guidance_2: 3.0 there, None now; quantize: 'int8' there, 'none' now" in told
    kept = [line for line in made.splitlines() if line.split(":")[0] not in ("dtype", "quantize", "guidance_2")]
    path.write_text("\n".join(kept) + "\n")  # a run from before these were written down
    assert main(words) == 0


def test_the_folder_that_is_named_at_the_end_is_there(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["align", "ddpo", *QUICK.split(), "--prompts", str(prompts), "--out", str(tmp_path / "run")]
    assert main([*words, "--adapter", "full"]) == 0
    assert Path(capsys.readouterr().out.split()[1]).is_dir()


def test_mixed_prompt_files_judges_and_a_diagnosis(
    tmp_path: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, held_out = tmp_path / "more.jsonl", tmp_path / "held_out.txt"
    more.write_text('{"prompt": "a green ring rests", "tag": "rest"}\n')
    held_out.write_text("a yellow ball bounces\n")
    words = ["align", "nft", *QUICK.split(), "--levels", "2", "--out", str(tmp_path / "run")]
    words += ["--prompts", f"{prompts}=.5", f"{more}=.5", "--judge", "motion", "--judge-prompts", str(held_out)]
    assert main([*words, "--judge-clips", "2", "--curriculum", ".5", "--ema-decay", ".9"]) == 0
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == [0, 1] and all("judge/motion" in row for row in rows)
    capsys.readouterr()
    assert main(["align", "diagnose", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "NFT, 1 steps, 4 clips" in text and "The batch is too small" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "an algorithm is missing"),
        ("dddpo", "did you mean 'ddpo'"),
        ("ddpo --clip-rnage 1", "--clip-range"),
        ("ddpo --reward brightness --prompts absent.txt --out run", "absent.txt"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --reward brigthness", "did you mean 'brightness'"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --model nanno", "did you mean 'nano'"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --steps 0", "steps is 0"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --decay 1.5", "decay is 1.5"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --guidance nan", "guidance is nan"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --num-samples -1", "num_samples is -1"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --eta 0", "eta 0.0"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --ema-decay 1", "ema_decay is 1.0"),
        (f"ddpo {QUICK} --prompts PROMPTS=few --out run", "the share 'few' is not a number"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --reward brightness=0", "with weight 0 it teaches nothing"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --reward motion=.5 motion=.2", "'motion' is given twice"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --updates 2", "2 updates need as many batches"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --judge brightness --judge-prompts PROMPTS", "judges nothing"),
        ("diagnose absent", "holds no run"),
        (f"ddpo {QUICK} --prompts PROMPTS --out run --lora-targets to_z", "endings:"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    prompts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["align", *words.replace("PROMPTS", str(prompts)).split()]) == 2
    error = capsys.readouterr().err
    assert told in error and error.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "recipe", sorted((Path(__file__).parents[1] / "align" / "recipes").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_recipes_hold_only_known_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    algorithm = next(name for name in sorted(ALGORITHMS, key=len, reverse=True) if recipe.stem.endswith(f"_{name}"))
    words = ["--reward", "brightness", "--prompts", "absent.txt", "--out", "run"]
    assert main(["align", algorithm, "--config", str(recipe), *words]) == 2
    assert "absent.txt" in capsys.readouterr().err  # everything before the prompts was accepted


def test_help_lists_the_options_of_loop_and_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", "ddpo", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(
        name in shown for name in ("--clip_range", "--learning_rate", "--prompts", "half-width of the free band")
    )


def test_reward_words_make_a_weighted_mixture() -> None:
    mixture = load_reward(["brightness=.5", "motion"])
    assert mixture.aspects == ("brightness", "motion") and mixture.name == "mixture"
    assert load_reward(["brightness"]).name == "brightness"
    with pytest.raises(UserError, match="weight 'much'"):
        load_reward(["brightness=much"])


def _start(prompts: Path, out: Path) -> subprocess.Popen[str]:
    options = f"{QUICK} --steps 15 --save-every 3 --sample-every 0 --prompts {prompts} --out {out}"
    command = [sys.executable, "-m", "align", "ddpo", *options.split()]
    root = Path(__file__).parents[1]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_stopped_command_run_again_ends_where_an_unbroken_one_does(tmp_path: Path, prompts: Path) -> None:
    whole = _start(prompts, tmp_path / "whole")
    for signal_number in (signal.SIGINT, signal.SIGKILL):
        out = tmp_path / signal_number.name
        broken = _start(prompts, out)
        while not (out / "checkpoints" / "step-000003").exists():
            assert broken.poll() is None
            time.sleep(0.01)
        broken.send_signal(signal_number)
        _, error = broken.communicate(timeout=120)
        if signal_number == signal.SIGINT:
            assert broken.returncode == 130 and "run the same command again" in error and "Traceback" not in error
        assert len(read_metrics(out)) < 15
        assert _start(prompts, out).wait(timeout=300) == 0
        assert [row["step"] for row in read_metrics(out)] == list(range(1, 16))

    assert whole.wait(timeout=300) == 0
    ends = [
        load_file(tmp_path / name / "checkpoints" / "step-000015" / "lora" / lora.FILE_NAME)
        for name in ("whole", "SIGINT", "SIGKILL")
    ]
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]) and torch.equal(value, ends[2][name]), name
