"""Tables of the preference store, one entry per schema version; a store is brought up to date by running what it lacks.

The database itself refuses what must never happen: a changed or deleted vote, two first votes on one question, two
successors of one vote, two live leases of one annotator, more labels on a pair than its target.
"""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
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
    ),
)
