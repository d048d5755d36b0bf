"""`soralign label` and `soralign dashboard`: check what was asked for, then serve the app until Ctrl-C.

argparse instead of `core.cli.parse`, because that one imports TRL and with it torch, which the apps never need.
"""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path
from typing import NoReturn

from core import preferences_database
from core.errors import UserError
from core.preferences import existing

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def label(argv: list[str]) -> None:
    """Serve the labeling app on a preference store."""
    parser = _parser("soralign label", "Compare videos side by side in the browser; every vote goes into the store.")
    parser.add_argument(
        "--store",
        required=True,
        metavar="FILE",
        help="preference store (see `soralign preferences`), or postgresql://...",
    )
    parser.add_argument("--folder", default=".", help="where the video paths of a store on a server start")
    parser.add_argument(
        "--door",
        choices=("names", "tokens"),
        help="who may label: anybody with a name, or invited people with a token (default: names on this machine only)",
    )
    options = parser.parse_args(argv)
    store = existing(options.store, folder=options.folder)
    num_pairs = sum(len(store.of_project(name).pairs()) for name in store.projects())
    is_open = options.door == "names" if options.door else options.host in LOOPBACK
    key = secrets.token_urlsafe(12)
    print(f"Labeling {store.name}: {num_pairs} pairs. Ctrl-C stops; votes are on disk as soon as they are given.")
    if num_pairs == 0:
        print(f"Add pairs on the project page, or with `soralign preferences add VIDEOSET --store {options.store}`.")
    print(f"Anybody with {'a name' if is_open else 'an invitation'} may label; invite people on the project page.")
    print(f"Project page: add /#annotator=admin&token={key} to the address below.", flush=True)
    address = options.store if preferences_database.is_server(options.store) else str(Path(options.store).absolute())
    door = {"open_to_names": is_open, "admin_key": key, "folder": options.folder}
    _serve("label.py", [address, json.dumps(door)], options)


def dashboard(argv: list[str]) -> None:
    """Serve the report app on run folders."""
    parser = _parser("soralign dashboard", "Look at runs: results, curves, videos, labels. Writes nothing into them.")
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of runs, or folders that hold such folders")
    options = parser.parse_args(argv)
    folders = [Path(folder) for folder in options.runs]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{str(folder)!r} is not a folder; give a run, as `soralign demo --out DIR` leaves one")
    _serve("report.py", [str(folder.absolute()) for folder in folders], options)


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{prog}: {message}; see `{prog} --help`")

    parser.error = refuse  # type: ignore[method-assign,assignment]
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; others can reach any but the default"
    )
    parser.add_argument(
        "--port", type=_port, metavar="N", help="port; 0 = any free one (default: 8501 or the next free one)"
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; expected a number from 0 to 65535")
    return int(text)


def _serve(script: str, arguments: list[str], options: argparse.Namespace) -> None:
    from dashboards import server  # Streamlit takes a second to import; a wrong option should not

    server.serve(script, arguments, options.host, options.port)
