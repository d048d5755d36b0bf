import math
from pathlib import Path

import pytest

from core import files
from core.errors import UserError


def test_a_link_stays_a_link_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "disk" / "there.json")
    files.atomic_write(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "disk" / "there.json").read_text() == "new"


def test_a_linked_folder_is_replaced_where_it_lies(tmp_path):
    (tmp_path / "disk" / "lora").mkdir(parents=True)
    (tmp_path / "lora").symlink_to(tmp_path / "disk" / "lora")
    with files.replacing_folder(tmp_path / "lora") as folder:
        (folder / "weights").write_text("new")
    assert (tmp_path / "lora").is_symlink() and (tmp_path / "disk" / "lora" / "weights").read_text() == "new"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["lora"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "weights").write_text("old")

    def fails(path):
        raise OSError("no space")

    monkeypatch.setattr(files, "sync", fails)
    with pytest.raises(OSError, match="no space"), files.replacing_folder(tmp_path / "lora") as folder:
        (folder / "weights").write_text("new")
    assert (tmp_path / "lora" / "weights").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_whose_replacement_is_interrupted_stays(tmp_path, monkeypatch):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "weights").write_text("old")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if "old" not in (self.suffix[1:], target.suffix[1:]):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), files.replacing_folder(tmp_path / "lora") as folder:
        (folder / "weights").write_text("new")
    assert (tmp_path / "lora" / "weights").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_whole_last_line_without_its_newline_is_kept_and_half_a_line_is_cut(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')  # as an editor or a script may leave it
    files.drop_partial_line(path)
    files.append_line(path, {"n": 3})
    assert [row["n"] for row in files.read_lines(path)] == [1, 2, 3]
    path.write_text('{"n": 1}\n{"n": 2')
    files.drop_partial_line(path)
    assert path.read_text() == '{"n": 1}\n'


def test_half_a_last_line_is_left_out_of_our_logs_and_an_error_in_what_is_handed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    for half in ('{"name": "größ'.encode()[:-2], b'{"name": ', b'{"n": ' + b"1" * 5000 + b"}", b"[" * 100_000):
        path.write_bytes(b'{"n": 1}\n' + half)
        assert files.read_lines(path) == [{"n": 1}]
        with pytest.raises(UserError, match=r"rows\.jsonl:2: not JSON .* ends in this line, after 1 whole"):
            files.read_lines(path, whole=True)
        path.write_bytes(half + b'\n{"n": 1}')
        with pytest.raises(UserError, match=r"rows\.jsonl:1: not JSON .*; one JSON object a line"):
            files.read_lines(path)


def test_lines_of_windows_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"name": "größer"}\r\n\r\n{"name": "b"}\r\n'.encode())
    assert [row["name"] for row in files.read_lines(path)] == ["größer", "b"]
    path.write_bytes('\ufeff{"name": "alone"}'.encode())
    assert files.read_lines(path) == [{"name": "alone"}]


def test_a_text_is_read_without_its_mark_or_refused_by_name(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffrot".encode())
    assert files.read_text(tmp_path / "a.txt") == "rot"
    (tmp_path / "a.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8 text \(byte 2\)"):
        files.read_text(tmp_path / "a.txt")


def test_a_file_that_cannot_be_written_is_named_as_it_was_given(tmp_path):
    (tmp_path / "out.json").mkdir()
    with pytest.raises(UserError, match=r"out\.json: is a folder"):
        files.atomic_write(tmp_path / "out.json", "{}")
    with pytest.raises(OSError) as told:
        files.atomic_write(tmp_path / f"{'long' * 70}.json", "{}")
    assert told.value.filename == str(tmp_path / f"{'long' * 70}.json")


def test_what_json_does_not_know_is_left_empty():
    nested = {"low": math.nan, "rows": [(1, math.inf), "nan"], "n": 3, "ok": True}
    assert files.finite_or_null(nested) == {"low": None, "rows": [[1, None], "nan"], "n": 3, "ok": True}
