"""Where the preference store lives: one SQLite file, or a Postgres server through SQLAlchemy (extra `postgres`).

Both speak the SQL of `preferences_schema.py` with `?` for arguments and give the same promises: writers come one after
another, a write is on disk before it is acknowledged, a reader sees one moment. Small writes of many threads share one
commit (`write`): a disk that flushes 300 times a second then still takes thousands of votes.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from core.errors import UserError

BUSY_SECONDS = 30.0
LOCK = 0x50524546  # the advisory lock that makes Postgres writers wait for each other; any number, always this one
SMALLEST = 512  # bytes of a SQLite file that holds anything
Result = TypeVar("Result")


class Connection(Protocol):
    """What the store needs of a connection. A cursor has `fetchone` and `fetchall`."""

    def execute(self, sql: str, arguments: Sequence[Any] = ..., /) -> Any:
        """Run one statement."""


class Backend(Protocol):
    """What differs between the two databases."""

    name: str
    dialect: str
    conflicts: tuple[type[Exception], ...]
    faults: tuple[type[Exception], ...]

    def lend(self, *, writing: bool) -> contextlib.AbstractContextManager[Connection]:
        """A connection for one transaction; only one writer at a time asks."""

    def begin(self, connection: Connection, *, writing: bool) -> None:
        """Start a transaction that waits for other writers, or one that sees a single moment."""

    def in_transaction(self, connection: Connection) -> bool:
        """False when the database itself has rolled back."""

    def explain(self, error: Exception) -> UserError:
        """A line for what the database says about itself."""


class _Job(Generic[Result]):
    """A small write that waits for its commit."""

    def __init__(self, work: Callable[[Connection], Result]) -> None:
        self.work = work
        self.turn = threading.Event()
        self.is_done = False
        self.result: Result
        self.error: Exception | None = None


class Database:
    """Transactions over a backend. Safe to share between threads; each process opens its own."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._lock = threading.RLock()  # threads of one process queue here, which is fairer than the databases' waits
        self._gate = threading.Lock()
        self._waiting: list[_Job[Any]] = []
        self._is_led = False
        self._local = threading.local()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Everything inside happens or nothing does; what is called inside joins it. One flush to disk for all."""
        joined: Connection | None = getattr(self._local, "writing", None)
        if joined is not None:
            yield joined
            return
        with self._lock, self._explained(), self.backend.lend(writing=True) as connection:
            try:
                self.backend.begin(connection, writing=True)
                self._local.writing = connection
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back after some errors, a full disk for one.
                if self.backend.in_transaction(connection):
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._local.writing = None

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Reads that all see the same moment and keep no writer waiting; inside a transaction, that transaction."""
        joined = getattr(self._local, "writing", None) or getattr(self._local, "reading", None)
        if joined is not None:
            yield joined
            return
        with self._explained(), self.backend.lend(writing=False) as connection:
            self.backend.begin(connection, writing=False)
            self._local.reading = connection
            try:
                yield connection
            finally:
                self._local.reading = None
                if self.backend.in_transaction(connection):
                    connection.execute("ROLLBACK")

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in a transaction, together with what other threads are waiting to write; on disk on return.

        Each work is undone by itself when it raises. It may be run by another thread of this process.
        """
        if getattr(self._local, "writing", None) is not None:
            return work(self._local.writing)
        job = _Job(work)
        with self._gate:
            self._waiting.append(job)
            leads, self._is_led = not self._is_led, True
        if not leads:
            job.turn.wait()  # while one thread flushes, the others gather here; then one of them takes all along
        if not job.is_done:
            self._write_waiting()
        if job.error is not None:
            raise job.error
        return job.result

    def _write_waiting(self) -> None:
        jobs: list[_Job[Any]] = []
        try:
            with self.transaction() as connection:
                with self._gate:
                    jobs, self._waiting = self._waiting, []
                for job in jobs:
                    self._write_one(connection, job)
        except BaseException as error:
            if not jobs:  # the transaction could not even begin
                with self._gate:
                    jobs, self._waiting = self._waiting, []
            for job in jobs:
                job.error = self._explanation(error)
            if not isinstance(error, Exception):
                raise
        finally:
            for job in jobs:
                job.is_done = True
                job.turn.set()
            with self._gate:
                self._is_led = bool(self._waiting)
                if self._waiting:
                    self._waiting[0].turn.set()  # the next to lead

    def _write_one(self, connection: Connection, job: _Job[Any]) -> None:
        connection.execute("SAVEPOINT job")
        try:
            job.result = job.work(connection)
        except Exception as error:
            if not self.backend.in_transaction(connection):
                raise
            connection.execute("ROLLBACK TO SAVEPOINT job")
            job.error = self._explanation(error)
        connection.execute("RELEASE SAVEPOINT job")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self.backend.faults as error:
            raise self.backend.explain(error) from error

    def _explanation(self, error: BaseException) -> Exception:
        if isinstance(error, self.backend.faults):
            return self.backend.explain(error)
        return error if isinstance(error, Exception) else UserError("interrupted; nothing of this change was recorded")


class Sqlite:
    """One file in WAL mode. One connection writes, idle readers are kept; a forked child opens its own."""

    dialect = "sqlite"
    synchronous = "FULL"  # a vote that was paid for survives a power cut
    conflicts: tuple[type[Exception], ...] = (sqlite3.IntegrityError,)
    faults: tuple[type[Exception], ...] = (sqlite3.OperationalError,)

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._pid = os.getpid()
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # SQLite takes a file of a few bytes for an empty one, and overwrites it. Its size is asked, and it is not
            # opened: to close it would drop this process's locks on it, and another one then deletes the log in use.
            if path.is_file() and 0 < path.stat().st_size < SMALLEST:
                raise UserError(f"{path}: not a preference store; choose another path")
        except OSError as error:
            raise UserError(f"{path}: the store cannot be written here ({error.strerror})") from None

    @contextlib.contextmanager
    def lend(self, *, writing: bool) -> Iterator[sqlite3.Connection]:
        """The writer, or a reader that nobody uses."""
        if self._pid != os.getpid():  # SQLite forbids carrying a connection across a fork
            self._pid, self._writer, self._readers = os.getpid(), None, []
        if writing:
            if self._writer is None:
                self._writer = self._connect()
            yield self._writer
            return
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._connect()
        yield connection
        self._readers.append(connection)

    def begin(self, connection: Connection, *, writing: bool) -> None:
        """A deferred transaction that reads first and then writes is refused when another writer came between."""
        connection.execute("BEGIN IMMEDIATE" if writing else "BEGIN")

    def in_transaction(self, connection: Any) -> bool:
        """Whether SQLite still has the transaction open."""
        return bool(connection.in_transaction)

    def explain(self, error: Exception) -> UserError:
        """A line for what SQLite says about the file itself."""
        text = str(error)
        if "not a database" in text or "malformed" in text:
            return UserError(f"{self.name}: not a preference store ({text}); choose another path")
        if "locked" in text:
            return UserError(
                f"{self.name}: another program has held the store for {BUSY_SECONDS:.0f} seconds; try again"
            )
        if "full" in text:
            return UserError(f"{self.name}: the disk is full; nothing of this change was recorded")
        if "readonly" in text or "unable to open" in text:
            return UserError(
                f"{self.name}: the store cannot be written here ({text}); check the folder and its permissions"
            )
        return UserError(f"{self.name}: {text}")

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self.synchronous}")
            connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.DatabaseError as error:
            raise self.explain(error) from error
        return connection


class Postgres:
    """A server, by URL. Writers wait for one advisory lock, so that the same statements are safe on both databases."""

    dialect = "postgres"

    def __init__(self, url: str) -> None:
        try:
            import psycopg
            import sqlalchemy
            from sqlalchemy.exc import DBAPIError
        except ImportError:
            raise UserError("a store on Postgres needs the extra: pip install 'soralign[postgres]'") from None
        try:
            address = sqlalchemy.engine.make_url(url).set(drivername="postgresql+psycopg")
        except sqlalchemy.exc.ArgumentError:
            raise UserError(f"{url!r} is no database URL; expected postgresql://USER:PASSWORD@HOST:PORT/NAME") from None
        self.name = address.set(drivername="postgresql").render_as_string(hide_password=True)
        self.conflicts: tuple[type[Exception], ...] = (sqlalchemy.exc.IntegrityError,)
        self.faults: tuple[type[Exception], ...] = (DBAPIError,)
        self._idle = psycopg.pq.TransactionStatus.IDLE
        # Autocommit, because BEGIN and COMMIT are said by `Database`; pinged, because servers are restarted.
        self._engine = sqlalchemy.create_engine(address, isolation_level="AUTOCOMMIT", pool_pre_ping=True, pool_size=8)

    @contextlib.contextmanager
    def lend(self, *, writing: bool) -> Iterator[Connection]:
        """A connection of SQLAlchemy's pool."""
        with self._engine.connect() as connection:
            yield _PostgresConnection(connection)

    def begin(self, connection: Connection, *, writing: bool) -> None:
        """A writer takes the lock and keeps it to its end."""
        if writing:
            connection.execute("BEGIN")
            connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
        else:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def in_transaction(self, connection: Any) -> bool:
        """Whether the server still has the transaction open."""
        return bool(connection.raw.connection.driver_connection.info.transaction_status != self._idle)

    def explain(self, error: Exception) -> UserError:
        """The first line of what the server says."""
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        return UserError(f"{self.name}: the database refused ({reason}); nothing of this change was recorded")


class _PostgresConnection:
    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def execute(self, sql: str, arguments: Sequence[Any] = ()) -> Any:
        return self.raw.exec_driver_sql(sql.replace("?", "%s"), tuple(arguments))


def connect(address: Path | str) -> Database:
    """The database of a path, or of a URL that begins with postgresql://."""
    if is_server(address):
        return Database(Postgres(str(address)))
    return Database(Sqlite(Path(os.path.abspath(address))))


def is_server(address: Path | str) -> bool:
    """Whether a store's address is a database server's URL."""
    return str(address).startswith(("postgresql:", "postgres:", "postgresql+"))
