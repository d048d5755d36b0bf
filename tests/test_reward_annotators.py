"""The gold taste and the people simulated from it; and that nobody else peeks."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from base_model.world.dataset import make_clip
from core.errors import UserError
from core.preferences import ASPECTS
from reward.annotators import OVERALL_WEIGHTS, TEXT_WEIGHTS, SimulatedAnnotator, gold_utility

ROOT = Path(__file__).parents[1]
GOOD, BAD = dict.fromkeys(ASPECTS, 0.9), dict.fromkeys(ASPECTS, 0.2)


def test_weights_are_shares() -> None:
    assert sum(TEXT_WEIGHTS.values()) == pytest.approx(1) and sum(OVERALL_WEIGHTS.values()) == pytest.approx(1)


def test_gold_prefers_the_right_video_and_the_unspoilt_video() -> None:
    wins = Counter()
    for index in range(12):
        clip = make_clip(5, index, style="descriptive", most_objects=1)
        good = gold_utility(clip.frames, clip.prompt)
        other = next(make_clip(5, j) for j in range(100, 999) if make_clip(5, j).spec.objects != clip.spec.objects)
        wins["other"] += gold_utility(other.frames, clip.prompt)["text_alignment"] < good["text_alignment"]
        gone = clip.frames.copy()
        gone[9:] = clip.frames[:1, :, 2:3, 2:3]
        spoilt = gold_utility(gone, clip.prompt)
        wins["gone"] += spoilt["overall"] < good["overall"]
        wins["whole"] += spoilt["visual_quality"] < good["visual_quality"]
        assert all(0 <= value <= 1 + 1e-9 for value in (*good.values(), *spoilt.values()))
    assert min(wins.values()) >= 11


def test_an_empty_video_is_worth_little() -> None:
    blank = np.full((17, 3, 64, 64), 0.08, dtype=np.float32)
    utility = gold_utility(blank, "a red ball moves left")
    assert utility["text_alignment"] == utility["visual_quality"] == 0 and utility["overall"] < 0.1


def test_a_prompt_from_elsewhere_has_no_gold() -> None:
    with pytest.raises(UserError, match="not of the sandbox"):
        gold_utility(np.zeros((17, 3, 64, 64), dtype=np.float32), "a cat on a sofa")


def test_labels_depend_on_annotator_seed_and_pair_alone() -> None:
    one = SimulatedAnnotator(seed=1, noise=0.3)
    forwards = [one.label(GOOD, BAD, pair) for pair in range(50)]
    backwards = [one.label(GOOD, BAD, pair) for pair in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert forwards != [SimulatedAnnotator(seed=2, noise=0.3).label(GOOD, BAD, pair) for pair in range(50)]
    assert forwards != [SimulatedAnnotator("other", 1, 0.3).label(GOOD, BAD, pair) for pair in range(50)]


def test_noise_is_the_share_of_wrong_votes_and_ties_lie_in_the_band() -> None:
    noisy = SimulatedAnnotator(noise=0.2)
    votes = [choice for pair in range(1500) for choice in noisy.label(GOOD, BAD, pair).values()]
    assert votes.count("b") / len(votes) == pytest.approx(0.2, abs=0.015) and "tie" not in votes
    calm = SimulatedAnnotator(noise=0.0, tie_band=0.1)
    near = dict.fromkeys(ASPECTS, 0.81)
    assert set(calm.label(GOOD, near, 1).values()) == {"tie"}
    assert set(calm.label(GOOD, BAD, 1).values()) == {"a"} and set(calm.label(BAD, GOOD, 1).values()) == {"b"}


def test_a_position_bias_shows_on_equal_videos_only_as_the_left_side() -> None:
    biased = SimulatedAnnotator(noise=0.0, position_bias=0.05)
    for pair in range(40):
        assert set(biased.label(GOOD, GOOD, pair).values()) == {biased.left_is(pair)}
        assert set(biased.label(GOOD, BAD, pair).values()) == {"a"}
    sides = Counter(biased.left_is(pair) for pair in range(400))
    assert 160 < sides["a"] < 240


def test_nothing_that_is_optimised_knows_the_gold_taste() -> None:
    allowed = {"align/demo.py", "reward/annotators.py"}
    uses = re.compile(r"^\s*(from|import)\s.*\bannotators\b|reward\.annotators", re.MULTILINE)
    found = {
        str(path.relative_to(ROOT))
        for room in ("align", "base_model", "core", "dashboards", "reward")
        for path in (ROOT / room).rglob("*.py")
        if uses.search(path.read_text(encoding="utf-8"))
    }
    assert found <= allowed, f"{found - allowed} import the gold taste; it is for labels and for the final judgement"
