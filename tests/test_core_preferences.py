"""The store's promises, on a file and on a Postgres server where there is one."""

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import postgres_server
import pytest

from core import preferences, preferences_people, preferences_quality, preferences_queue, video
from core.errors import UserError
from core.preferences import Settings, Store


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with postgres_server.running() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def address(request, tmp_path):
    """Where a new store goes."""
    if request.param == "sqlite":
        return str(tmp_path / "preferences.db")
    return postgres_server.new_database(request.getfixturevalue("server"), 1)


@pytest.fixture
def make(address, clip, tmp_path):
    """Makes a store with pairs of the same two videos."""

    def make(num_pairs: int, target_votes: int = 1) -> Store:
        store = Store(address, folder=tmp_path)
        for name, frames in (("a", clip), ("b", clip[::-1])):
            video.write(tmp_path / f"{name}.mp4", frames, 8.0)
        a, b = (store.add_video(tmp_path / f"{name}.mp4", model="m", seed=1) for name in "ab")
        with store.transaction():
            for index in range(num_pairs):
                store.add_pair(f"prompt {index}", a, b, target_votes=target_votes)
        return store

    return make


@pytest.fixture
def store(make):
    """A store with four pairs of the same two videos, one label wanted each."""
    return make(num_pairs=4)


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


def test_sides_are_balanced_over_pairs_and_annotators(make):
    store = make(num_pairs=200)
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


def test_a_pair_is_lent_to_no_more_annotators_than_it_needs(make):
    store = make(num_pairs=1, target_votes=2)
    assert store.claim("ann").pair_id == store.claim("bob").pair_id
    assert store.claim("cyd") is None


def test_an_expired_lease_takes_no_vote_and_gives_its_pair_back(make, monkeypatch):
    clock = Clock(monkeypatch)
    store = make(num_pairs=1)
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


def test_claiming_again_renews_the_lease(make, monkeypatch):
    clock = Clock(monkeypatch)
    store = make(num_pairs=1)
    lease = store.claim("ann", ttl_seconds=60)
    clock.now += 50
    assert store.claim("ann", ttl_seconds=60).id == lease.id
    clock.now += 50
    store.vote(lease.id, "overall", "left")
    assert [vote.annotator for vote in store.votes()] == ["ann"]


def test_a_vote_sent_twice_counts_once_and_a_changed_mind_replaces_it(store):
    lease = store.claim("ann")
    assert store.vote(lease.id, "motion_quality", "left") == store.vote(lease.id, "motion_quality", "left")
    store.vote(lease.id, "motion_quality", "tie")
    assert [vote.choice for vote in store.votes()] == ["tie"]
    closing = store.vote(lease.id, "overall", "tie")
    assert store.vote(lease.id, "overall", "tie") == closing
    with pytest.raises(UserError, match="has another answer already"):
        store.vote(lease.id, "overall", "left")
    assert [vote.choice for vote in store.votes("overall")] == ["tie"]


def test_undo_goes_back_label_by_label_and_then_stops(store):
    leases = []
    for _ in range(3):
        leases.append(store.claim("ann"))
        label(store, leases[-1], "left")
    label(store, store.claim("bob"), "left")
    assert [store.undo("ann").id for _ in range(3)] == [lease.id for lease in reversed(leases)]
    assert store.undo("ann") is None
    assert {vote.annotator for vote in store.votes()} == {"bob"}
    assert preferences_quality.summary(store)["complete_pairs"] == 1


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
    with store.snapshot() as connection:
        rows = connection.execute("SELECT count(*) FROM vote").fetchone()[0]
    assert rows == 4 + 3 * 4  # nothing was deleted: given, withdrawn, given again


def test_a_queue_is_lent_ahead_and_keeps_its_order(make):
    store = make(num_pairs=5)
    first = store.queue("ann", 3)
    assert [lease.id for lease in store.queue("ann", 3)] == [lease.id for lease in first]
    assert len({lease.pair_id for lease in first}) == 3
    assert not {lease.pair_id for lease in store.queue("bob", 3)} & {lease.pair_id for lease in first}
    store.vote(first[0].id, "overall", "left")
    assert [lease.id for lease in store.queue("ann", 3)] == [first[1].id, first[2].id]  # bob holds the rest
    store.undo("ann")
    assert store.claim("ann").id == first[0].id
    assert store.remaining("ann") == 3 and store.remaining("bob") == 2


def test_a_label_is_all_or_nothing_and_belongs_to_its_annotator(store):
    lease = store.claim("ann")
    facts = {"seconds": 2.5, "watched": 0.9, "comment": "<b>blurred</b>"}
    with pytest.raises(UserError, match="not given to 'bob'"):
        store.label(lease.id, "bob", {"overall": "left"})
    with pytest.raises(UserError, match="overall is missing"):
        store.label(lease.id, "ann", {"motion_quality": "left"})
    assert store.votes() == []
    store.label(lease.id, "ann", {"motion_quality": "tie", "overall": "left"}, **facts)
    store.label(lease.id, "ann", {"motion_quality": "tie", "overall": "left"}, **facts)  # a browser that sends twice
    motion, overall = store.votes()
    assert (motion.choice, overall.choice) == ("tie", lease.left_is)
    assert (overall.seconds, overall.watched, overall.comment) == (2.5, 0.9, "<b>blurred</b>")


def test_a_late_label_counts_while_its_pair_is_free(make, monkeypatch):
    clock = Clock(monkeypatch)
    store = make(num_pairs=1)
    lease = store.claim("ann", ttl_seconds=60)
    clock.now += 100
    store.claim("bob", ttl_seconds=60)
    with pytest.raises(UserError, match="somebody else"):
        store.label(lease.id, "ann", {"overall": "left"})
    clock.now += 100
    store.label(lease.id, "ann", {"overall": "left"})
    assert [vote.annotator for vote in store.votes()] == ["ann"]


def test_gold_pairs_reach_everybody_and_stay_out_of_the_labels(make, monkeypatch):
    store = make(num_pairs=40)
    for index in range(3):
        store.add_pair(f"gold {index}", 1, 2, gold="a")
    store.save_settings(Settings(gold_share=0.4))
    for annotator in ("ann", "bob"):
        for _ in range(15):
            store.label(store.claim(annotator).id, annotator, {"overall": "left"})
    checks = store.votes(checks=True)
    assert Counter(vote.annotator for vote in checks) == {"ann": 3, "bob": 3}
    assert len(store.votes()) == 24 and not [vote for vote in store.votes() if vote.prompt.startswith("gold")]
    assert len(store.pairs()) == 40 and [pair.gold for pair in store.pairs(checks=True)] == ["a"] * 3


def test_a_pair_that_is_there_both_ways_keeps_no_other_from_being_repeated(make):
    store = make(num_pairs=30)
    store.save_settings(Settings(gold_share=0.0, repeat_share=0.5))
    first = store.claim("ann").pair_id
    prompt = next(pair.prompt for pair in store.pairs() if pair.id == first)
    store.add_pair(prompt, 2, 1)  # the other way round, to be labelled
    while (lease := store.claim("ann")) is not None:
        label(store, lease, "left")
    repeated = [pair.repeats for pair in store.pairs(checks=True)]
    assert len(repeated) >= 5 and first not in repeated


def test_a_repeat_shows_an_earlier_pair_with_its_sides_swapped(make):
    store = make(num_pairs=60)
    store.save_settings(Settings(gold_share=0.0, repeat_share=0.5))
    shown = {}
    while (lease := store.claim("ann")) is not None:
        shown[lease.pair_id] = lease
        store.label(lease.id, "ann", {"overall": "left"})
    repeats = store.pairs(checks=True)
    assert len(repeats) >= 10
    for pair in repeats:
        assert (shown[pair.id].left, shown[pair.id].right) == (shown[pair.repeats].right, shown[pair.repeats].left)
    order = list(shown)
    assert min(order.index(pair.id) - order.index(pair.repeats) for pair in repeats) > preferences_queue.REPEAT_DISTANCE
    assert len(store.votes()) == 60  # the labels themselves are not counted twice


def test_a_lease_that_ends_while_another_project_is_labelled_leaves_its_pair_the_labels_it_has(make, monkeypatch):
    clock = Clock(monkeypatch)
    store = make(num_pairs=1)
    other = store.add_project("other", aspects=("text",))
    pair = other.add_pair("prompt", 1, 2, target_votes=2)
    other.record_vote(pair, "bob", "text", "a")
    other.claim("ann", ttl_seconds=60)
    clock.now += 61
    store.claim("cyd")
    assert other.num_labels(pair) >= 1


def test_projects_keep_apart(make, tmp_path, address):
    store = make(num_pairs=2)
    other = store.add_project("faces", ("overall",), Settings(gold_share=0.1))
    other.add_pair("a face", 1, 2)
    assert store.projects() == ["default", "faces"] and len(store.pairs()) == 2
    assert other.claim("ann").prompt == "a face" and other.remaining("ann") == 1
    assert store.claim("ann").prompt != "a face"
    again = Store(address, project="faces", folder=tmp_path)
    assert again.aspects == ("overall",) and again.settings.gold_share == 0.1 and again.votes() == []
    with pytest.raises(UserError, match="did you mean 'faces'"):
        Store(address, project="face", folder=tmp_path)
    with pytest.raises(UserError, match="exists already"):
        store.add_project("faces", ("overall",))
    with pytest.raises(UserError, match="aspect 'a,b'"):
        store.add_project("x", ("a,b",))


def test_settings_that_a_newer_version_stored_are_left_out(store):
    with store.transaction() as connection:
        connection.execute("UPDATE project SET settings = ?", ('{"gold_share": 0.1, "of_tomorrow": 1}',))
    assert store.of_project("default").settings == Settings(gold_share=0.1)


def test_a_token_lets_its_owner_in_and_nobody_else(store):
    token = preferences_people.invite(store, " Ada  L ", "reviewer")
    ada = preferences_people.enter(store, "Ada L", token, open_to_names=False)
    assert (ada.role, ada.may("annotator"), ada.may("admin")) == ("reviewer", True, False)
    for name, wrong in (("Ada L", "x"), ("Ada L", ""), ("Bob", ""), ("Bob", token)):
        with pytest.raises(UserError, match="do not belong together"):
            preferences_people.enter(store, name, wrong, open_to_names=False)
    with pytest.raises(UserError, match="do not belong together"):  # an open door does not open a named one
        preferences_people.enter(store, "Ada L", "", open_to_names=True)
    assert preferences_people.enter(store, "Bob", "", open_to_names=True).role == "annotator"
    with pytest.raises(UserError, match="do not belong together"):  # a slip in the name makes no new person
        preferences_people.enter(store, "Ada", token, open_to_names=True)
    newer = preferences_people.invite(store, "Ada L", "admin")
    with pytest.raises(UserError, match="do not belong"):
        preferences_people.enter(store, "Ada L", token, open_to_names=True)
    assert preferences_people.enter(store, "Ada L", newer, open_to_names=True).role == "admin"
    assert token not in str(store.events()) and store.events()[0][1:3] == ("invited", "Ada L")
    assert [person.name for person in preferences_people.people(store)] == ["Ada L"]


def test_small_writes_of_many_threads_share_commits_but_not_their_errors(make):
    store = make(num_pairs=64)
    outcomes: dict[int, object] = {}

    def work(number: int) -> None:
        try:
            outcomes[number] = store.claim(" " if number % 3 == 0 else f"w{number}")
        except UserError as error:
            outcomes[number] = str(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(30)]
    with store.transaction():  # they gather behind this one
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert sum(outcome == "an annotator needs a name" for outcome in outcomes.values()) == 10
    assert len({lease.pair_id for lease in outcomes.values() if not isinstance(lease, str)}) == 20


def test_a_skipped_pair_goes_to_others_but_not_to_the_same_annotator_again(make):
    store = make(num_pairs=1)
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


def test_thirty_two_threads_lose_and_double_nothing(make, address, tmp_path):
    store = make(num_pairs=60, target_votes=3)
    acknowledged: list[tuple[int, str, str]] = []
    errors: list[BaseException] = []

    def work(annotator: str) -> None:
        # Half the threads share a store object, the others open the file themselves, as two apps on one file do.
        mine = store if int(annotator[1:]) % 2 else Store(address, folder=tmp_path)
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


def test_a_killed_writer_loses_no_acknowledged_vote(make, address, tmp_path):
    store = make(num_pairs=300)
    code = (
        "import sys; from core.preferences import Store; store = Store(sys.argv[1], folder=sys.argv[2])\n"
        "while lease := store.claim('ann'):\n"
        "    store.vote(lease.id, 'overall', 'left'); print(lease.pair_id, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, address, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(30)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().splitlines() if line]
    process.wait()
    voted = [vote.pair_id for vote in Store(address, folder=tmp_path).votes()]
    assert set(acknowledged) <= set(voted) and len(voted) == len(set(voted))
    assert 30 <= len(voted) < 300
    # The pair it held when it died is still lent to it, and goes on.
    lease = store.claim("ann")
    store.vote(lease.id, "overall", "right")


def test_a_replaced_video_is_noticed(store, clip, tmp_path):
    assert store.add_video(tmp_path / "a.mp4") == 1
    video.write(tmp_path / "a.mp4", clip * 0.5, 8.0)
    with pytest.raises(UserError, match="sha256"):
        store.add_video(tmp_path / "a.mp4")


def test_adding_a_pair_again_returns_it(store):
    assert store.add_pair("prompt 0", 1, 2) == 1 and len(store.pairs()) == 4
    assert store.add_pair("prompt 0", 2, 1) not in {1, 2, 3, 4}


def test_stats_count_and_measure_side_bias(make):
    store = make(num_pairs=4, target_votes=2)
    for annotator in ("ann", "bob"):
        while lease := store.claim(annotator):
            label(store, lease, "left")
    counted = preferences_quality.summary(store)
    assert (counted["pairs"], counted["complete_pairs"], counted["votes"], counted["left_share"]) == (4, 4, 32, 1.0)
    assert counted["annotators"] == {"ann": 4, "bob": 4}
    assert sum(counted["choices"]["overall"].values()) == 8


def test_aspects_belong_to_the_store(tmp_path):
    Store(tmp_path / "p.db", aspects=("overall",))
    assert Store(tmp_path / "p.db").aspects == ("overall",)
    with pytest.raises(UserError, match="asked for text"):
        Store(tmp_path / "p.db", aspects=("text",))


def test_writes_that_cannot_begin_are_refused_and_later_ones_go_on(make, monkeypatch):
    store = make(num_pairs=2)
    backend = store._database.backend
    with monkeypatch.context() as broken:
        broken.setattr(backend, "begin", lambda connection, writing: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.claim("ann")
    assert store.claim("bob") is not None and store.remaining("ann") == 1
    assert [person.name for person in preferences_people.people(store)] == ["bob"]  # nothing is done after its refusal
