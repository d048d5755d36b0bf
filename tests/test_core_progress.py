import io

import pytest
from rich.console import Console

from core import progress


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    buffer = io.StringIO()
    monkeypatch.setattr(progress, "_console", Console(file=buffer, force_terminal=True, width=100))
    return buffer


@pytest.mark.parametrize("is_terminal", [True, False])
def test_quick_work_stays_silent_and_passes_items_through(monkeypatch, is_terminal):
    buffer = io.StringIO()
    monkeypatch.setattr(progress, "_console", Console(file=buffer, force_terminal=is_terminal, width=100))
    assert list(progress.track(range(5), "quick")) == list(range(5))
    assert buffer.getvalue() == ""


def test_slow_work_shows_what_is_done_of_how_much(screen, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    timers = []
    real = progress.threading.Timer
    monkeypatch.setattr(progress.threading, "Timer", lambda *a: timers.append(real(*a)) or timers[-1])
    for index in progress.track(iter("abc"), "sampling", total=3):
        timers[0].join()  # the bar is up before the first item is done
        assert index in "abc"
    assert "sampling" in screen.getvalue() and "3/3" in screen.getvalue()


def test_an_error_in_the_loop_passes_and_stops_the_bar(screen, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)

    def items():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(progress.track(items(), "sampling"))
