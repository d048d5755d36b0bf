"""What is true of a store in a file: older and newer ones, moved ones, full disks, files replaced or damaged."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core import video
from core.errors import UserError
from core.preferences import Store

# The tables as the first release wrote them.
VERSION_1 = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE video (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL, model TEXT,"
    " seed INTEGER,"
    " fps REAL NOT NULL, num_frames INTEGER NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL)",
    "CREATE TABLE pair (id INTEGER PRIMARY KEY, prompt TEXT NOT NULL,"
    " video_a INTEGER NOT NULL REFERENCES video, video_b INTEGER NOT NULL REFERENCES video,"
    " source TEXT NOT NULL, sampling_probability REAL NOT NULL, target_votes INTEGER NOT NULL,"
    " taken INTEGER NOT NULL DEFAULT 0 CHECK (taken BETWEEN 0 AND target_votes),"
    " rank INTEGER NOT NULL, UNIQUE (prompt, video_a, video_b), CHECK (video_a <> video_b))",
    "CREATE INDEX open_pair ON pair (rank) WHERE taken < target_votes",
    "CREATE TABLE annotator (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created REAL NOT NULL)",
    "CREATE TABLE lease (id INTEGER PRIMARY KEY, pair INTEGER NOT NULL REFERENCES pair,"
    " annotator INTEGER NOT NULL REFERENCES annotator, left_is TEXT NOT NULL CHECK (left_is IN ('a', 'b')),"
    " issued REAL NOT NULL, expires REAL NOT NULL,"
    " state TEXT NOT NULL CHECK (state IN ('active', 'voted', 'expired', 'released')))",
    "CREATE UNIQUE INDEX live_lease ON lease (annotator) WHERE state = 'active'",
    "CREATE INDEX live_lease_of_pair ON lease (pair) WHERE state = 'active'",
    "CREATE INDEX live_lease_expiry ON lease (expires) WHERE state = 'active'",
    "CREATE TABLE vote (id INTEGER PRIMARY KEY, pair INTEGER NOT NULL REFERENCES pair,"
    " annotator INTEGER NOT NULL REFERENCES annotator, aspect TEXT NOT NULL,"
    " choice TEXT NOT NULL CHECK (choice IN ('a', 'b', 'tie', 'both_bad', 'skip', 'withdrawn')),"
    " left_is TEXT CHECK (left_is IN ('a', 'b')), lease INTEGER REFERENCES lease, time REAL NOT NULL,"
    " supersedes INTEGER UNIQUE REFERENCES vote)",
    "CREATE UNIQUE INDEX first_vote ON vote (pair, annotator, aspect) WHERE supersedes IS NULL",
    "CREATE INDEX vote_question ON vote (pair, annotator, aspect)",
    "CREATE INDEX vote_annotator ON vote (annotator)",
    "CREATE INDEX vote_lease ON vote (lease)",
    "CREATE TRIGGER vote_is_never_changed BEFORE UPDATE ON vote"
    " BEGIN SELECT RAISE(ABORT, 'votes are append-only'); END",
    "CREATE TRIGGER vote_is_never_deleted BEFORE DELETE ON vote"
    " BEGIN SELECT RAISE(ABORT, 'votes are append-only'); END",
)


def filled(folder: Path, clip: np.ndarray, num_pairs: int) -> Store:
    store = Store(folder / "preferences.db")
    for name, frames in (("a", clip), ("b", clip[::-1])):
        video.write(folder / f"{name}.mp4", frames, 8.0)
    a, b = (store.add_video(folder / f"{name}.mp4", model="m", seed=1) for name in "ab")
    for index in range(num_pairs):
        store.add_pair(f"prompt {index}", a, b)
    return store


@pytest.fixture
def store(clip, tmp_path):
    return filled(tmp_path, clip, num_pairs=4)


def shape_of(connection):
    """Tables with their columns, indexes and triggers; the order of columns does not matter."""
    names = connection.execute(
        "SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
    ).fetchall()
    columns = {
        name: sorted(row[1:4] + row[5:] for row in connection.execute(f"PRAGMA table_info({name})"))
        for kind, name, _ in names
        if kind == "table"
    }
    return sorted(names), {
        name: [
            (c[0], c[1].upper().replace("REAL", "DOUBLE PRECISION").replace("BIGINT", "INTEGER"), c[2], c[3])
            for c in rows
        ]
        for name, rows in columns.items()
    }


def test_a_store_of_the_first_release_is_brought_up_to_date(tmp_path):
    old = sqlite3.connect(tmp_path / "old.db")
    for statement in VERSION_1:
        old.execute(statement)
    old.executescript(
        "INSERT INTO meta VALUES ('aspects', 'motion,overall');"
        "INSERT INTO video VALUES (1, 'a.mp4', 'x', 'm', 3, 8.0, 9, 48, 32), (2, 'b.mp4', 'y', 'm', 4, 8.0, 9, 48, 32);"
        "INSERT INTO pair VALUES (1, 'p', 1, 2, 'random', 0.5, 2, 2, 77), (2, 'q', 1, 2, 'random', 1.0, 1, 0, 5),"
        " (3, 'p', 2, 1, 'random', 1.0, 1, 0, 6);"
        "INSERT INTO annotator VALUES (1, 'ann', 1.0), (2, 'bob', 2.0);"
        "INSERT INTO lease VALUES (1, 1, 1, 'b', 1.0, 9e9, 'voted'), (2, 1, 2, 'a', 1.0, 9e9, 'active');"
        "INSERT INTO vote VALUES (1, 1, 1, 'overall', 'a', 'b', 1, 5.0, NULL),"
        " (2, 1, 1, 'overall', 'withdrawn', 'b', 1, 6.0, 1), (3, 1, 1, 'overall', 'tie', 'b', 1, 7.0, 2);"
        "PRAGMA user_version = 1;"
    )
    old.close()
    store = Store(tmp_path / "old.db")
    assert (store.project, store.aspects, store.projects()) == ("default", ("motion", "overall"), ["default"])
    (vote,) = store.votes()
    assert (vote.prompt, vote.choice, vote.time, vote.seconds) == ("p", "tie", 7.0, None)
    assert [(pair.id, pair.prompt, pair.sampling_probability, pair.num_labels) for pair in store.pairs()] == [
        (1, "p", 0.5, 2), (2, "q", 1.0, 0), (3, "p", 1.0, 0)
    ]  # fmt: skip
    assert store.claim("bob").id == 2  # what was on a screen still is
    store.vote(2, "overall", "left")
    assert store.undo("ann").id == 1
    new = Store(tmp_path / "new.db", aspects=("motion", "overall"))
    with store.snapshot() as migrated, new.snapshot() as fresh:
        assert shape_of(migrated) == shape_of(fresh)
        assert migrated.execute("PRAGMA foreign_key_check").fetchall() == []
    assert Store(tmp_path / "old.db").votes() == store.votes()


def test_a_video_is_measured_and_proven_when_it_is_added(clip, tmp_path):
    store = Store(tmp_path / "p.db")
    video.write(tmp_path / "still.mp4", np.repeat(clip[:1], 9, axis=0), 8.0)
    video.write(tmp_path / "moving.mp4", clip, 8.0)
    for name in ("still", "moving"):
        store.add_video(tmp_path / f"{name}.mp4")
    with store.snapshot() as connection:
        still, moving = (row[0] for row in connection.execute("SELECT motion FROM video ORDER BY id").fetchall())
    assert still < 1e-3 < 5e-3 < moving
    video.write(tmp_path / "one.mp4", clip[:1], 8.0)
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = (tmp_path / "moving.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    for name, word in (("one", "one frame"), ("empty", "video"), ("cut", "video|decoding"), ("text", "video")):
        with pytest.raises(UserError, match=word):
            store.add_video(tmp_path / f"{name}.mp4")


def test_the_file_itself_refuses_changed_and_deleted_votes(store):
    store.vote(store.claim("ann").id, "overall", "left")
    connection = sqlite3.connect(store.path)
    for statement in ("UPDATE vote SET choice = 'a'", "DELETE FROM vote"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)


def test_a_store_moves_with_its_folder(clip, tmp_path):
    store = filled(tmp_path / "old", clip, num_pairs=1)
    store.record_vote(1, "sim", "overall", "a")
    shutil.move(tmp_path / "old", tmp_path / "new")
    vote = Store(tmp_path / "new/preferences.db").votes()[0]
    assert vote.video_a == tmp_path / "new/a.mp4" and vote.video_a.exists()


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
    for text in ("x", "not a database, but long enough to be read as one by mistake " * 20):
        (tmp_path / "text.db").write_text(text)
        with pytest.raises(UserError, match="text.db: not a preference store"):
            Store(tmp_path / "text.db")
        assert (tmp_path / "text.db").read_text() == text


def test_a_store_opened_twice_keeps_its_log_while_another_process_comes_and_goes(store, tmp_path):
    """Whoever thinks to be the last one out deletes the log, with the votes that are only there."""
    Store(tmp_path / "preferences.db")
    look = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); list(c.execute('SELECT 1 FROM vote')); c.close()"
    subprocess.run([sys.executable, "-c", look, str(tmp_path / "preferences.db")], check=True)
    assert (tmp_path / "preferences.db-wal").exists()


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


def test_a_full_disk_fails_labels_that_share_a_commit(store):
    lease = store.claim("ann")
    with store.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(UserError, match="disk is full"):
        store.label(lease.id, "ann", {"overall": "left"}, comment="x" * 1_000_000)
    assert store.votes() == []
    store.label(lease.id, "ann", {"overall": "left"})
    assert len(store.votes()) == 1
