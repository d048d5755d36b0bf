"""The labeling flow against a real store."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core import video
from core.preferences import Settings, Store
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
    return service.tasks(store, annotator)[0]


def answered(task: service.Task, answers: object = LEFT, **facts: object) -> dict[str, Any]:
    return {"lease": task.lease, "answers": answers} | facts


def test_asking_again_shows_the_same_pairs_the_same_way(store: Store) -> None:
    assert service.tasks(store, "ada") == service.tasks(store, "ada")
    assert len(service.tasks(store, "ada")) == service.NUM_AHEAD


def test_an_answer_is_stored_in_terms_of_a_and_b(store: Store) -> None:
    for choice in ("left", "right", "left", "right"):
        task = shown(store, "ada")
        assert service.answer(store, "ada", answered(task, {"overall": choice})) is None
        vote = store.votes()[-1]
        chosen = vote.video_a if vote.choice == "a" else vote.video_b
        assert vote.prompt == task.prompt
        assert chosen == (task.left if choice == "left" else task.right)
    assert service.tasks(store, "ada") == []


def test_optional_aspects_are_stored_with_the_closing_one(store: Store) -> None:
    answers = {"overall": "tie", "motion_quality": "left"}
    assert service.answer(store, "ada", answered(shown(store, "ada"), answers)) is None
    assert {vote.aspect for vote in store.votes()} == {"overall", "motion_quality"}


def test_an_answer_that_comes_again_or_late_does_not_land_on_the_next_pair(store: Store) -> None:
    first, second, _ = service.tasks(store, "ada")
    assert service.answer(store, "ada", answered(first)) is None
    refused = service.answer(store, "ada", answered(first, {"overall": "right"}))
    assert refused is not None and "nothing was recorded" in refused
    assert service.answer(store, "ada", answered(first)) is None
    assert [vote.prompt for vote in store.votes()] == [first.prompt]
    assert shown(store, "ada") == second


def test_an_answer_with_somebody_elses_lease_is_refused(store: Store) -> None:
    task = shown(store, "ada")
    assert "was not given to 'ben'" in str(service.answer(store, "ben", answered(task)))
    assert store.votes() == []


def test_an_answer_after_a_long_pause_counts_when_the_pair_is_still_free(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LEASE_SECONDS", -1.0)  # over as soon as it is given
    task = shown(store, "ada")
    monkeypatch.setattr(service, "LEASE_SECONDS", 900.0)
    assert service.answer(store, "ada", answered(task)) is None
    vote = store.votes()[-1]
    assert (vote.video_a if vote.choice == "a" else vote.video_b) == task.left


@pytest.mark.parametrize("answers", [None, {}, {"overall": "a"}, {"overall": "left", "price": "left"}, "left"])
def test_malformed_answers_record_nothing(store: Store, answers: object) -> None:
    assert service.answer(store, "ada", answered(shown(store, "ada"), answers)) is not None
    assert service.answer(store, "ada", {"lease": "1", "answers": LEFT}) is not None
    assert store.votes() == []


def test_facts_from_the_browser_are_kept_within_reason(store: Store) -> None:
    facts = {"seconds": 1e12, "watched": -3, "comment": "  <script>x</script>  " + "y" * 1000}
    assert service.answer(store, "ada", answered(shown(store, "ada"), **facts)) is None
    (vote,) = store.votes()
    assert (vote.seconds, vote.watched) == (86_400.0, 0.0)
    assert vote.comment is not None and vote.comment.startswith("<script>") and len(vote.comment) == 500
    odd = {"seconds": float("nan"), "watched": "all", "comment": ["x"]}
    assert service.answer(store, "ada", answered(shown(store, "ada"), **odd)) is None
    assert (store.votes()[-1].seconds, store.votes()[-1].watched, store.votes()[-1].comment) == (None, None, None)


def test_numbers_and_letters_that_no_database_holds_neither_stop_the_server_nor_lose_the_answer(store: Store) -> None:
    refused = service.answer(store, "ada", {"lease": 2**70, "answers": LEFT})
    assert refused is not None and "malformed" in refused and store.votes() == []
    odd = {"comment": "half a letter \ud83d, none \0.", "seconds": 10**400, "watched": -(10**400)}
    assert service.answer(store, "ada", answered(shown(store, "ada"), **odd)) is None
    (vote,) = store.votes()
    assert (vote.comment, vote.seconds, vote.watched) == ("half a letter ?, none .", None, None)
    assert service.undo(store, "ada", 2**70) is None and len(store.votes()) == 1


def test_what_was_not_watched_cannot_be_judged_but_can_be_skipped(store: Store) -> None:
    store.save_settings(Settings(min_watched=0.5))
    task = shown(store, "ada")
    assert "watched to 50%" in str(service.answer(store, "ada", answered(task, watched=0.2)))
    assert "watched" in str(service.answer(store, "ada", answered(task)))
    assert service.answer(store, "ada", answered(task, watched=0.5)) is None
    skipped = answered(shown(store, "ada"), {"overall": "skip"}, watched=0.0, comment="a video is broken")
    assert service.answer(store, "ada", skipped) is None
    assert store.votes()[-1].comment == "a video is broken"


def test_actions_are_done_once_and_in_order(store: Store) -> None:
    first, second, third = service.tasks(store, "ada")
    actions = [
        {"id": 1} | answered(first),
        {"id": 2} | answered(second),
        {"id": 3, "undo": second.lease},
        {"id": 4} | answered(second, {"overall": "tie"}),
    ]
    assert service.act(store, "ada", actions, 0) == (4, None)
    before = store.votes()
    assert service.act(store, "ada", actions, 4) == (4, None)  # the reply was lost, the message comes again
    assert store.votes() == before
    assert service.act(store, "ada", actions, 0)[0] == 4  # a new session does not know what was done; same outcome
    assert [(vote.prompt, vote.choice) for vote in store.votes()] == [(vote.prompt, vote.choice) for vote in before]
    assert before[1].choice == "tie"
    assert shown(store, "ada").lease == third.lease
    assert service.act(store, "ada", "rubbish", 4) == (4, None)
    assert service.act(store, "ada", [None, {"id": "5"}, {"id": 5, "undo": None}, {"id": 6}], 4)[0] == 6


def test_undo_brings_the_pair_back_and_takes_the_vote_away(store: Store) -> None:
    task = shown(store, "ada")
    service.answer(store, "ada", answered(task))
    assert service.undo(store, "ada", task.lease) is None
    assert store.votes() == []
    assert shown(store, "ada") == task


def test_two_apps_on_one_store_lend_no_pair_twice_and_see_each_others_labels(store: Store) -> None:
    other = Store(store.path)
    ada, ben = service.tasks(store, "ada"), service.tasks(other, "ben")
    assert len({task.prompt for task in ada + ben}) == len(ada + ben) == 4
    assert service.answer(store, "ada", answered(ada[0])) is None
    assert service.tasks(other, "ada") == ada[1:]  # her browser came back by the other app
    assert service.undo(other, "ada", ada[0].lease) is None
    assert service.tasks(store, "ada") == ada and store.votes() == other.votes() == []


def test_undo_without_a_vote_says_so(store: Store) -> None:
    assert service.undo(store, "ada", None) == "Nothing to undo."


def test_progress_counts_what_this_annotator_can_still_do(store: Store) -> None:
    task = shown(store, "ada")
    assert service.progress(store, "ada") == service.Progress(0, 4, None)
    assert service.progress(store, "ben") == service.Progress(0, 1, None)  # ada holds three, each pair wants one vote
    service.answer(store, "ada", answered(task))
    assert service.progress(store, "ada") == service.Progress(1, 3, None)


def test_pace_is_the_median_time_between_labels(store: Store) -> None:
    for pair, time in zip(store.pairs(), (0.0, 4.0, 10.0, 1000.0), strict=True):
        store.record_vote(pair.id, "ada", "overall", "a", time_given=time)
    assert service.progress(store, "ada").pace_seconds == 5.0  # the long gap is a pause


def test_a_task_says_nothing_about_models_sides_or_checks(store: Store) -> None:
    names = ["lease", "prompt", "left", "right", "left_sha256", "right_sha256"]
    assert list(inspect.signature(service.Task).parameters) == names
