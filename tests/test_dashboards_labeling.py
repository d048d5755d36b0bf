"""What the project page does behind its forms: pairs, uploads, links; and what it does not let in."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from core import videoset
from core.errors import UserError
from core.preferences import Store
from dashboards.labeling import manage

CSV = "path_A,path_B,prompt,VQ,MQ,TA\n"


@pytest.fixture
def store(tmp_path: Path, clip: NDArray[np.float32]) -> Store:
    """An empty store beside two video sets."""
    for model in ("base", "aligned"):
        writer = videoset.Writer(tmp_path / "sets" / model)
        for index in range(3):
            writer.append(clip[: 5 + index + (model == "base")], f"prompt {index}", id=f"v{index}", model=model)
    return Store(tmp_path / "p.db")


def add(store: Store, **changes: object) -> str:
    folders = list(manage.video_sets(store.folder).values())
    asked: dict[str, object] = {"project": "default", "aspects": ["overall"], "count": 100, "target_votes": 2}
    asked |= {"scores": [], "uniform_share": 0.25, "gold": None}
    return manage.add_pairs(store, changes.pop("folders", folders), **asked | changes)  # type: ignore[arg-type]


def test_pairs_go_into_this_project_or_a_new_one(store: Store) -> None:
    assert add(store).startswith("3 of 3 pairs are in default. 3 pairs have videos of different length")
    assert add(store, project="new", count=2).startswith("2 of 3 pairs are in new.")
    assert store.projects() == ["default", "new"] and store.of_project("new").aspects == ("overall",)
    assert [pair.target_votes for pair in store.pairs()] == [2, 2, 2]
    assert store.events()[0][1] == "pairs added"


def test_a_project_that_cannot_be_made_leaves_nothing(store: Store) -> None:
    for changes in (
        {"folders": []},
        {"project": " "},
        {"project": "x", "aspects": []},
        {"uniform_share": 0.1, "scores": [Path("x")]},
    ):
        with pytest.raises(UserError):
            add(store, **changes)
    (store.folder / "sets" / "base" / "videos" / "v2.mp4").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"v2\.mp4"):
        add(store, project="half")
    assert store.projects() == ["default"] and store.pairs() == [] and store.origins() == {}


def test_only_video_sets_under_the_stores_folder_are_offered(
    store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "manifest.jsonl").write_text("")
    (store.folder / "link").symlink_to(elsewhere)
    assert list(manage.video_sets(store.folder)) == ["sets/aligned", "sets/base"]
    (store.folder / "scores.jsonl").write_text("")
    assert manage.score_files(store.folder) == ["scores.jsonl"]


def test_uploaded_labels_are_imported_or_refused_by_content(store: Store) -> None:
    good = CSV + "sets/base/videos/v0.mp4,sets/aligned/videos/v0.mp4,prompt 0,A,B,same\n"
    assert manage.import_bytes(store, "labels.csv", good.encode(), "Ada") == "3 votes of labels.csv are in default."
    assert {vote.annotator for vote in store.votes()} == {"Ada"}
    before = store.votes()
    evil = CSV + "../../../etc/passwd,sets/aligned/videos/v0.mp4,p,A,A,A\n"
    for name, data, word in (
        ("a.csv", b"\x00\x01\xff\xfe" * 100, "not readable as CSV|columns"),
        ("a.jsonl", b"\x89PNG\r\n\x1a\n", "not UTF-8|not JSON|no rows"),
        ("a.jsonl", b"[1, 2]\n", "JSON object"),
        ("a.parquet", good.encode(), "parquet"),
        ("a.csv", b"who,what\nx,y\n", "columns what, who are of no known form"),
        ("a.csv", evil.encode(), "row 1: path_A .* outside the project's folder"),
        ("a.mp4", b"x", "suffix names the format"),
        ("a.csv", b"x" * (manage.MAX_UPLOAD + 1), "at most"),
    ):
        with pytest.raises(UserError, match=word) as refused:
            manage.import_bytes(store, name, data, "Ada")
        assert str(refused.value).startswith(name)
    assert store.votes() == before


def test_a_link_holds_name_token_and_project_whatever_they_are(store: Store) -> None:
    link = manage.link("http://host:8501/project?project=x", "Ada & Co", "t=k", "a/b")
    assert link == "http://host:8501/#annotator=Ada+%26+Co&token=t%3Dk&project=a%2Fb"
