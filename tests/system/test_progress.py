"""Progress bars after an interrupt."""

from __future__ import annotations

import threading

import pytest

from outlier_jupyter.system.progress import Progress


def test_a_bar_that_is_interrupted_while_it_draws_keeps_no_lock(monkeypatch):
    """Another thread can draw afterwards."""

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    bar = Progress(total=3)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "display", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bar.refresh()
    drawn = []
    thread = threading.Thread(target=lambda: drawn.append(bar.refresh()))
    thread.start()
    thread.join(10)
    bar.close()
    assert drawn == [True]


def test_the_lock_is_one_that_is_taken_in_one_step():
    """It is neither tqdm's pair of locks nor Python code: an interrupt comes before or after."""
    assert type(Progress.get_lock()) is type(threading.RLock())
