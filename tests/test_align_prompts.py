"""Prompt sets: files, weights, mixtures, and the curriculum."""

import json
from collections import Counter
from pathlib import Path

import pytest

from align.prompts import PromptSet
from core.errors import UserError
from core.prompts import Prompt, mixture, read, read_all

PROMPTS = tuple("abcdefgh")


def test_json_lines_carry_weight_and_tag_and_may_carry_more(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    rows = [{"prompt": " a dog ", "tag": "animal", "include": [1]}, {"prompt": "b", "weight": 2}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_all(path) == [Prompt("a dog", 1.0, "animal"), Prompt("b", 2.0)]
    assert read(path) == ["a dog", "b"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "a"}', "entry 1: a text under the key 'prompt' is expected, seen None"),
        ('{"prompt": "  "}', "seen '  '"),
        ('{"prompt": "a", "weight": 0}', "'weight' must be a number above 0, seen 0"),
        ('["a"]', "a JSON object is expected"),
        ("", "is empty"),
    ],
)
def test_bad_json_lines_are_one_clear_line(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=told):
        read(path)


def test_shares_of_a_mixture_hold_whatever_the_sizes_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a\n")
    (tmp_path / "many.txt").write_text("\n".join(f"m{index}" for index in range(50)) + "\n")
    prompts = mixture([f"{tmp_path}/one.txt=.25", f"{tmp_path}/many.txt=.75"])
    chosen = PromptSet.of(prompts, seed=0)
    drawn = [prompt for step in range(400) for prompt in chosen.at(step, 1)]
    assert drawn.count("a") / 400 == pytest.approx(0.25, abs=0.05)
    assert len(set(drawn)) > 40
    with pytest.raises(UserError, match="the share 'x' is not a number"):
        mixture([f"{tmp_path}/one.txt=x", f"{tmp_path}/many.txt"])


def test_the_curriculum_draws_prompts_whose_groups_still_differ() -> None:
    chosen = PromptSet(PROMPTS, seed=1, curriculum=0.5)
    spread = dict.fromkeys(PROMPTS, 0.0) | {"c": 1.0, "f": 1.0}
    drawn = Counter(prompt for step in range(200) for prompt in chosen.at(step, 4, spread))
    assert min(drawn["c"], drawn["f"]) > 2 * max(drawn[name] for name in "abdegh")
    assert min(drawn.values()) > 40  # nobody is forgotten
    assert chosen.at(7, 4, spread) == chosen.at(7, 4, spread)
    assert all(len(set(chosen.at(step, 4, spread))) == 4 for step in range(50))
    in_turn = [*chosen.at(0, 4, {}), *chosen.at(1, 4, spread)[:2], *chosen.at(2, 4, spread)[:2]]
    assert sorted(in_turn) == sorted(PROMPTS)  # nothing is known at first; none comes again before all have come


def test_a_step_may_ask_for_more_prompts_than_there_are() -> None:
    assert len(PromptSet(("a", "b"), 0, weights=(1.0, 3.0)).at(0, 5)) == 5
    assert len(PromptSet(("a", "b"), 0, curriculum=1.0).at(0, 5, {"a": 0.0, "b": 0.0})) == 5
