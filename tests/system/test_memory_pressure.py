"""Reports of memory pressure reach those who registered, while they are registered."""

from __future__ import annotations

import errno
import sys
import threading
from pathlib import Path

import pytest

from outlier_jupyter.system import memory_pressure
from outlier_jupyter.system.memory_pressure import Level, PressureWatch, open_source

OPEN = Path("/proc/self/fd")


class Reports:
    """A source that reports when a test says so."""

    name = "a test"

    def __init__(self) -> None:
        self.answers = []
        self.ready = threading.Semaphore(0)
        self.closed = threading.Event()

    def say(self, answer):
        self.answers.append(answer)
        self.ready.release()

    def wait(self) -> bool:
        self.ready.acquire()
        return self.answers.pop(0)

    def wake(self) -> None:
        self.say(False)

    def close(self) -> None:
        self.closed.set()


def test_one_thread_calls_all_and_ends_with_the_last():
    """A function that raises does not end the others; after the last one nothing is open."""
    source, called = Reports(), threading.Semaphore(0)
    watch = PressureWatch(lambda: source)
    ends = [watch.add(lambda: 1 / 0), watch.add(called.release)]
    assert watch.words == "a test"
    for _ in range(3):
        source.say(True)
        assert called.acquire(timeout=20)
    ends[0]()
    source.say(True)
    assert called.acquire(timeout=20)
    ends[1]()
    ends[1]()
    assert source.closed.wait(20) and watch.words == "not watched"


def test_a_function_may_end_itself():
    """As an engine does that is collected while the report is passed on."""
    source, ended = Reports(), threading.Event()
    watch = PressureWatch(lambda: source)
    end = watch.add(lambda: (end(), ended.set()))
    source.say(True)
    assert ended.wait(20) and source.closed.wait(20)


def test_where_nothing_can_be_watched_it_says_so():
    """The words have the reason, and nobody waits."""

    def refuse():
        raise OSError(errno.EACCES, "Permission denied")

    watch = PressureWatch(refuse)
    end = watch.add(lambda: None)
    assert watch.words == "not available: Permission denied"
    end()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux reports stalls")
def test_the_system_s_own_source_waits_until_it_is_woken(tmp_path):
    """No file stays open; without such files there is an error."""
    before = len(list(OPEN.iterdir()))
    try:
        source = open_source()
    except OSError as error:
        pytest.skip(f"not here: {error}")
    assert "stalls in /" in source.name
    waiting = threading.Thread(target=source.wait)
    waiting.start()
    source.wake()
    waiting.join(20)
    assert not waiting.is_alive()
    source.close()
    assert len(list(OPEN.iterdir())) == before
    with pytest.raises(OSError, match="No such file"):
        open_source(tmp_path / "none", tmp_path, tmp_path)


def test_a_level_is_reported_from_the_warning_on(monkeypatch):
    """macOS's source, with a level of the test's."""
    monkeypatch.setattr(memory_pressure, "LOOK_S", 0.001)
    levels = iter([1, 1, 2])
    source = Level(lambda: next(levels))
    assert source.wait()
    source.wake()
    assert not source.wait()
    source.close()
