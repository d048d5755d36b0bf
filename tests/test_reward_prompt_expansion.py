"""A tiny language model that copies captions and then learns which words make brighter videos."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from reward.prompt_expansion import (
    BATCH,
    Expander,
    ExpanderConfig,
    VideoScore,
    copy_captions,
    ranked,
    read_captions,
    sandbox_captions,
    split,
    teach,
    tiny_expander,
    words_kept,
)
from reward.simple import brightness, motion

SIZES = ("small", "medium", "large")
PAIRS = [(f"a {c} ball", f"a {s} {c} ball rests") for c in ("red", "blue") for s in SIZES]
PROMPTS = ["a red ball", "a blue ball"]


class Painter:
    """Paints the larger the brighter, and counts its videos."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
        self.made += zip(prompts, seeds, strict=True)
        light = [next((0.3 * n for n, size in enumerate(SIZES) if size in text.split()), 0.0) for text in prompts]
        return torch.tensor(light).view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 4, 4)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of an expander that has copied PAIRS: every size is as likely as the others."""
    folder = tmp_path_factory.mktemp("expander")
    expander = tiny_expander([text for pair in PAIRS for text in pair], folder, width=32, layers=1)
    empty = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(empty)
        copy_captions(expander, PAIRS * 8, epochs=40, learning_rate=1e-2)
    assert list(empty.iterdir()) == []  # nothing is left where somebody works
    expander.save(folder)
    return str(folder)


def test_it_copies_the_detailed_captions_and_draws_the_same_for_the_same_seed(copied: str) -> None:
    expander = Expander(copied)
    drawn = {prompt: [expander.expand(prompt, seed) for seed in range(12)] for prompt in PROMPTS}
    known = {detailed for _, detailed in PAIRS}
    for prompt, texts in drawn.items():
        assert sum(text in known for text in texts) >= 9
        assert len(set(texts)) > 1
        assert texts == [expander.expand(prompt, seed) for seed in range(12)]


def test_the_best_and_worst_expansion_share_the_noise(copied: str) -> None:
    painter = Painter()
    rows = ranked(Expander(copied), PROMPTS, VideoScore(painter, brightness()), ExpanderConfig(num_expansions=12))
    assert [row["prompt"] for row in rows] == ["a red ball =>", "a blue ball =>"]
    assert all("large" in row["chosen"] for row in rows)
    assert len({seed for _, seed in painter.made}) == 2  # one a prompt


@pytest.mark.slow
def test_dpo_learns_the_words_that_score(copied: str) -> None:
    expander, painter = Expander(copied), Painter()
    config = ExpanderConfig(num_expansions=12, steps=25, batch=2, learning_rate=3e-3)
    found = teach(expander, PROMPTS, PROMPTS, VideoScore(painter, brightness()), config)
    drawn = [expander.expand(prompt, seed) for prompt in PROMPTS for seed in range(10)]
    assert found["short"] == 0.0 < found["copied"] < found["taught"]  # the painter paints by words of size alone
    gain = found["over_copied"]
    assert found["words_kept"] > 0.8
    assert gain["difference"] == pytest.approx(found["taught"] - found["copied"]) and gain["n"] == 8
    assert sum("large" in text for text in drawn) >= 15
    assert len(painter.made) == len(set(painter.made))


@pytest.mark.slow
def test_grpo_learns_the_words_that_score(copied: str) -> None:
    expander, painter = Expander(copied), Painter()
    config = ExpanderConfig("grpo", num_expansions=8, steps=20, batch=16, learning_rate=1e-2, beta=0.0)
    teach(expander, PROMPTS, PROMPTS, VideoScore(painter, brightness()), config)
    drawn = [expander.expand(prompt, seed) for prompt in PROMPTS for seed in range(10)]
    assert sum("large" in text for text in drawn) >= 13
    assert len(painter.made) == len(set(painter.made))


def test_scores_are_kept_between_runs_and_a_missing_one_is_none(tmp_path: Path) -> None:
    painter = Painter()
    first = VideoScore(painter, brightness(), tmp_path / "scores.jsonl")
    asked = (["a ball"] * 3, ["a large ball", "a small ball", "a large ball"], [1, 1, 1])
    assert first(*asked) == [pytest.approx(0.6), 0.0, pytest.approx(0.6)]
    again = VideoScore(painter, brightness(), tmp_path / "scores.jsonl")
    assert again(*asked) == first(*asked) and len(painter.made) == 2
    blind = VideoScore(lambda prompts, seeds: torch.full((1, 1, 3, 2, 2), float("nan")), brightness())
    assert blind(["x"], ["y"], [0]) == [None]


def test_scores_of_another_reward_or_other_videos_are_not_taken(tmp_path: Path) -> None:
    painter, cache, asked = Painter(), tmp_path / "scores.jsonl", (["a ball"], ["a large ball"], [1])
    VideoScore(painter, brightness(), cache, "model 10 steps")(*asked)
    with cache.open("a") as file:
        file.write('{"maker": "mod')  # as somebody was killed
    assert VideoScore(painter, motion(), cache, "model 10 steps")(*asked) == [0.0]
    VideoScore(painter, brightness(), cache, "model 20 steps")(*asked)
    assert len(painter.made) == 3
    assert VideoScore(painter, brightness(), cache, "model 10 steps")(*asked) == [pytest.approx(0.6)]
    assert len(painter.made) == 3


def test_what_was_scored_before_a_crash_is_kept(tmp_path: Path) -> None:
    class Tired(Painter):
        def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> torch.Tensor:
            if self.made:
                raise KeyboardInterrupt
            return super().__call__(prompts, seeds)

    asked = (["a ball"] * 20, ["a large ball"] * 20, range(20))
    with pytest.raises(KeyboardInterrupt):
        VideoScore(Tired(), brightness(), tmp_path / "scores.jsonl")(*asked)
    painter = Painter()
    VideoScore(painter, brightness(), tmp_path / "scores.jsonl")(*asked)
    assert [seed for _, seed in painter.made] == list(range(BATCH, 20))


def test_expansions_that_score_alike_cannot_teach(copied: str) -> None:
    flat = VideoScore(lambda prompts, seeds: torch.zeros(len(prompts), 2, 3, 4, 4), brightness())
    with pytest.raises(UserError, match="score alike"):
        teach(Expander(copied), PROMPTS, PROMPTS, flat, ExpanderConfig(steps=1))


def test_words_of_a_prompt_are_found_in_its_expansion_whatever_stands_between() -> None:
    assert words_kept("a red ball", "a large, red ball, rolling") == 1.0
    assert words_kept("a red ball", "the the a wall") == pytest.approx(1 / 3)


def test_prompts_are_learned_on_or_held_out() -> None:
    texts = [f"prompt {number}" for number in range(8)]
    learning, held_out = split(texts, ExpanderConfig())
    assert sorted(learning + held_out) == texts and len(held_out) == 2
    assert split(texts, ExpanderConfig()) == (learning, held_out) != split(texts, ExpanderConfig(seed=1))
    assert [len(part) for part in split(texts[:2], ExpanderConfig(held_out_share=0.99))] == [1, 1]
    with pytest.raises(UserError, match="cannot be split"):
        split(texts[:1], ExpanderConfig())


def test_sandbox_captions_are_short_and_detailed_words_for_one_scene() -> None:
    from base_model.world.caption import parse

    for short, detailed in sandbox_captions(20, 0):
        brief, full = parse(short), parse(detailed)
        assert brief is not None and full is not None
        assert brief.family == full.family and brief.objects[0].colour == full.objects[0].colour
        assert len(detailed) > len(short)


def test_captions_are_read_and_a_row_without_them_is_named(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text('{"short": "a ball", "detailed": "a red ball"}\n')
    assert read_captions(file) == [("a ball", "a red ball")]
    for text, word in (('{"short": "a ball"}\n', "entry 1"), ("", "holds no captions")):
        file.write_text(text)
        with pytest.raises(UserError, match=word):
            read_captions(file)
