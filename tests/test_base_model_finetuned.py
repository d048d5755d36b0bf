"""Networks that were trained whole come back as they were, in one part or two, and only into their own model."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from tiny_pipelines import wan_a14b
from torch import nn

from base_model import finetuned, native
from base_model.generate import generate
from core.errors import UserError


def _moved(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of `module` after a step, which is written into it."""
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.01)
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_both_experts_come_back_as_a_pipeline_would_read_them(tmp_path: Path) -> None:
    pipeline = wan_a14b()
    networks = {"transformer": pipeline.transformer, "transformer_2": pipeline.transformer_2}
    trained = _moved(nn.ModuleDict(networks))
    finetuned.save(nn.ModuleDict(networks), tmp_path, trained)

    fresh = wan_a14b()
    both = nn.ModuleDict({"transformer": fresh.transformer, "transformer_2": fresh.transformer_2})
    finetuned.load(both, tmp_path)
    assert all(torch.equal(value, trained[name]) for name, value in both.state_dict().items())
    for name in networks:
        read = type(pipeline.transformer).from_pretrained(tmp_path / name)
        assert all(torch.equal(value, trained[f"{name}.{key}"]) for key, value in read.state_dict().items())


def test_generate_draws_with_the_trained_weights_and_says_so(tmp_path: Path) -> None:
    generator = native.nano()
    finetuned.save(generator.transformer, tmp_path / "model", _moved(generator.transformer))
    words = ["--model", "nano", "--prompt", "a red ball", "--num-steps", "2", "--out"]
    generate([*words, str(tmp_path / "base")])
    generate([*words, str(tmp_path / "trained"), "--weights", str(tmp_path / "model")])
    base, trained = (json.loads((tmp_path / name / "manifest.jsonl").read_text()) for name in ("base", "trained"))
    assert (base["model"], trained["model"]) == ("nano", str(tmp_path / "model"))
    videos = [(tmp_path / name / row["video"]).read_bytes() for name, row in (("base", base), ("trained", trained))]
    assert videos[0] != videos[1]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "no weights at"),
        (lambda path: path.write_bytes(b"cut"), "broken or of another model"),
    ],
)
def test_missing_and_broken_weights_are_one_clear_line(tmp_path: Path, damage: object, told: str) -> None:
    network = native.nano().transformer
    finetuned.save(network, tmp_path, network.state_dict())
    damage(tmp_path / "transformer" / SAFETENSORS_WEIGHTS_NAME)  # type: ignore[operator]
    with pytest.raises(UserError, match=told):
        finetuned.load(network, tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    other = native.nano().transformer
    finetuned.save(other, tmp_path, {name: value[:1] for name, value in other.state_dict().items()})
    with pytest.raises(UserError, match="of another model"):
        finetuned.load(native.nano().transformer, tmp_path)
