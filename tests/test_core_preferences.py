import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from core import preferences, video
from core.errors import UserError
from core.preferences import Store


@pytest.fixture
def store(clip, tmp_path):
    """A store with four pairs of the same two videos, one label wanted each."""
    return make(clip, tmp_path, num_pairs=4)


def make(clip, folder: Path, num_pairs: int, target_votes: int = 1) -> Store:
    store = Store(folder / "preferences.db")
    for name, frames in (("a", clip), ("b", clip[::-1])):
        video.write(folder / f"{name}.mp4", frames, 8.0)
    a, b = (store.add_video(folder / f"{name}.mp4", model="m", seed=1) for name in "ab")
    with store.transaction():
        for index in range(num_pairs):
            store.add_pair(f"prompt {index}", a, b, target_votes=target_votes)
    return store


class Clock:
    def __init__(self, monkeypatch):
        self.now = 1_000_000.0
        monkeypatch.setattr(preferences.time, "time", lambda: self.now)


def label(store: Store, lease, choice: str) -> None:
    for aspect in store.aspects:
        store.vote(lease.id, aspect, choice)


def test_a_label_given_by_side_is_stored_by_video(store, tmp_path):
    for annotator in ("ann", "bob", "cyd", "dan"):
        lease = store.claim(annotator)
        assert {lease.left, lease.right} == {tmp_path / "a.mp4", tmp_path / "b.mp4"}
        assert (lease.left.stem == "a") == (lease.left_is == "a")
        label(store, lease, "left")
        vote = store.votes("overall")[-1]
        assert (vote.choice, vote.left_is) == (lease.left_is, lease.left_is)
        assert (vote.annotator, vote.prompt, vote.pair_id) == (annotator, lease.prompt, lease.pair_id)
    assert store.claim("eve") is None
    assert len(store.votes()) == 16 and {vote.aspect for vote in store.votes()} == set(preferences.ASPECTS)


def test_sides_are_balanced_over_pairs_and_annotators(clip, tmp_path):
    store = make(clip, tmp_path, num_pairs=200)
    sides: Counter[str] = Counter()
    with store.transaction():
        while lease := store.claim("ann"):
            sides[lease.left_is] += 1
            store.vote(lease.id, "overall", "tie")
    assert 75 <= sides["a"] <= 125  # 100 expected, deviation 7


def test_claiming_again_returns_the_same_pair_until_it_is_labelled(store):
    first = store.claim("ann")
    again = store.claim("ann")
    assert (again.id, again.pair_id, again.left) == (first.id, first.pair_id, first.left)
    store.vote(first.id, "motion_quality", "right")
    assert store.claim("ann").id == first.id
    store.vote(first.id, "overall", "right")  # the last aspect closes it
    assert store.claim("ann").pair_id != first.pair_id


def test_a_pair_is_lent_to_no_more_annotators_than_it_needs(clip, tmp_path):
    store = make(clip, tmp_path, num_pairs=1, target_votes=2)
    assert store.claim("ann").pair_id == store.claim("bob").pair_id
    assert store.claim("cyd") is None


def test_an_expired_lease_takes_no_vote_and_gives_its_pair_back(clip, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    store = make(clip, tmp_path, num_pairs=1)
    lease = store.claim("ann", ttl_seconds=60)
    clock.now += 59
    assert store.claim("bob") is None
    clock.now += 1
    with pytest.raises(UserError, match="expired"):
        store.vote(lease.id, "overall", "left")
    assert store.votes() == []
    other = store.claim("bob")
    assert other.pair_id == lease.pair_id
    with pytest.raises(UserError, match="expired"):
        store.vote(lease.id, "overall", "left")
    store.vote(other.id, "overall", "left")


def test_claiming_again_renews_the_lease(clip, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    store = make(clip, tmp_path, num_pairs=1)
    lease = store.claim("ann", ttl_seconds=60)
    clock.now += 50
    store.claim("ann", ttl_seconds=60)
    clock.now += 50
    store.vote(lease.id, "overall", "left")


def test_a_vote_sent_twice_counts_once_and_a_changed_mind_replaces_it(store):
    lease = store.claim("ann")
    assert store.vote(lease.id, "motion_quality", "left") == store.vote(lease.id, "motion_quality", "left")
    store.vote(lease.id, "motion_quality", "tie")
    assert [vote.choice for vote in store.votes()] == ["tie"]
    closing = store.vote(lease.id, "overall", "tie")
    assert store.vote(lease.id, "overall", "tie") == closing
    with pytest.raises(UserError, match="voted"):
        store.vote(lease.id, "overall", "left")
    assert [vote.choice for vote in store.votes("overall")] == ["tie"]


def test_undo_supersedes_and_lends_the_same_pair_the_same_way(store):
    first = store.claim("ann")
    label(store, first, "left")
    second = store.claim("ann")
    label(store, second, "right")
    store.claim("ann")  # the next pair is already on screen
    undone = store.undo("ann")
    assert (undone.id, undone.pair_id, undone.left) == (second.id, second.pair_id, second.left)
    assert {vote.pair_id for vote in store.votes()} == {first.pair_id}
    assert store.claim("ann").id == second.id
    label(store, undone, "tie")
    assert [vote.choice for vote in store.votes() if vote.pair_id == second.pair_id] == ["tie"] * 4
    rows = sqlite3.connect(store.path).execute("SELECT count(*) FROM vote").fetchone()[0]
    assert rows == 4 + 3 * 4  # nothing was deleted: given, withdrawn, given again


def test_undo_goes_back_label_by_label_and_then_stops(store):
    leases = []
    for _ in range(3):
        leases.append(store.claim("ann"))
        label(store, leases[-1], "left")
    label(store, store.claim("bob"), "left")
    assert [store.undo("ann").id for _ in range(3)] == [lease.id for lease in reversed(leases)]
    assert store.undo("ann") is None
    assert {vote.annotator for vote in store.votes()} == {"bob"}
    assert store.stats()["complete_pairs"] == 1


def test_the_file_itself_refuses_changed_and_deleted_votes(store):
    store.vote(store.claim("ann").id, "overall", "left")
    connection = sqlite3.connect(store.path)
    for statement in ("UPDATE vote SET choice = 'a'", "DELETE FROM vote"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)


def test_a_skipped_pair_goes_to_others_but_not_to_the_same_annotator_again(clip, tmp_path):
    store = make(clip, tmp_path, num_pairs=1)
    store.vote(store.claim("ann").id, "overall", "skip")
    assert store.claim("ann") is None
    assert store.claim("bob") is not None


def test_recorded_votes_are_idempotent_and_contradictions_refused(store):
    pair = store.pairs()[0].id
    assert store.record_vote(pair, "sim", "overall", "a") == store.record_vote(pair, "sim", "overall", "a")
    with pytest.raises(UserError, match="already voted 'a'"):
        store.record_vote(pair, "sim", "overall", "b")
    with pytest.raises(UserError, match="all the labels"):
        store.record_vote(pair, "sim-2", "overall", "b")
    assert [vote.choice for vote in store.votes()] == ["a"]
    assert pair not in {store.claim(name).pair_id for name in ("ann", "bob", "cyd")}


def test_a_failed_transaction_records_nothing(store):
    with pytest.raises(RuntimeError), store.transaction():
        store.record_vote(store.pairs()[0].id, "sim", "overall", "a")
        raise RuntimeError
    assert store.votes() == []


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda store: store.vote(99, "overall", "left"), "lease 99 is unknown"),
        (lambda store: store.vote(store.claim("x").id, "beauty", "left"), "aspect 'beauty'.*known: text_alignment"),
        (lambda store: store.vote(store.claim("x").id, "overall", "a"), "choice 'a'.*known: left"),
        (lambda store: store.record_vote(99, "x", "overall", "a"), "pair 99"),
        (lambda store: store.record_vote(1, "x", "overall", "left"), "choice 'left'"),
        (lambda store: store.claim(" "), "name"),
        (lambda store: store.add_pair("p", 1, 1), "two different"),
        (lambda store: store.add_pair("p", 1, 99), "not in the store"),
        (lambda store: store.add_pair("p", 1, 2, sampling_probability=0.0), "sampling_probability"),
    ],
)
def test_wrong_calls_are_told(store, call, word):
    with pytest.raises(UserError, match=word):
        call(store)


def test_thirty_two_threads_lose_and_double_nothing(clip, tmp_path):
    store = make(clip, tmp_path, num_pairs=60, target_votes=3)
    acknowledged: list[tuple[int, str, str]] = []
    errors: list[BaseException] = []

    def work(annotator: str) -> None:
        # Half the threads share a store object, the others open the file themselves, as two apps on one file do.
        mine = store if int(annotator[1:]) % 2 else Store(store.path)
        try:
            while (lease := mine.claim(annotator)) is not None:
                mine.vote(lease.id, "overall", "left")
                acknowledged.append((lease.pair_id, annotator, lease.left_is))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"w{index}",)) for index in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(acknowledged) == sorted((v.pair_id, v.annotator, v.choice) for v in store.votes())
    assert set(Counter(vote.pair_id for vote in store.votes()).values()) == {3}
    assert len({(vote.pair_id, vote.annotator) for vote in store.votes()}) == 180


def test_a_killed_writer_loses_no_acknowledged_vote(clip, tmp_path):
    store = make(clip, tmp_path, num_pairs=300)
    code = (
        "import sys; from core.preferences import Store; store = Store(sys.argv[1])\n"
        "while lease := store.claim('ann'):\n"
        "    store.vote(lease.id, 'overall', 'left'); print(lease.pair_id, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(store.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(30)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().splitlines() if line]
    process.wait()
    voted = [vote.pair_id for vote in Store(store.path).votes()]
    assert set(acknowledged) <= set(voted) and len(voted) == len(set(voted))
    assert 30 <= len(voted) < 300
    # The pair it held when it died is still lent to it, and goes on.
    lease = store.claim("ann")
    store.vote(lease.id, "overall", "right")


def test_a_store_moves_with_its_folder(clip, tmp_path):
    store = make(clip, tmp_path / "old", num_pairs=1)
    store.record_vote(1, "sim", "overall", "a")
    shutil.move(tmp_path / "old", tmp_path / "new")
    vote = Store(tmp_path / "new/preferences.db").votes()[0]
    assert vote.video_a == tmp_path / "new/a.mp4" and vote.video_a.exists()


def test_a_replaced_video_is_noticed(store, clip, tmp_path):
    assert store.add_video(tmp_path / "a.mp4") == 1
    video.write(tmp_path / "a.mp4", clip * 0.5, 8.0)
    with pytest.raises(UserError, match="sha256"):
        store.add_video(tmp_path / "a.mp4")


def test_adding_a_pair_again_returns_it(store):
    assert store.add_pair("prompt 0", 1, 2) == 1 and len(store.pairs()) == 4
    assert store.add_pair("prompt 0", 2, 1) == 5


def test_stats_count_and_measure_side_bias(clip, tmp_path):
    store = make(clip, tmp_path, num_pairs=4, target_votes=2)
    for annotator in ("ann", "bob"):
        while lease := store.claim(annotator):
            label(store, lease, "left")
    counted = store.stats()
    assert (counted["pairs"], counted["complete_pairs"], counted["votes"], counted["left_share"]) == (4, 4, 32, 1.0)
    assert counted["annotators"] == {"ann": 4, "bob": 4}
    assert sum(counted["choices"]["overall"].values()) == 8


def test_a_newer_store_another_database_and_a_text_file_are_refused(store, tmp_path):
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="version 99 is newer"):
        Store(store.path)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (x)")
    other.close()
    with pytest.raises(UserError, match="no preference store"):
        Store(tmp_path / "other.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to be read as one by mistake " * 20)
    with pytest.raises(UserError, match="text.db"):
        Store(tmp_path / "text.db")


def test_aspects_belong_to_the_store(tmp_path):
    Store(tmp_path / "p.db", aspects=("overall",))
    assert Store(tmp_path / "p.db").aspects == ("overall",)
    with pytest.raises(UserError, match="asked for text"):
        Store(tmp_path / "p.db", aspects=("text",))


def test_a_store_that_cannot_be_written_is_told(store):
    with store.transaction() as connection:
        pass
    connection.execute("PRAGMA query_only = 1")
    with pytest.raises(UserError, match="cannot be written"):
        store.claim("ann")


def test_a_full_disk_is_told_and_records_nothing(store):
    with store.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UserError, match="disk is full"), store.transaction():
        for index in range(1000):
            store.record_vote(1, f"annotator {index}", "motion_quality", "a")
    assert store.votes() == []
