import contextlib
import csv
import json
import sqlite3

import pytest
from numpy.random import default_rng

from core import preferences_io, video
from core.errors import UserError
from core.preferences import CHOICES, Store


@pytest.fixture
def labelled(clip, tmp_path) -> Store:
    """Three pairs, five annotators, every aspect, every choice."""
    store = Store(tmp_path / "preferences.db")
    videos = []
    for index in range(4):
        video.write(tmp_path / f"set/v{index}.mp4", clip * (1 - index / 8), 8.0)
        videos.append(store.add_video(tmp_path / f"set/v{index}.mp4", model=f"m{index % 2}", seed=index))
    rng = default_rng(0)
    for index in range(3):
        prompt = f'a "ball", {index}'
        pair = store.add_pair(
            prompt, videos[index + 1], videos[index], sampling_probability=0.25, source="s", target_votes=5
        )
        for annotator in range(5):
            for aspect in store.aspects:
                choice = str(rng.choice(CHOICES))
                store.record_vote(
                    pair, f"n{annotator}", aspect, choice, left_is="ab"[annotator % 2], time_given=annotator
                )
    return store


@pytest.mark.parametrize(
    ("suffix", "form"),
    [("jsonl", "votes"), ("parquet", "votes"), ("jsonl", "preference"), ("parquet", "preference"), ("csv", None)],
)
def test_every_form_comes_back_the_same(labelled, tmp_path, suffix, form):
    exported = tmp_path / f"one.{suffix}"
    num_rows = preferences_io.export_(labelled, exported, form)
    copy = Store(tmp_path / "copy.db")
    preferences_io.import_(copy, exported)
    again = tmp_path / f"two.{suffix}"
    assert preferences_io.export_(copy, again, form) == num_rows
    assert preferences_io.read(again) == preferences_io.read(exported)
    before = copy.votes(), copy.pairs()
    preferences_io.import_(copy, exported)
    assert (copy.votes(), copy.pairs()) == before


def test_raw_votes_come_back_as_the_same_votes(labelled, tmp_path):
    preferences_io.export_(labelled, tmp_path / "votes.jsonl")
    copy = Store(tmp_path / "copy.db")
    preferences_io.import_(copy, tmp_path / "votes.jsonl")
    assert copy.votes() == labelled.votes()
    assert copy.pairs() == labelled.pairs()
    assert copy.origins() == labelled.origins()


def test_checks_of_annotators_come_back_as_checks(labelled, tmp_path):
    first = labelled.pairs()[0]
    a, b = (labelled.add_video(path) for path in (first.video_a, first.video_b))
    gold = labelled.add_pair("g", a, b, gold="b")
    repeat = labelled.add_pair(first.prompt, b, a, source="repeat", repeats=first.id)
    for pair in (gold, repeat):
        labelled.record_vote(pair, "n0", "overall", "b", seconds=2.0, watched=1.0, comment="=1+1")
    preferences_io.export_(labelled, tmp_path / "votes.parquet")
    copy = Store(tmp_path / "copy.db")
    preferences_io.import_(copy, tmp_path / "votes.parquet")
    assert copy.votes(checks=True) == labelled.votes(checks=True) and copy.votes() == labelled.votes()
    assert copy.pairs(checks=True) == labelled.pairs(checks=True)
    preferences_io.export_(labelled, tmp_path / "form.jsonl", "preference")
    assert '"g"' not in (tmp_path / "form.jsonl").read_text()  # a check says nothing about videos


def test_mixed_prefixes_are_one_file_and_outside_paths_can_be_refused(labelled, tmp_path):
    rows = "set/v0.mp4,./set/v1.mp4,p,A,B,same\n./set/v0.mp4,set/../set/v1.mp4,p,A,B,same\n"
    (tmp_path / "mixed.csv").write_text("path_A,path_B,prompt,VQ,MQ,TA\n" + rows)
    store = Store(tmp_path / "new.db")
    preferences_io.import_(store, tmp_path / "mixed.csv", inside=tmp_path)
    assert len(store.pairs()) == 1 and len(store.origins()) == 2
    (tmp_path / "set" / "link.mp4").symlink_to("/etc/hostname")
    for path in ("/etc/hostname", "../../etc/hostname", "set/link.mp4"):
        (tmp_path / "evil.csv").write_text(f"path_A,path_B,prompt,VQ,MQ,TA\n{path},set/v1.mp4,p,A,B,A\n")
        with pytest.raises(UserError, match="row 1: path_A .* outside the project's folder"):
            preferences_io.import_(store, tmp_path / "evil.csv", inside=tmp_path)


def test_the_preference_form_counts_ties_half_and_skips_not(labelled, tmp_path):
    store = Store(tmp_path / "small.db")
    a, b = (store.add_video(tmp_path / f"set/v{index}.mp4") for index in range(2))
    pair = store.add_pair("p", a, b, target_votes=9)
    for annotator, choice in enumerate(["b", "b", "b", "a", "tie", "both_bad", "skip"]):
        store.record_vote(pair, f"n{annotator}", "overall", choice)
    preferences_io.export_(store, tmp_path / "out.jsonl", "preference")
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row == {
        "prompt": "p",
        "chosen": "set/v1.mp4",
        "rejected": "set/v0.mp4",
        "aspect": "overall",
        "margin": pytest.approx(2 / 6),
        "n_votes": 6,
        "p_chosen": pytest.approx(4 / 6),
    }


def test_videoalign_rows_are_majorities(labelled, tmp_path):
    store = Store(tmp_path / "small.db")
    a, b = (store.add_video(tmp_path / f"set/v{index}.mp4") for index in range(2))
    pair = store.add_pair("p", a, b, target_votes=9)
    for annotator, choices in enumerate([("a", "a"), ("a", "b"), ("b", "skip")]):
        for aspect, choice in zip(("visual_quality", "motion_quality"), choices, strict=True):
            store.record_vote(pair, f"n{annotator}", aspect, choice)
    preferences_io.export_(store, tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert rows == [
        {"path_A": "set/v0.mp4", "path_B": "set/v1.mp4", "prompt": "p", "VQ": "A", "MQ": "same", "TA": "invalid"}
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("path_A,path_B,prompt,VQ,MQ\nset/v0.mp4,set/v1.mp4,p,A,B\n", "columns"),
        (
            "path_A,path_B,prompt,VQ,MQ,TA\nset/v0.mp4,set/v1.mp4,p,A,B,same\nset/v0.mp4,set/v2.mp4,p,A,B,C\n",
            "row 2: TA",
        ),
        ("path_A,path_B,prompt,VQ,MQ,TA\nset/v0.mp4,set/v1.mp4,p,A,B,same\nset/gone.mp4,set/v1.mp4,p,A,B,A\n", "gone"),
        ("path_A,path_B,prompt,VQ,MQ,TA\nset/v0.mp4,set/v0.mp4,p,A,B,same\n", "row 1"),
        ("path_A,path_B,prompt,VQ,MQ,TA\nset/v0.mp4,set/v1.mp4\n", "row 1: prompt is None; text is expected"),
        ("path_A,path_B,prompt,VQ,MQ,TA\nset/v0.mp4\n", "row 1: path_B is None; a path is expected"),
        ("path_A,path_B,prompt,VQ,MQ,TA\nset/v0.mp4,set/v1.mp4,a ball, red,A,B,same\n", "row 1 has more cells"),
        ("path_A,path_B,prompt,VQ,MQ,TA\n", "no rows"),
    ],
)
def test_a_bad_csv_imports_nothing_and_is_told(labelled, tmp_path, text, word):
    (tmp_path / "bad.csv").write_text(text)
    store = Store(tmp_path / "empty.db")
    with pytest.raises(UserError, match=word):
        preferences_io.import_(store, tmp_path / "bad.csv")
    assert store.votes() == [] and store.pairs() == []


@pytest.mark.parametrize(
    "broken",
    [
        {"prompt": 3},
        {"chosen": None},
        {"n_votes": "many"},
        {"n_votes": 10**9},
        {"n_votes": 0},
        {"n_votes": 1.5},
        {"p_chosen": 0.1},
    ],
)
def test_a_bad_preference_row_is_told(labelled, tmp_path, broken):
    row = {"prompt": "p", "chosen": "set/v0.mp4", "rejected": "set/v1.mp4"}
    row |= {"aspect": "overall", "n_votes": 1, "p_chosen": 1.0} | broken
    (tmp_path / "bad.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="row 1"):
        preferences_io.import_(Store(tmp_path / "empty.db"), tmp_path / "bad.jsonl")


def test_a_file_that_ends_within_a_vote_is_told_and_nothing_of_it_is_kept(labelled, tmp_path):
    num_votes = preferences_io.export_(labelled, tmp_path / "votes.jsonl")
    whole = (tmp_path / "votes.jsonl").read_bytes()
    (tmp_path / "votes.jsonl").write_bytes(whole[:-20])  # as a download that stopped
    store = Store(tmp_path / "empty.db")
    with pytest.raises(UserError, match=rf"votes\.jsonl:{num_votes}: .*ends in this line, after {num_votes - 1} whole"):
        preferences_io.import_(store, tmp_path / "votes.jsonl")
    assert store.pairs() == []


def test_an_import_reads_each_video_once_however_many_votes_it_has(labelled, tmp_path, monkeypatch):
    preferences_io.export_(labelled, tmp_path / "votes.jsonl")
    read = []
    digest = video.sha256
    monkeypatch.setattr(video, "sha256", lambda path: read.append(path.name) or digest(path))
    store = Store(tmp_path / "copy.db")
    preferences_io.import_(store, tmp_path / "votes.jsonl")
    assert sorted(read) == ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]
    video.write(tmp_path / "set/v0.mp4", video.read(tmp_path / "set/v1.mp4").frames, 8.0)
    with pytest.raises(UserError, match="sha256 differs"):  # a changed file is read again
        preferences_io.import_(store, tmp_path / "votes.jsonl")


def test_nobody_waits_while_an_import_looks_at_its_videos(labelled, tmp_path, monkeypatch):
    preferences_io.export_(labelled, tmp_path / "votes.jsonl")
    store, looked, motion = Store(tmp_path / "copy.db"), [], video.motion

    def seen(path):
        with contextlib.closing(sqlite3.connect(tmp_path / "copy.db", timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # refused where somebody holds the store
            other.execute("ROLLBACK")
        looked.append(path.name)
        return motion(path)

    monkeypatch.setattr(video, "motion", seen)
    preferences_io.import_(store, tmp_path / "votes.jsonl")
    assert sorted(looked) == ["v0.mp4", "v1.mp4", "v2.mp4", "v3.mp4"]


def test_aggregated_votes_do_not_land_on_the_swapped_repeat_of_their_pair(labelled, tmp_path):
    pair = labelled.pairs()[0]
    a, b = labelled.add_video(pair.video_a), labelled.add_video(pair.video_b)
    labelled.add_pair(pair.prompt, b, a, repeats=pair.id)
    row = {"prompt": pair.prompt, "aspect": "overall", "n_votes": 1, "p_chosen": 1.0}
    for chosen, rejected in ((pair.video_a, pair.video_b), (pair.video_b, pair.video_a)):
        (tmp_path / "one.jsonl").write_text(json.dumps(row | {"chosen": str(chosen), "rejected": str(rejected)}))
        preferences_io.import_(labelled, tmp_path / "one.jsonl", chosen.stem)
    given = [(vote.annotator, vote.pair_id, vote.choice) for vote in labelled.votes("overall")][-2:]
    assert given == [(f"{pair.video_a.stem}-1", pair.id, "a"), (f"{pair.video_b.stem}-1", pair.id, "b")]
    assert labelled.votes(checks=True) == []


def test_the_overall_column_of_rewardbench_is_read_where_somebody_said_it(labelled, tmp_path):
    rows = "set/v0.mp4,set/v1.mp4,p,A,B,same,B\r\nset/v0.mp4,set/v2.mp4,p,A,B,same,\r\n"
    (tmp_path / "bench.csv").write_bytes(b"\xef\xbb\xbfpath_A,path_B,prompt,VQ,MQ,TA,Overall\r\n" + rows.encode())
    store = Store(tmp_path / "bench.db")
    assert preferences_io.import_(store, tmp_path / "bench.csv") == 7
    assert [vote.choice for vote in store.votes("overall")] == ["b"]


def test_a_form_that_would_lose_every_vote_is_refused(labelled, tmp_path):
    store = Store(tmp_path / "one.db")
    a, b = (store.add_video(tmp_path / f"set/v{index}.mp4") for index in range(2))
    store.record_vote(store.add_pair("p", a, b), "ann", "overall", "a")
    with pytest.raises(UserError, match="no vote is about these; use another form"):
        preferences_io.export_(store, tmp_path / "one.csv")
    assert not (tmp_path / "one.csv").exists()


def test_raw_votes_come_back_from_a_csv_too(labelled, tmp_path):
    preferences_io.export_(labelled, tmp_path / "votes.csv", "votes")
    copy = Store(tmp_path / "copy.db")
    preferences_io.import_(copy, tmp_path / "votes.csv")
    assert preferences_io.vote_rows(copy, tmp_path) == preferences_io.vote_rows(labelled, tmp_path)


@pytest.mark.parametrize(
    "broken",
    [
        {"prompt": None},
        {"prompt": 3},
        {"annotator": None},
        {"annotator": 7},
        {"aspect": ["overall"]},
        {"left_is": "middle"},
        {"time": "yesterday"},
        {"seconds": "many"},
        {"seed_a": "one"},
        {"seed_a": 2**70},
        {"model_a": {"name": "m"}},
        {"comment": 5},
        {"target_votes": 0.5},
        {"sampling_probability": float("nan")},
        {"gold": "left"},
    ],
)
def test_a_bad_vote_row_is_told_and_nothing_of_its_file_is_kept(labelled, tmp_path, broken):
    row = {"prompt": "p", "video_a": "set/v0.mp4", "video_b": "set/v1.mp4"}
    row |= {"annotator": "ann", "aspect": "overall", "choice": "a"}
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(row | more) + "\n" for more in ({}, broken)))
    store = Store(tmp_path / "empty.db")
    with pytest.raises(UserError, match="row 2"):
        preferences_io.import_(store, tmp_path / "bad.jsonl")
    assert store.votes() == [] and store.pairs() == []


def test_unknown_forms_suffixes_and_empty_stores_are_told(labelled, tmp_path):
    with pytest.raises(UserError, match="did you mean 'preference'"):
        preferences_io.export_(labelled, tmp_path / "a.jsonl", "preferences")
    with pytest.raises(UserError, match="suffix"):
        preferences_io.export_(labelled, tmp_path / "a.xlsx")
    with pytest.raises(UserError, match="no votes"):
        preferences_io.export_(Store(tmp_path / "empty.db"), tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="parquet"):
        preferences_io.import_(labelled, tmp_path / "a.parquet")
