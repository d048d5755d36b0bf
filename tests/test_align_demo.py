"""The demo end to end on the shipped model, small: what it leaves behind, and that a second call repeats nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from align import demo
from base_model.world import dataset
from core.preferences import Store
from core.randomness import seed_for

PLAN = demo.Plan(num_prompts=14, clips_per_prompt=3, align_steps=2, eval_prompts=8, eval_seeds=2, real_videos=12)


@pytest.mark.slow
def test_a_small_demo_leaves_everything_the_contract_names_and_goes_on_where_it_was(
    tmp_path: Path,
) -> None:
    out = tmp_path / "demo"
    first = demo.run(out, 3, PLAN)
    for name in (
        "base/results.json",
        "aligned/results.json",
        "compare.json",
        "report.html",
        "preferences.db",
        "demo.png",
    ):
        assert (out / name).stat().st_size > 0, name
    assert json.loads((out / "compare.json").read_text()) == json.loads(json.dumps(first))
    names = set(first["metrics"])
    assert {"gold_win_rate", "physics_pass_rate", "clip_sim[sandbox]", "fvd[sandbox,dct]", "diversity"} <= names
    assert len(Store(out / "preferences.db").votes()) == 14 * 3 * 4  # three pairs of three clips, four aspects
    lines = (out / "align" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    again = demo.run(out, 3, PLAN)
    assert again["metrics"] == first["metrics"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")} == before


def test_evaluation_prompts_of_the_demo_never_occur_in_training() -> None:
    plan = demo.Plan()
    most = plan.most_objects
    train = dataset.prompts(seed_for(0, "training prompts"), plan.num_prompts, "train", most_objects=most)
    judged = dataset.prompts(seed_for(0, "evaluation prompts"), plan.eval_prompts, "heldout", most_objects=most)
    assert len(set(judged)) >= 128
    assert not set(train) & set(judged)


def test_the_tower_answers_from_memory_when_shown_the_same_images_again() -> None:
    class Tower(nn.Module):
        calls = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return images.mean(dim=(1, 2, 3))

    tower = Tower()
    demo.look_once(SimpleNamespace(clip=SimpleNamespace(visual=tower)))  # type: ignore[arg-type]
    first, second = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        seen = [tower(images) for images in (first, first.clone(), second, first)]
    assert tower.calls == 3 and torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[3])
    assert not torch.equal(seen[0], seen[2])
    assert tower(first.requires_grad_()).requires_grad and tower.calls == 4  # a gradient wants its own graph
