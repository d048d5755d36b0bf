"""One thread for every test, and the fixtures that several rooms share."""

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

# Before torch is imported anywhere: spinning OpenMP threads make tiny models a hundred times slower on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core import preferences_database

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the system's Chromium; the test is skipped where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("no chromium on PATH; `make test` installs it where it may")


@pytest.fixture
def clip() -> NDArray[np.float32]:
    """A red disc moving right on a light ground: float32 [9, 3, 32, 48] in [0, 1]."""
    rows, columns = np.mgrid[:32, :48]
    frames = np.full((9, 3, 32, 48), 0.9, dtype=np.float32)
    for time in range(9):
        disc = np.hypot(columns - 8 - 4 * time, rows - 16) < 6
        for channel, value in enumerate((0.8, 0.2, 0.1)):
            frames[time, channel][disc] = value
    return frames


@pytest.fixture
def turned() -> Callable[[Path, int], Path]:
    """A video's packets in a new file whose header says by how many degrees players turn it, counter-clockwise."""

    def turn(path: Path, degrees: int) -> Path:
        target = path.with_stem(f"{path.stem}_turned_{degrees}")
        with av.open(str(path)) as source, av.open(str(target), "w") as container:
            stream = container.add_stream_from_template(source.streams.video[0])
            stream.set_display_rotation(degrees)
            for packet in source.demux(video=0):
                if packet.dts is not None:  # the last one is empty
                    packet.stream = stream
                    container.mux(packet)
        return target

    return turn


def pytest_collection_finish() -> None:
    """What the imports made stays: the garbage collector need not look through a million objects again and again."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Python cleans up after all that was made; triton's binding lists what is left, page after page."""
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def unhurried_disk() -> Iterator[None]:
    """Nothing waits for the disk: no test cuts the power, and on a busy machine the waits are most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preferences_database.Sqlite, "synchronous", "OFF")
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """A shell that starts the tests in the background makes them ignore Ctrl-C, and every process they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
