"""Two processes (gloo) that share the tokens of every clip, or the weights (FSDP2), or both, do what one does."""

from pathlib import Path

import processes
import pytest
import sharded_hub
import sharded_run
import token_team
import torch
from safetensors.torch import load_file
from tiny_pipelines import CASES, seeded

from base_model.hub.mochi import Mochi
from base_model.hub.parallel import check
from base_model.hub.wan import Wan
from base_model.protocol import VideoSize
from core.errors import UserError
from core.run import read_metrics


@pytest.mark.slow
def test_a_team_of_two_makes_the_update_of_one(tmp_path: Path) -> None:
    model, two, one = (str(tmp_path / name) for name in ("model", "two", "one"))
    seeded(CASES["wan"].build).save_pretrained(model)
    processes.run(processes.ACCELERATE, "token_team.py", model, two, "2")
    token_team.main(model, one, "1")
    rows = [[row for row in read_metrics(Path(name)) if row["step"]] for name in (one, two)]
    for name in ("samples", "reward/total", "reward/std", "align/grad_norm", "align/lora_norm"):
        assert [row[name] for row in rows[1]] == pytest.approx([row[name] for row in rows[0]], rel=1e-3), name
    weights = [torch.load(Path(name) / "checkpoints/step-000002/state.pt")["weights"] for name in (one, two)]
    assert max(float((a - b).abs().max()) for a, b in zip(*weights, strict=True)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "team"), [("wan", 1), ("wan", 2), ("ltx", 2), ("ltx_later", 2)])
def test_weights_cut_over_two_processes_have_the_gradient_of_one(tmp_path: Path, name: str, team: int) -> None:
    model, out = str(tmp_path / "model"), str(tmp_path / "gradient.pt")
    seeded(CASES[name].build).save_pretrained(model)
    processes.run(processes.TORCHRUN, "sharded_hub.py", name, model, out, str(team))
    alone, cut = sharded_hub.gradient(name, model), torch.load(out)
    assert max(float((a - b).abs().max()) for a, b in zip(alone, cut, strict=True)) < 1e-6
    assert min(float(one.abs().max()) for one in alone) > 1e-6


@pytest.mark.slow
def test_a_whole_run_with_cut_weights_leaves_what_one_process_leaves(tmp_path: Path) -> None:
    """Trained, shown, saved, gone on: the adapters, or all weights, are those of one process and of an unbroken run."""
    model, out = str(tmp_path / "model"), tmp_path / "two"
    seeded(CASES["wan"].build).save_pretrained(model)
    processes.run(processes.TORCHRUN, "sharded_run.py", model, out)
    for adapter in sharded_run.ADAPTERS:
        sharded_run.run(model, tmp_path / adapter, adapter)
        alone, whole, broken = (
            load_file(next((folder / "checkpoints/step-000002").rglob("*.safetensors")))
            for folder in (tmp_path / adapter, out / f"{adapter}-whole", out / f"{adapter}-broken")
        )
        assert max(float((whole[name] - alone[name]).abs().max()) for name in alone) < 1e-5
        assert all(torch.equal(whole[name], broken[name]) for name in alone) and set(whole) == set(alone)
        rows = [row for row in read_metrics(out / f"{adapter}-broken") if row["step"]]
        assert [row["step"] for row in rows] == [1, 2] and rows[0]["align/first_pass_ratio_error"] == 0.0


@pytest.mark.parametrize(
    ("kind", "name", "size", "team", "count", "told"),
    [
        (Mochi, "mochi", VideoSize(7, 16, 16), 2, 2, "this Mochi does not run so, Wan and LTX-Video do"),
        (Wan, "wan", VideoSize(9, 16, 32), 2, 1, "1 process does not divide into such teams; start 2 or a multiple"),
        (Wan, "wan", VideoSize(9, 16, 16), 2, 2, "the 3 tokens of a clip do not divide by 2"),
        (Wan, "wan", VideoSize(9, 16, 48), 3, 3, "the 2 attention heads do not divide by 3"),
    ],
)
def test_what_cannot_be_shared_is_one_line(
    kind: type, name: str, size: VideoSize, team: int, count: int, told: str
) -> None:
    family = kind(seeded(CASES[name].build))
    with pytest.raises(UserError, match=told):
        check(family.networks["transformer"], family, size, team, count)
