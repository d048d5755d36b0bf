"""A progress bar on stderr for anything over two seconds; what is quicker stays silent."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")
PATIENCE_SECONDS = 2.0
_console = Console(stderr=True)


def track(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of `iterable`; a bar with elapsed and remaining time appears after two seconds."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=_console)
    task = progress.add_task(description, total=total)
    # A timer rather than a check between items: the first item alone may take minutes.
    timer = threading.Timer(PATIENCE_SECONDS, progress.start)
    timer.daemon = True
    timer.start()
    try:
        for item in iterable:
            yield item
            progress.advance(task)
    finally:
        timer.cancel()
        timer.join()
        if progress.live.is_started:  # where stderr is a file, rich ends a bar that never began with an empty line
            progress.stop()
