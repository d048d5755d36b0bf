"""What `soralign label` and `soralign dashboard` say to bad input, and that the apps stay light."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core.cli import main
from core.preferences import Store


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that bad input gives."""
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    Store(empty)
    (tmp_path / "text.db").write_text("not a store " * 100)
    assert "does not exist" in refused(capsys, "label", "--store", str(tmp_path / "no.db"))
    assert "not a preference store" in refused(capsys, "label", "--store", str(tmp_path / "text.db"))
    assert "--store" in refused(capsys, "label")
    assert "'x1' is not a port" in refused(capsys, "label", "--store", str(empty), "--port", "x1")
    assert "unrecognized arguments: --prot" in refused(capsys, "dashboard", str(tmp_path), "--prot", "1")
    assert "is not a folder" in refused(capsys, "dashboard", str(tmp_path / "missing"))


def test_a_taken_port_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        line = refused(capsys, "dashboard", str(tmp_path), "--port", str(port))
    assert f"127.0.0.1:{port} is taken" in line


@pytest.mark.slow
def test_the_apps_do_not_import_torch() -> None:
    code = (
        "import sys\n"
        "import dashboards.commands, dashboards.server\n"
        "from core.registry import resolve\n"
        "[resolve(dashboards.PAGES, name, 'page') for name in dashboards.PAGES]\n"
        "print([name for name in ('torch', 'transformers', 'trl') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
