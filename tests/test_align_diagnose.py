"""`soralign align diagnose`: every cause is found by the numbers that show it, and by no others."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from align import diagnose
from align.diagnose import History, findings
from core.cli import main
from core.errors import UserError

CONFIG = {
    "algorithm": "GRPO",
    "prompts_per_step": 8,
    "group_size": 8,
    "updates": 2,
    "passes": 1,
    "clip_range": 1e-4,
    "kl_weight": 0.0,
    "learning_rate": 1e-4,
}
HEALTHY = {
    "align/first_pass_ratio_error": 0.0,
    "align/dead_groups": 0.1,
    "align/clip_fraction": 0.1,
    "align/approx_kl": 5e-9,
    "align/grad_norm": 0.5,
    "align/gradient_agreement": 0.3,
    "align/diversity": 0.2,
    "align/motion_energy": 0.02,
    "align/saturation": 0.1,
    "align/over_optimised": 0.0,
    "reward/masked": 0.0,
}


def _history(
    changes: dict[str, Any] | None = None, config: dict[str, Any] | None = None, slope: float = 0.1
) -> History:
    """30 steps of rising reward; a change is a value, (at the start, at the end), or a function of the step."""
    rows = []
    for step in range(1, 31):
        row: dict[str, Any] = {"step": step, "samples": 64 * step, "reward/total": slope * step + 0.01 * (step % 3)}
        for name, value in (HEALTHY | (changes or {})).items():
            value = value(step) if callable(value) else value
            row[name] = value[0] + (value[1] - value[0]) * (step - 1) / 29 if isinstance(value, tuple) else value
        rows.append(row)
    return History(CONFIG | (config or {}), rows)


def test_a_healthy_run_gives_no_finding() -> None:
    assert findings(_history()) == []
    text = diagnose.report(_history())
    assert "reward rises" in text and "nothing to complain of" in text
    assert "none of the known causes shows" in diagnose.report(_history(slope=0.0))


@pytest.mark.parametrize(
    ("changes", "config", "slope", "cause", "figure"),
    [
        ({"align/first_pass_ratio_error": 3e-4}, {}, 0.1, "does not reproduce its own samples", "0.0003"),
        ({"reward/masked": 16.0}, {}, 0.1, "have no reward", "16.0 of 64 clips"),
        ({"align/dead_groups": 0.8}, {}, 0.1, "groups are dead", "80%"),
        ({"align/diversity": (0.2, 0.01)}, {}, 0.1, "collapses: the clips of a prompt", "align/diversity"),
        ({"align/motion_energy": (0.02, 0.001)}, {}, 0.1, "collapses: motion has gone", "align/motion_energy"),
        ({"align/saturation": (0.1, 0.6)}, {}, 0.1, "black or full", "align/saturation"),
        ({}, {"prompts_per_step": 2}, 0.1, "batch is too small", "8 clips per optimizer step"),
        ({"align/gradient_agreement": 0.02}, {}, 0.1, "mostly noise", "cosine of 0.020 on average; about 784 clips"),
        ({"align/gradient_agreement": -0.01}, {}, 0.1, "mostly noise", "cosine of -0.010 on average"),
        ({"align/approx_kl": lambda step: None if step > 28 else 1e-9}, {}, 0.1, "too far", "in 2 of 30 steps"),
        ({"align/approx_kl": 1e6}, {}, 0.1, "too far", "first in step 1;"),
        ({"align/clip_fraction": 0.8}, {}, 0.1, "too narrow", "80% of the samples were outside 1 +- 0.0001"),
        ({"align/clip_fraction": 0.0, "align/approx_kl": 1e-14}, {}, 0.1, "never acts", "1.4e-07"),
        ({"align/kl_reference": 0.5}, {"kl_weight": 0.1}, 0.0, "stronger than what a clip can gain", "is 0.05"),
        ({"align/grad_norm": lambda step: 1.3**step}, {}, 0.1, "gradient explodes", "in the first third"),
        ({}, {"learning_rate": 1e-6}, 0.0, "hardly moved", "6e-05"),
        ({}, {}, -0.1, "reward gets worse", "standard errors"),
        ({}, {"lower_is_better": ["reward/total"]}, 0.1, "reward gets worse", "standard errors"),
        ({}, {"keep": 2}, 0.1, "batch is too small", "8 clips per optimizer step"),
        ({}, {"algorithm": "DPO"}, 0.1, "batch is too small", "8 clips per optimizer step"),
        ({}, {"weighting": "best", "best": 1}, 0.1, "batch is too small", "4 clips per optimizer step"),
        ({}, {"algorithm": "DPO", "store": "v.db", "pairs_per_step": 8}, 0.1, "too small", "8 clips per optimizer"),
    ],
)
def test_every_cause_is_named_with_its_figure(
    changes: dict[str, Any], config: dict[str, Any], slope: float, cause: str, figure: str
) -> None:
    found = findings(_history(changes, config, slope))
    assert [cause in one.what for one in found].count(True) == 1
    (one,) = [one for one in found if cause in one.what]
    assert figure in one.figure and one.advice


def test_over_optimisation_names_the_judge_and_the_step_to_go_back_to() -> None:
    history = _history()
    for row in history.rows[4::5]:
        row["judge/clip"] = 0.3 - 0.01 * abs(row["step"] - 10)  # type: ignore[index]
        row["align/over_optimised"] = float(row["step"] > 20)  # type: ignore[index]
    (one,) = findings(history)
    assert "Over-optimisation" in one.what and one.figure == "judge/clip was 0.3 at step 10 and is 0.1 now"


def test_what_should_fall_may_fall() -> None:
    history = _history(config={"lower_is_better": ["reward/total", "judge/flicker"]}, slope=-0.1)
    assert findings(history) == []
    assert "reward falls (lower is better): " in diagnose.report(history)
    assert "nothing to complain of" in diagnose.report(history)
    for row in history.rows[4::5]:
        row["judge/flicker"] = 0.1 + 0.01 * abs(row["step"] - 10)  # type: ignore[index]
        row["align/over_optimised"] = float(row["step"] > 20)  # type: ignore[index]
    (one,) = findings(history)
    assert one.figure == "judge/flicker was 0.1 at step 10 and is 0.3 now"


def test_the_command_reads_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    rows = _history({"align/dead_groups": 0.9}, slope=0.0).rows
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["align", "diagnose", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "GRPO, 30 steps, 1920 clips" in text and "reward does not rise" in text
    assert (
        "1. Most groups are dead" in text and "seen: 90% of the groups" in text and "next: use a finer reward" in text
    )


def test_a_folder_that_is_no_alignment_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        diagnose.read(tmp_path)
    (tmp_path / "config.yaml").write_text("command: demo\n")
    with pytest.raises(UserError, match="names no algorithm"):
        diagnose.read(tmp_path)
    (tmp_path / "config.yaml").write_text("algorithm: GRPO\n")
    with pytest.raises(UserError, match="no finished training step"):
        diagnose.read(tmp_path)
