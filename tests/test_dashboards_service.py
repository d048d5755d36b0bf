"""The labeling flow against a real store."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from core import video
from core.errors import UserError
from core.preferences import Store
from dashboards import service

LEFT = {"overall": "left"}


@pytest.fixture
def store(tmp_path: Path, clip: NDArray[np.float32]) -> Store:
    """Four pairs of one vote each."""
    store = Store(tmp_path / "preferences.db")
    for index in range(4):
        ids = []
        for name in "ab":
            path = tmp_path / f"{index}-{name}.mp4"
            video.write(path, clip[: 3 + index], 8.0)
            ids.append(store.add_video(path, model=f"model-{name}"))
        store.add_pair(f"prompt {index}", *ids)
    return store


def shown(store: Store, annotator: str) -> service.Task:
    task = service.current(store, annotator)
    assert task is not None
    return task


def test_asking_again_shows_the_same_pair_the_same_way(store: Store) -> None:
    assert shown(store, "ada") == shown(store, "ada")


def test_an_answer_is_stored_in_terms_of_a_and_b(store: Store) -> None:
    for choice in ("left", "right", "left", "right"):
        task = shown(store, "ada")
        assert service.answer(store, "ada", task.lease, task.pair, {"overall": choice}) is None
        vote = store.votes()[-1]
        chosen = vote.video_a if vote.choice == "a" else vote.video_b
        assert vote.pair_id == task.pair
        assert chosen == (task.left if choice == "left" else task.right)
    assert service.current(store, "ada") is None


def test_optional_aspects_are_stored_with_the_closing_one(store: Store) -> None:
    task = shown(store, "ada")
    answers = {"overall": "tie", "motion_quality": "left"}
    assert service.answer(store, "ada", task.lease, task.pair, answers) is None
    assert {vote.aspect for vote in store.votes()} == {"overall", "motion_quality"}


def test_a_late_answer_does_not_land_on_the_next_pair(store: Store) -> None:
    first = shown(store, "ada")
    assert service.answer(store, "ada", first.lease, first.pair, LEFT) is None
    second = shown(store, "ada")
    refused = service.answer(store, "ada", first.lease, first.pair, {"overall": "right"})
    assert refused is not None and "not recorded" in refused
    assert len(store.votes()) == 1
    assert shown(store, "ada").pair == second.pair


def test_an_answer_with_somebody_elses_lease_is_refused(store: Store) -> None:
    task = shown(store, "ada")
    assert shown(store, "ben").pair != task.pair
    assert service.answer(store, "ben", task.lease, task.pair, LEFT) is not None
    assert store.votes() == []


def test_an_answer_after_a_long_pause_counts_when_the_pair_is_still_free(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LEASE_SECONDS", -1.0)  # over as soon as it is given
    task = shown(store, "ada")
    monkeypatch.setattr(service, "LEASE_SECONDS", 900.0)
    assert service.answer(store, "ada", task.lease, task.pair, LEFT) is None
    vote = store.votes()[-1]
    assert (vote.video_a if vote.choice == "a" else vote.video_b) == task.left


@pytest.mark.parametrize("answers", [None, {}, {"overall": "a"}, {"overall": "left", "price": "left"}, "left"])
def test_malformed_answers_record_nothing(store: Store, answers: object) -> None:
    task = shown(store, "ada")
    assert service.answer(store, "ada", task.lease, task.pair, answers) is not None
    assert store.votes() == []


def test_undo_brings_the_pair_back_and_takes_the_vote_away(store: Store) -> None:
    task = shown(store, "ada")
    service.answer(store, "ada", task.lease, task.pair, LEFT)
    assert service.undo(store, "ada") is None
    assert store.votes() == []
    again = shown(store, "ada")
    assert (again.pair, again.left, again.right) == (task.pair, task.left, task.right)


def test_undo_without_a_vote_says_so(store: Store) -> None:
    assert service.undo(store, "ada") == "Nothing to undo."


def test_progress_counts_what_this_annotator_can_still_do(store: Store) -> None:
    task = shown(store, "ada")
    assert service.progress(store, "ada") == service.Progress(0, 4, None)
    assert service.progress(store, "ben") == service.Progress(0, 3, None)  # ada holds one, each pair wants one vote
    service.answer(store, "ada", task.lease, task.pair, LEFT)
    assert service.progress(store, "ada") == service.Progress(1, 3, None)


def test_pace_is_the_median_time_between_labels(store: Store) -> None:
    for pair, time in zip(store.pairs(), (0.0, 4.0, 10.0, 1000.0), strict=True):
        store.record_vote(pair.id, "ada", "overall", "a", time_given=time)
    assert service.progress(store, "ada").pace_seconds == 5.0  # the long gap is a pause


def test_upcoming_names_the_pairs_that_are_shown_next(store: Store) -> None:
    for _ in range(3):
        task = shown(store, "ada")
        expected = service.upcoming(store, "ada", 1)[0]
        service.answer(store, "ada", task.lease, task.pair, LEFT)
        following = shown(store, "ada")
        assert {following.left, following.right} == set(expected)
    assert service.upcoming(store, "ada", 2) == []


def test_a_task_says_nothing_about_models_or_which_video_is_a(store: Store) -> None:
    assert list(inspect.signature(service.Task).parameters) == ["lease", "pair", "prompt", "left", "right"]


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\x00b"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UserError):
        service.check_name(name)


def test_a_name_is_trimmed() -> None:
    assert service.check_name("  Ada   Lovelace ") == "Ada Lovelace"
