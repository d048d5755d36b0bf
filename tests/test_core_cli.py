import errno
import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Literal

import pytest

from core import cli, videoset
from core.errors import UserError
from core.registry import resolve


@dataclass(frozen=True)
class Recipe:
    """Measure a video set."""

    videoset: str = field(metadata={"help": "folder"})
    out: str = field(metadata={"help": "folder of the results"})
    clip_range: float = field(default=1e-4, metadata={"help": "ratio units, 100 % is 1"})
    metrics: list[str] = field(default_factory=lambda: ["a", "b"], metadata={"help": "names"})
    reference: str | None = None
    mode: Literal["fast", "exact"] = "fast"
    shuffle: bool = True
    half: bool = False
    seed: int = 0


def read(*words: str) -> Recipe:
    return cli.parse(Recipe, words, "soralign eval", positional=("videoset",))


@dataclass(frozen=True)
class Worded:
    """Choices that YAML reads as truth values."""

    precision: Literal["no", "bf16"] = "bf16"
    overlap: Literal["auto", "on", "off"] = "auto"


@pytest.mark.parametrize(("text", "precision", "overlap"), [("no", "no", "on"), ("'no'", "no", "off")])
def test_no_and_off_of_a_recipe_are_words_where_these_are_the_choices(tmp_path, text, precision, overlap):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"precision: {text}\noverlap: {overlap}\n")
    assert cli.parse(Worded, ["--config", str(recipe)], "soralign x") == Worded(precision, overlap)
    recipe.write_text("precision: yes\n")
    with pytest.raises(UserError, match="one of no, bf16 is expected, seen True"):
        cli.parse(Worded, ["--config", str(recipe)], "soralign x")


def test_defaults_stand_where_nothing_is_said():
    assert read("set", "--out", "o") == Recipe("set", "o")


@pytest.mark.parametrize(
    "words",
    [
        ("set", "--out", "o", "--clip-range", "3e-4", "--half"),
        ("--half", "set", "--clip_range=3e-4", "--out=o"),
        ("--clip-range", "3e-4", "--half", "true", "--videoset", "set", "--out", "o"),
        ("--out", "o", "--half", "--clip_range", "3e-4", "--", "set"),
    ],
)
def test_options_may_stand_in_any_order_and_spelling(words):
    assert read(*words) == Recipe("set", "o", clip_range=3e-4, half=True)


def test_lists_booleans_optionals_and_negative_numbers():
    assert read("set", "--out", "o", "--metrics", "x", "y", "z").metrics == ["x", "y", "z"]
    assert read("set", "--out", "o", "--no-shuffle").shuffle is False
    assert read("set", "--out", "o", "--shuffle", "false").shuffle is False
    assert read("set", "--out", "o", "--reference", "r").reference == "r"
    assert read("set", "--out", "o", "--seed", "-3").seed == -3


def test_a_list_may_be_positional():
    @dataclass
    class Many:
        folders: list[str]
        seed: int = 0

    Many.__annotations__["folders"] = list[str]
    assert cli.parse(Many, ["a", "b", "--seed", "2", "c"], "p", ("folders",)) == Many(["a", "b", "c"], 2)


def test_a_recipe_gives_defaults_and_options_win(tmp_path):
    recipe = tmp_path / "r.yaml"
    # PyYAML reads 3e-4 as text; the recipe converts it as the option would.
    recipe.write_text("clip_range: 3e-4\nmetrics: [q, 7]\nout: o\nshuffle: false\nmode: exact\nreference:\nseed: 5\n")
    assert read("set", "--config", str(recipe), "--seed", "6") == Recipe(
        "set", "o", 3e-4, ["q", "7"], None, "exact", False, False, 6
    )
    assert read(f"--config={recipe}", "set").seed == 5


@pytest.mark.parametrize(
    ("yaml", "word"),
    [
        ("clip_rnge: 3", "'clip_rnge' is unknown; did you mean 'clip_range'"),
        ("seed: abc", "seed: int is expected, seen 'abc'"),
        ("seed: 1.5", "seed: int"),
        ("seed: true", "seed: int"),
        ("metrics: a", "metrics: a list is expected"),
        ("seed: [1]", "seed: one value"),
        ("seed: {a: 1}", "seed: one value"),
        ("half: maybe", "half: bool"),
        ("clip_range: .nan", "clip_range: a number"),
        ("mode: slow", "mode: one of fast, exact"),
        ("out:", "out: empty"),
        ("[1]", "key: value"),
        ("a: [", "not readable as YAML"),
        ("env: {PATH: x}", "'env' is unknown"),
    ],
)
def test_a_bad_recipe_is_told(tmp_path, yaml, word):
    (tmp_path / "r.yaml").write_text(yaml)
    with pytest.raises(UserError, match=word):
        read("set", "--out", "o", "--config", str(tmp_path / "r.yaml"))


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (("set", "--out", "o", "--clip-rnge", "1"), "'--clip-rnge' is unknown; did you mean '--clip-range'"),
        (("set", "--ou", "o"), "'--ou' is unknown"),  # no silent abbreviations
        (("set",), "--out"),
        (("--out", "o"), "VIDEOSET is missing"),
        (("set", "other", "--out", "o"), "'other' is one word too many; expected VIDEOSET"),
        (("set", "--out", "o", "--seed", "x"), "--seed: invalid int value: 'x'"),
        (("set", "--out", "o", "--mode", "slow"), "--mode: invalid choice: 'slow'"),
        (("set", "--out"), "--out: expected one argument"),
        (("set", "--out", "o", "--config"), "--config needs"),
        (("set", "--out", "o", "--config", "gone.yaml"), "'gone.yaml' does not exist"),
    ],
)
def test_a_bad_option_is_told(words, word):
    with pytest.raises(UserError, match=word):
        read(*words)


def test_help_shows_units_and_defaults(capsys):
    with pytest.raises(SystemExit) as stop:
        read("--help")
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "usage: soralign eval VIDEOSET" in shown and "Measure a video set." in shown
    assert "ratio units, 100 % is 1 (default: 0.0001)" in shown and "(default: fast)" in shown
    assert "folder of the results (required)" in shown and "default: None" not in shown


def test_every_command_has_a_summary_and_a_target():
    assert list(cli.COMMANDS) == list(cli.SUMMARIES)
    assert all(target.count(":") == 1 for target in cli.COMMANDS.values())


def command(monkeypatch, action) -> None:
    """Make `soralign test` run `action`."""
    monkeypatch.setitem(cli.COMMANDS, "test", "core.cli:_under_test")
    monkeypatch.setitem(cli.SUMMARIES, "test", "a command of this test")
    monkeypatch.setattr(cli, "_under_test", lambda argv: action(), raising=False)


def raising(error: BaseException):
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("reward 'x' is unknown"), 2, "soralign: reward 'x' is unknown"),
        (KeyboardInterrupt(), 130, "soralign: interrupted; run the same command again to resume"),
        (OSError(errno.ENOSPC, "No space", "f.mp4"), 2, "soralign: f.mp4: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "soralign: /x: Permission denied"),
        (ZeroDivisionError("division by zero"), 1, "soralign: unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_errors_are_one_line_and_a_status(monkeypatch, capsys, error, code, line):
    command(monkeypatch, raising(error))
    assert cli.main(["test"]) == code
    shown = capsys.readouterr().err
    assert shown.startswith(line) and shown.count("\n") == 1
    assert cli.main(["test", "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_an_unknown_command_lists_near_names(capsys):
    assert cli.main(["preferances"]) == 2
    assert "did you mean 'preferences'" in capsys.readouterr().err
    assert cli.main(["preferences", "exprot"]) == 2
    assert "did you mean 'export'" in capsys.readouterr().err


def test_success_and_help_are_zero_and_no_command_is_two(monkeypatch, capsys):
    command(monkeypatch, lambda: None)
    assert cli.main(["test"]) == 0
    assert cli.main(["--help"]) == 0
    assert cli.main([]) == 2
    assert "preferences" in capsys.readouterr().out


def test_resolve_imports_what_the_table_says():
    assert resolve({"loads": "json:loads"}, "loads", "parser") is json.loads
    with pytest.raises(UserError, match="reward 'motoin' is unknown; did you mean 'motion'.* Known: clip, motion"):
        resolve({"motion": "x:y", "clip": "x:y"}, "motoin", "reward")
    with pytest.raises(UserError, match=r"known: \(none\)"):
        resolve({}, "x", "reward")


def test_ctrl_c_in_a_real_process_is_one_line():
    code = (
        "import sys, time, core.cli as cli; cli._under_test = lambda argv: (print('up', flush=True), time.sleep(60));"
        "cli.COMMANDS['test'] = 'core.cli:_under_test'; sys.exit(cli.main(['test']))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 130 and shown == "soralign: interrupted; run the same command again to resume\n"


def test_the_preferences_command_runs_the_whole_way(clip, tmp_path, capsys):
    for name in ("base", "aligned"):
        writer = videoset.Writer(tmp_path / name)
        for index in range(3):
            writer.append(clip * (1 - index / 8), f"prompt {index}", id=f"v{index}", seed=index)
    store = str(tmp_path / "p.db")
    sets = [str(tmp_path / "base"), str(tmp_path / "aligned")]
    assert cli.main(["preferences", "add", *sets, "--store", store]) == 0
    assert "3 pairs" in capsys.readouterr().out
    assert cli.main(["preferences", "add", sets[0], "--store", store]) == 2
    assert "same prompt" in capsys.readouterr().err
    (tmp_path / "votes.csv").write_text(
        "path_A,path_B,prompt,VQ,MQ,TA\nbase/videos/v0.mp4,aligned/videos/v0.mp4,prompt 0,A,same,invalid\n"
    )
    assert cli.main(["preferences", "import", str(tmp_path / "votes.csv"), "--store", store]) == 0
    assert cli.main(["preferences", "export", str(tmp_path / "out.jsonl"), "--store", store]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    capsys.readouterr()
    assert cli.main(["preferences", "stats", "--store", store]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 3
    assert cli.main(["preferences", "stats", "--store", str(tmp_path / "typo.db")]) == 2
    assert not (tmp_path / "typo.db").exists()


def test_drawing_fewer_pairs_stores_their_probability(clip, tmp_path):
    from core.preferences import Store

    writer = videoset.Writer(tmp_path / "set")
    for index in range(4):
        writer.append(clip, "same prompt", id=f"v{index}", seed=index)
    words = ["preferences", "add", str(tmp_path / "set"), "--store", str(tmp_path / "p.db"), "--num-pairs"]
    assert cli.main([*words, "7"]) == 2
    assert cli.main([*words, "3"]) == 0
    assert [pair.sampling_probability for pair in Store(tmp_path / "p.db").pairs()] == [0.5] * 3
