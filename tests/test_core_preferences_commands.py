"""`soralign preferences`: projects, invitations, gold and active pairs from the command line."""

import json

import pytest

from core import preferences_people, videoset
from core.cli import main
from core.preferences import Store


@pytest.fixture
def sets(clip, tmp_path):
    """Two video sets of the same three prompts, of two models."""
    for model, brightness in (("good", 1.0), ("broken", 0.3)):
        writer = videoset.Writer(tmp_path / model)
        for index in range(3):
            frames = clip[: 9 - 2 * (model == "broken" and index == 0)] * brightness
            writer.append(frames, f"prompt {index}", id=f"v{index}", seed=index, model=model)
    return tmp_path


def test_gold_pairs_know_their_answer_and_unlike_videos_are_said(sets, capsys):
    store = str(sets / "p.db")
    assert main(["preferences", "add", str(sets / "good"), str(sets / "broken"), "--store", store, "--gold", "a"]) == 0
    assert "note: 1 pairs have videos of different length" in capsys.readouterr().out
    pairs = Store(store).pairs(checks=True)
    assert [pair.gold for pair in pairs] == ["a"] * 3 and all(pair.video_a.parts[-3] == "good" for pair in pairs)
    assert main(["preferences", "add", str(sets / "good"), str(sets / "broken"), "--store", store, "--gold", "c"]) == 2
    assert "gold answer 'c' is unknown" in capsys.readouterr().err


def test_active_pairs_keep_the_chance_with_which_they_were_drawn(sets, capsys):
    for model in ("good", "broken"):
        row = {"reward": "motion 1", "total": len(model)}
        rows = [{"video": f"{model}/videos/v{n}.mp4", "prompt": f"prompt {n}", **row} for n in range(3)]
        (sets / f"{model}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["preferences", "add", str(sets / "good"), str(sets / "broken"), "--store", str(sets / "p.db")]
    words += ["--num-pairs", "2", "--scores", str(sets / "good.jsonl"), str(sets / "broken.jsonl")]
    assert main([*words, "--uniform-share", "0.1"]) == 2
    assert "uniform share" in capsys.readouterr().err
    assert main(words) == 0
    pairs = Store(sets / "p.db").pairs()
    assert [pair.source for pair in pairs] == ["active"] * 2
    assert all(0.25 * 2 / 3 <= pair.sampling_probability <= 1 for pair in pairs)


def test_projects_and_people(sets, capsys):
    store = str(sets / "p.db")
    words = ["preferences", "project", "faces", "--store", store]
    assert main([*words, "--aspects", "lips", "overall", "--repeat-share", "0.1"]) == 0
    assert main([*words, "--min-watched", "0.5"]) == 0  # changes one rule, keeps the others
    faces = Store(store, project="faces")
    assert faces.aspects == ("lips", "overall")
    assert (faces.settings.repeat_share, faces.settings.min_watched) == (0.1, 0.5)
    assert main([*words, "--aspects", "eyes"]) == 2
    assert main([*words, "--gold-share", "1.5"]) == 2
    assert "make another" in (error := capsys.readouterr().err) and "gold_share must lie" in error
    assert (
        main(["preferences", "add", str(sets / "good"), str(sets / "broken"), "--store", store, "--project", "none"])
        == 2
    )
    assert "project 'none' is unknown" in capsys.readouterr().err

    assert main(["preferences", "invite", "Ada", "--store", store, "--role", "reviewer"]) == 0
    token = capsys.readouterr().out.split()[-1]
    assert preferences_people.enter(faces, "Ada", token, open_to_names=False).role == "reviewer"
    assert main(["preferences", "invite", "Ada", "--store", store, "--role", "king"]) == 2
    assert main(["preferences", "invite", "Ada", "--store", str(sets / "typo.db")]) == 2
    assert "known: annotator, reviewer, admin" in (error := capsys.readouterr().err) and "does not exist" in error


def test_a_file_that_cannot_be_imported_makes_no_store(tmp_path, capsys):
    (tmp_path / "notes.csv").write_text("day,weather\nMonday,rain\n")
    for name, word in (("gone.jsonl", "no such file"), ("notes.csv", "no known form")):
        words = ["preferences", "import", str(tmp_path / name), "--store", str(tmp_path / "new.db")]
        assert main(words) == 2 and word in capsys.readouterr().err
        assert not (tmp_path / "new.db").exists()
