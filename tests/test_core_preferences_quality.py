"""Agreement and annotators' figures against answers one can count by hand."""

import math
from pathlib import Path

import pytest

from core import preferences_quality, stats, video
from core.preferences import Settings, Store, Vote


@pytest.fixture
def store(clip, tmp_path):
    """Twenty pairs that three annotators may label."""
    store = Store(tmp_path / "p.db", aspects=("overall",))
    for name, frames in (("a", clip), ("b", clip[::-1])):
        video.write(tmp_path / f"{name}.mp4", frames, 8.0)
        store.add_video(tmp_path / f"{name}.mp4")
    with store.transaction():
        for index in range(20):
            store.add_pair(f"prompt {index}", 1, 2, target_votes=3)
    return store


def record(store, name, choices, **facts):
    with store.transaction():
        for pair, choice in zip(store.pairs(), choices, strict=False):
            store.record_vote(pair.id, name, "overall", choice, **facts)


def test_fleiss_kappa_of_the_textbook():
    # Fleiss 1971 as tabulated on Wikipedia: 10 subjects, 14 raters, 5 categories, kappa 0.210.
    table = [(0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1), (7, 7, 0, 0, 0),
             (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7)]  # fmt: skip
    units = [[label for label, count in enumerate(row) for _ in range(count)] for row in table]
    assert stats.fleiss_kappa(units) == pytest.approx(0.210, abs=5e-4)
    assert math.isnan(stats.fleiss_kappa([["a", "a"], ["a", "a"]])) and math.isnan(stats.fleiss_kappa([]))
    with pytest.raises(ValueError, match="equally many"):
        stats.fleiss_kappa([["a", "b"], ["a"]])


def test_a_run_on_one_side_is_flagged_among_few_labels_and_not_where_chance_brings_it(store):
    def flags(sides):
        votes = [
            Vote(index, "p", Path("a"), Path("b"), "ann", "overall", "a", 0.0, "ab"[side == "r"])
            for index, side in enumerate(sides)
        ]
        return preferences_quality._quality(store, "ann", votes, stats.wilson(0, 0, 0), stats.wilson(0, 0, 0)).flags

    assert flags("l" * 12) == flags("lr" * 4 + "r" * 11) == ("same side 12 times in a row",)
    assert flags("lr" * 500 + "r" * 11) == flags("") == flags("l" * 10) == ()


def test_perfect_and_chance_agreement(store):
    record(store, "ann", "ab" * 10)
    record(store, "bob", "ab" * 10)
    (same,) = preferences_quality.agreement(store)
    assert (same.num_pairs, same.cohen.value, same.fleiss.value, same.alpha.value) == (20, 1.0, 1.0, 1.0)
    record(store, "cyd", "aabb" * 5)
    (mixed,) = preferences_quality.agreement(store)
    assert mixed.cohen.value == pytest.approx(1 / 3)  # 1 with each other, 0 of each with cyd
    assert mixed.alpha.low < mixed.alpha.value < mixed.alpha.high < 1


def test_nothing_to_agree_on_is_not_a_number(store):
    record(store, "ann", "aab")
    (alone,) = preferences_quality.agreement(store)
    assert alone.num_pairs == 0 and math.isnan(alone.alpha.value) and math.isnan(alone.cohen.value)


def test_haste_one_side_and_failed_gold_are_flagged(store):
    store.save_settings(Settings(fast_seconds=1.0))
    golds = [store.add_pair(f"gold {index}", 1, 2, gold="a") for index in range(4)]
    record(store, "hasty", "a" * 20, left_is="a", seconds=0.4, watched=0.1)
    record(store, "calm", "abba" * 5, left_is="a", seconds=4.0, watched=1.0)
    for number, gold in enumerate(golds):
        store.record_vote(gold, "hasty", "overall", "b" if number else "a", left_is="a", seconds=0.4)
        store.record_vote(gold, "calm", "overall", "a", left_is="a", seconds=4.0)
    calm, hasty = sorted(preferences_quality.annotators(store), key=lambda one: one.annotator)
    assert calm.flags == () and calm.gold.value == 1.0 and calm.median_seconds == 4.0
    assert hasty.flags == (
        "too fast: 24 of 24 labels under 1 s", "same side 21 times in a row", "gold pairs: 1 of 4 right"
    )  # fmt: skip
    assert hasty.left.value == pytest.approx(21 / 24) and hasty.watched == 0.1


def test_a_swapped_repeat_is_consistent_when_the_same_video_wins(store):
    record(store, "ann", ["a", "a", "tie", "b"])
    first = store.pairs()
    for pair, choice in zip(first, ["b", "a", "tie", "skip"], strict=False):
        again = store.add_pair(pair.prompt, 2, 1, source="repeat", repeats=pair.id)
        store.record_vote(again, "ann", "overall", choice)
    (ann,) = preferences_quality.annotators(store)
    assert (ann.consistency.n, ann.consistency.value) == (3, pytest.approx(2 / 3))
    assert (ann.num_labels, ann.num_skips) == (7, 1)
