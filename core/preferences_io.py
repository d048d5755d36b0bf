"""Preferences in and out of a store: raw votes, the Hugging Face preference form, VideoAlign's CSV.

Rows are plain dictionaries; the file format (JSONL, parquet, CSV) is a second, separate choice. Paths in a file are
relative to its folder. An import is one transaction: a bad row on line 900 leaves the store as it was. Raw votes come
back exactly; the two aggregated forms come back as the same aggregates, their annotators are gone.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from core import files
from core.errors import UserError
from core.preferences import Pair, Store, Vote
from core.registry import unknown

Row = dict[str, Any]
Recognised = tuple[Iterable[Row], Callable[[Store, Row, str], int]]
VIDEOALIGN = {"VQ": "visual_quality", "MQ": "motion_quality", "TA": "text_alignment"}
OVERALL = "Overall"  # a further column of VideoGen-RewardBench, empty where nobody said; VideoAlign's own has none
PATHS = {"video_a", "video_b", "chosen", "rejected", "path_A", "path_B"}
MOST_VOTES = 10_000  # on one pair and aspect: each becomes a row and an annotator of its own
VIDEOALIGN_CHOICES = {"A": "a", "B": "b", "same": "tie", "invalid": None}


def export_(store: Store, path: Path | str, form: str | None = None, base: Path | None = None) -> int:
    """Write the votes that count to a .jsonl, .parquet or .csv file, whole or not at all.

    Args:
        form: "votes" (raw, one row a vote), "preference" (Hugging Face: one row per pair and aspect) or "videoalign";
            None: "videoalign" for .csv, else "votes".
        base: where video paths start; None: the folder of the file.
    Returns: the number of rows.
    """
    path = Path(path)
    form = form or ("videoalign" if path.suffix == ".csv" else "votes")
    if form not in FORMS:
        raise unknown(form, FORMS, "export form")
    with store.snapshot():  # labeling may go on meanwhile
        rows = FORMS[form](store, base or path.parent)
    if not rows:
        raise UserError(f"{store.name}: no votes to export yet")
    if path.suffix == ".csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        files.atomic_write(path, buffer.getvalue())
    elif path.suffix == ".jsonl":
        files.atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        with files.replacing(path) as temporary:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), temporary)
    else:
        raise UserError(f"{path}: the suffix names the format; known: .csv, .jsonl, .parquet")
    return len(rows)


def import_(store: Store, path: Path | str, annotator: str = "imported", inside: Path | None = None) -> int:
    """Add the votes of a file; its form is told from its columns. Importing a file twice adds nothing.

    Args:
        annotator: who the votes are from where the file does not say (aggregated forms).
        inside: for files that come from strangers: the folder where video paths start, and that none may leave.
    Returns: the number of votes in the file.
    Raises: UserError with file and row for missing columns, unknown values, missing or unreadable videos.
    """
    path = Path(path)
    return import_rows(store, path, recognised(path), annotator, inside)


def import_rows(
    store: Store, path: Path, found: Recognised, annotator: str = "imported", inside: Path | None = None
) -> int:
    """`import_` of a file that was `recognised` already; its rows are gone through once."""
    rows, add = found
    located = []
    for number, row in enumerate(rows, start=1):
        with _blamed(path, number):
            located.append(_located(row, inside or path.parent, inside))
            store.look_at(located[-1][column] for column in PATHS & row.keys())
    with store.transaction():
        count = 0
        for number, row in enumerate(located, start=1):
            with _blamed(path, number):
                count += add(store, row, annotator)
    return count


@contextlib.contextmanager
def _blamed(path: Path, number: int) -> Iterator[None]:
    """Whatever is wrong inside is told of this row."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: row {number}: {error}; nothing was imported") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: row {number}: not usable ({error!r}); nothing was imported") from None


def recognised(path: Path) -> Recognised:
    """The rows of a file and what adds one of its form to a store.

    Raises: UserError when there are none, or their columns are of no form.
    """
    rows = read(path)
    if not rows:
        raise UserError(f"{path}: no rows")
    columns = set(rows[0])
    importers: dict[frozenset[str], Callable[[Store, Row, str], int]] = {
        frozenset(("prompt", "video_a", "video_b", "annotator", "aspect", "choice")): _import_vote,
        frozenset(("prompt", "chosen", "rejected", "aspect", "n_votes", "p_chosen")): _import_preference,
        frozenset(("path_A", "path_B", "prompt", *VIDEOALIGN)): _import_videoalign,
    }
    for needed, importer in importers.items():
        if needed <= columns:
            return rows, importer
    known = "; or ".join(", ".join(sorted(needed)) for needed in importers)
    raise UserError(f"{path}: columns {', '.join(sorted(columns))} are of no known form; needed: {known}")


def read(path: Path) -> list[Row]:
    """The rows of a .jsonl, .csv or .parquet file. Raises: UserError for a missing or unreadable one."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".jsonl":
        return files.read_lines(path, whole=True)
    if path.suffix == ".csv":
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: not readable as CSV ({error})") from None
        for number, row in enumerate(rows, start=1):
            if None in row:  # where DictReader puts what has no column
                raise UserError(f"{path}: row {number} has more cells than the header; put commas in quotes")
        return rows
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(path).to_pylist()
        except pyarrow.ArrowException as error:
            raise UserError(f"{path}: not readable as parquet ({error})") from None
    raise UserError(f"{path}: the suffix names the format; known: .csv, .jsonl, .parquet")


def vote_rows(store: Store, base: Path) -> list[Row]:
    """One row a vote, with all that is needed to rebuild the store elsewhere, those on gold pairs and repeats at the
    end. Paths relative to `base`."""
    pairs = {pair.id: pair for pair in (*store.pairs(), *store.pairs(checks=True))}
    origin = store.origins()
    rows = []
    for vote in (*store.votes(), *store.votes(checks=True)):
        pair = pairs[vote.pair_id]
        (model_a, seed_a), (model_b, seed_b) = origin[pair.video_a], origin[pair.video_b]
        rows.append(
            {
                "prompt": vote.prompt,
                "video_a": _relative(vote.video_a, base),
                "video_b": _relative(vote.video_b, base),
                "annotator": vote.annotator,
                "aspect": vote.aspect,
                "choice": vote.choice,
                "left_is": vote.left_is,
                "time": vote.time,
                "seconds": vote.seconds,
                "watched": vote.watched,
                "comment": vote.comment,
                "source": pair.source,
                "sampling_probability": pair.sampling_probability,
                "target_votes": pair.target_votes,
                "gold": pair.gold,
                "is_repeat": pair.repeats is not None,
                "model_a": model_a,
                "model_b": model_b,
                "seed_a": seed_a,
                "seed_b": seed_b,
            }
        )
    return rows


def preference_rows(store: Store, base: Path) -> list[Row]:
    """One row per pair and aspect in the Hugging Face preference form.

    p_chosen is the share of votes for `chosen`, ties and "both bad" counted half; margin = 2 p_chosen - 1; skips do not
    count. An even split has p_chosen 0.5 and the first path by name as `chosen`.
    """
    rows = []
    for pair, aspect, counts in _tallies(store):
        wins_a, wins_b = counts["a"], counts["b"]
        n = wins_a + wins_b + counts["tie"] + counts["both_bad"]
        if n == 0:
            continue
        # By name when even, so that the row does not depend on which video the store happens to call a.
        a_is_chosen = wins_a > wins_b or (wins_a == wins_b and pair.video_a < pair.video_b)
        chosen, rejected = (pair.video_a, pair.video_b) if a_is_chosen else (pair.video_b, pair.video_a)
        margin = abs(wins_a - wins_b) / n
        row: Row = {"prompt": pair.prompt, "chosen": _relative(chosen, base), "rejected": _relative(rejected, base)}
        rows.append(row | {"aspect": aspect, "margin": margin, "n_votes": n, "p_chosen": (1 + margin) / 2})
    return rows


def videoalign_rows(store: Store, base: Path) -> list[Row]:
    """One row a pair as VideoAlign has it: the majority per aspect, "same" without one, "invalid" where nobody voted.

    Aspects VideoAlign does not know ("overall") are left out. Raises: UserError when all votes are on those.
    """
    rows: dict[int, Row] = {}
    columns = {aspect: column for column, aspect in VIDEOALIGN.items()}
    for pair, aspect, counts in _tallies(store):
        empty: Row = {"path_A": _relative(pair.video_a, base), "path_B": _relative(pair.video_b, base)}
        empty |= {"prompt": pair.prompt} | dict.fromkeys(VIDEOALIGN, "invalid")
        row = rows.setdefault(pair.id, empty)
        counts["tie"] += counts.pop("both_bad", 0)
        counts.pop("skip", 0)
        if aspect in columns and (ranked := counts.most_common(2))[0][1] > 0:
            is_even = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
            row[columns[aspect]] = "same" if is_even else {"a": "A", "b": "B", "tie": "same"}[ranked[0][0]]
    if rows and all(row[column] == "invalid" for row in rows.values() for column in VIDEOALIGN):
        raise UserError(f"VideoAlign's form knows {', '.join(columns)}, and no vote is about these; use another form")
    return list(rows.values())


FORMS: dict[str, Callable[[Store, Path], list[Row]]] = {
    "votes": vote_rows,
    "preference": preference_rows,
    "videoalign": videoalign_rows,
}


def _located(row: Row, base: Path, inside: Path | None) -> Row:
    """The row with full paths. Mixed prefixes (`./videos/`, `videos/`) come out the same."""
    located = dict(row)
    for column in PATHS & row.keys():
        if not isinstance(row[column], str):
            raise UserError(f"{column} is {row[column]!r}; a path is expected")
        full = Path(os.path.abspath(base / row[column]))
        if inside is not None and not Path(os.path.realpath(full)).is_relative_to(os.path.realpath(inside)):
            raise UserError(f"{column} {row[column]!r} lies outside the project's folder")
        located[column] = full
    if not isinstance(row["prompt"], str):
        raise UserError(f"prompt is {row['prompt']!r}; text is expected")
    return located


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _whole(value: Any) -> int:
    if int(value) != float(value) or not -(2**63) <= int(value) < 2**63:
        raise ValueError
    return int(value)


def _side(value: Any) -> str:
    return {"a": "a", "b": "b"}[value]


def _flag(value: Any) -> bool:
    return {"true": True, "false": False}[str(value).lower()]


# Column of a raw vote -> what it holds. A CSV has all of them as text, other people's files anything.
KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("annotator", "aspect", "choice"), ("text", _text)),
    **dict.fromkeys(("comment", "source", "gold", "model_a", "model_b"), ("text or nothing", _text)),
    **dict.fromkeys(("time", "seconds", "watched", "sampling_probability"), ("a number or nothing", _number)),
    **dict.fromkeys(("target_votes", "seed_a", "seed_b"), ("a whole number or nothing", _whole)),
    "left_is": ("a, b or nothing", _side),
    "is_repeat": ("true, false or nothing", _flag),
}


def _typed(row: Row) -> Row:
    """A raw vote with every column of its kind, None where it is empty or left out.

    Raises: UserError for what is of another kind.
    """
    typed = dict(row)
    for column, (kind, convert) in KINDS.items():
        value = row.get(column)
        if value in (None, "") and kind != "text":
            typed[column] = None
            continue
        try:
            typed[column] = convert(value)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(f"{column} is {value!r}; {kind} is expected") from None
    return typed


def _import_vote(store: Store, row: Row, annotator: str) -> int:
    row = _typed(row)
    video_a = store.add_video(row["video_a"], model=row["model_a"], seed=row["seed_a"])
    video_b = store.add_video(row["video_b"], model=row["model_b"], seed=row["seed_b"])
    pair = store.add_pair(
        row["prompt"],
        video_a,
        video_b,
        source=row["source"] or "imported",
        sampling_probability=row["sampling_probability"] or 1.0,
        target_votes=row["target_votes"] or 1,
        gold=row["gold"],
        repeats=store.find_pair(row["prompt"], video_b, video_a) if row["is_repeat"] else None,
    )
    store.record_vote(
        pair,
        row["annotator"],
        row["aspect"],
        row["choice"],
        left_is=row["left_is"],
        time_given=row["time"],
        seconds=row["seconds"],
        watched=row["watched"],
        comment=row["comment"],
        make_room=True,
    )
    return 1


def _import_preference(store: Store, row: Row, annotator: str) -> int:
    """Votes that add up to the row: the fewest ties that its margin allows, each vote by an annotator of its own."""
    chosen, rejected = store.add_video(row["chosen"]), store.add_video(row["rejected"])
    pair, is_swapped = store.find_pair(row["prompt"], rejected, chosen), True
    if pair is None:
        pair, is_swapped = store.add_pair(row["prompt"], chosen, rejected, source="imported"), False
    n = _whole(row["n_votes"])
    if not 1 <= n <= MOST_VOTES:
        raise UserError(f"n_votes is {row['n_votes']}; a whole number from 1 to {MOST_VOTES} is expected")
    lead = round((2 * float(row["p_chosen"]) - 1) * n)
    if not 0 <= lead <= n:
        raise UserError(f"p_chosen {row['p_chosen']} with n_votes {n} is impossible; p_chosen lies in [0.5, 1]")
    split, ties = divmod(n - lead, 2)
    choices = ["a"] * (lead + split) + ["b"] * split + ["tie"] * ties
    for number, choice in enumerate(choices, start=1):
        turned = {"a": "b", "b": "a"}.get(choice, choice) if is_swapped else choice
        store.record_vote(pair, f"{annotator}-{number}", row["aspect"], turned, make_room=True)
    return n


def _import_videoalign(store: Store, row: Row, annotator: str) -> int:
    pair = store.add_pair(
        row["prompt"], store.add_video(row["path_A"]), store.add_video(row["path_B"]), source="imported"
    )
    count = 0
    asked = VIDEOALIGN | ({OVERALL: "overall"} if row.get(OVERALL) and "overall" in store.aspects else {})
    for column, aspect in asked.items():
        if row[column] not in VIDEOALIGN_CHOICES:
            raise UserError(f"{column} is {row[column]!r}; known: {', '.join(VIDEOALIGN_CHOICES)}")
        choice = VIDEOALIGN_CHOICES[row[column]]
        if choice is not None:
            store.record_vote(pair, annotator, aspect, choice, make_room=True)
            count += 1
    return count


def _tallies(store: Store) -> Iterable[tuple[Pair, str, Counter[str]]]:
    counts: dict[tuple[int, str], Counter[str]] = {}
    votes: list[Vote] = store.votes()
    for vote in votes:
        counts.setdefault((vote.pair_id, vote.aspect), Counter())[vote.choice] += 1
    pairs = {pair.id: pair for pair in store.pairs()}
    for pair_id, aspect in sorted(counts, key=lambda key: (key[0], store.aspects.index(key[1]))):
        yield pairs[pair_id], aspect, counts[pair_id, aspect]


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path, os.path.abspath(base))).as_posix()
