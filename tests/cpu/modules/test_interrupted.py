"""A load that is interrupted while kernels compile ends its compiling thread."""

from __future__ import annotations

import shutil
import signal
import threading
from importlib import import_module

import pytest

import outlier_jupyter
from outlier_jupyter.errors import OptionError
from tests.interrupting import open_files, python_s_handler, threads

INSTALL = import_module("outlier_jupyter.cpu.modules.install")


@pytest.mark.parametrize("also", ["interrupted", "refused"])
def test_no_load_leaves_its_compiler_running(tiny, tmp_path, monkeypatch, also):
    """When load ends, the thread has ended and the files are closed."""
    own = shutil.copytree(tiny, tmp_path / "model")
    waiting = threading.Event()

    def compile_for_ever(work, progress):
        if also == "interrupted":
            waiting.wait()
            signal.raise_signal(signal.SIGINT)
        while True:  # one kernel per iteration
            progress(0, 2)

    finish = INSTALL.Native.finish

    def finished(native, quiet):
        waiting.set()
        finish(native, quiet)

    monkeypatch.setattr(INSTALL, "precompile", compile_for_ever)
    monkeypatch.setattr(INSTALL.Native, "finish", finished)
    wrong = {"pin": ("0:99",)} if also == "refused" else {}
    ended = OptionError if wrong else KeyboardInterrupt
    before = threads()
    with python_s_handler(), pytest.raises(ended):
        outlier_jupyter.load(own, cache_experts=5, reader="direct", quiet=True, **wrong)
    assert threads() == before and open_files(own) == []
