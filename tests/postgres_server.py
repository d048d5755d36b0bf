"""A Postgres server for the tests: one that SORALIGN_POSTGRES names, or one started from Debian's binaries."""

import contextlib
import glob
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def running() -> Iterator[str]:
    """The URL of a server's own database, postgresql://...; skips where there is no server and none can be started."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    if "SORALIGN_POSTGRES" in os.environ:
        yield os.environ["SORALIGN_POSTGRES"]
        return
    binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not binaries:
        pytest.skip("no Postgres server: set SORALIGN_POSTGRES to a URL, or install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="soralign-postgres-"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    become = []
    if os.geteuid() == 0:  # Postgres refuses to run as root
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
    control = [*become, f"{binaries[-1]}/pg_ctl", "-D", str(folder / "data"), "-l", str(folder / "log")]
    trust = "--auth=trust --username=soralign --no-sync --encoding=UTF8"
    try:
        subprocess.run([*control, "initdb", "-o", trust], check=True, capture_output=True, cwd=folder)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        subprocess.run([*control, "start", "-w", "-o", options], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        yield f"postgresql://soralign@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "stop", "-m", "immediate"], check=False, capture_output=True, cwd=folder)
        shutil.rmtree(folder, ignore_errors=True)


def new_database(url: str, number: int) -> str:
    """The URL of an empty database on the server."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS store_{number} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE store_{number}")
    return url.rsplit("/", 1)[0] + f"/store_{number}"
