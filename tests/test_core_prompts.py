from core import prompts


def test_prompt_files_of_windows_begin_with_their_first_word(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffein größerer Ball\r\n\r\na dog\r\n".encode())
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"prompt": "ein größerer Ball"}\r\n{"prompt": "a dog"}'.encode())
    assert prompts.read(tmp_path / "a.txt") == prompts.read(tmp_path / "a.jsonl") == ["ein größerer Ball", "a dog"]


def test_a_prompt_ends_where_its_line_does(tmp_path):
    (tmp_path / "a.txt").write_text("a dog\u2028runs\na cat\x0csleeps\n", encoding="utf-8")
    assert prompts.read(tmp_path / "a.txt") == ["a dog\u2028runs", "a cat\x0csleeps"]
