"""A load frees earlier models, and frees its own resources when it fails or is interrupted."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import weakref
import zlib
from pathlib import Path

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.checkpoint.records import FOOTER
from outlier_jupyter.engine import first_experts
from outlier_jupyter.engine import load as loading
from outlier_jupyter.errors import OutlierError
from outlier_jupyter.options import READERS
from tests.inspection import pager_of
from tests.interrupting import lines_of, open_files, python_s_handler, threads


def test_a_model_nobody_has_is_gone_before_the_next_is_loaded(tiny):
    """Two caches that do not fit together can be loaded one after the other."""
    gc.disable()
    try:
        engine = outlier_jupyter.load(tiny, resident=True)
        bank = weakref.ref(pager_of(engine).bank)
        del engine  # without `close`
        with outlier_jupyter.load(tiny, cache_experts=4):
            assert bank() is None
    finally:
        gc.enable()


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, which no other test has open."""
    return shutil.copytree(tiny, tmp_path / "model")


def fail(*args: object, **kwargs: object) -> None:
    raise RuntimeError("broken")


INSTALL = sys.modules["outlier_jupyter.paging.install"]
STAGES = {
    "the places of experts": (loading, "install"),
    "the pagers": (INSTALL, "Pager"),
    "routers": (INSTALL, "RoutingOverride"),
    "the rest of the weights": (loading, "versions"),
    "the engine": (loading, "Engine"),
    "the first experts": (first_experts, "pin"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_load_that_fails_leaves_nothing_open(own, monkeypatch, stage, reader):
    """Whatever stage fails, no file and no thread stays, even while the error is kept."""
    before = threads()
    monkeypatch.setattr(*STAGES[stage], fail)
    with pytest.raises(RuntimeError, match="broken"):
        outlier_jupyter.load(own, cache_experts=5, pin=("0:0",), reader=reader, quiet=True)
    assert open_files(own) == [] and threads() == before


def test_a_load_with_pins_that_do_not_fit_leaves_nothing_open(own):
    """The same holds for a load that is refused after the readers are open."""
    with pytest.raises(OutlierError):
        outlier_jupyter.load(own, cache_experts=2, pin=("0:0-7",), reader="direct", quiet=True)
    assert open_files(own) == []


def test_a_load_can_be_interrupted_anywhere(own):
    """After Ctrl-C at a hundred moments nothing is open, and the next load works."""
    before = threads()

    def loaded() -> None:
        outlier_jupyter.load(own, cache_experts=5, reader="direct", quiet=True).close()

    loaded()
    lines = lines_of(loaded)
    stopped = 0
    with python_s_handler():
        for at in np.linspace(0, lines - 10, 100, dtype=int).tolist():
            try:
                lines_of(loaded, {at, at + 3})
            except KeyboardInterrupt:
                stopped += 1
            gc.collect()  # an engine whose `close` was interrupted before it began
            assert open_files(own) == [] and threads() == before, at
    assert stopped >= 97  # a load may take fewer lines than the one that was counted
    with outlier_jupyter.load(own, cache_experts=5, quiet=True) as engine:
        assert engine.generate("Hello", max_tokens=2).generated == 2


def without_a_layer(manifest_data: dict) -> None:
    del manifest_data["plans"][1]


def with_another_key(manifest_data: dict) -> None:
    manifest_data["plans"][0]["another"] = 1


DAMAGES = {
    "no sums": lambda manifest_data: manifest_data.pop("sums"),
    "empty sums": lambda manifest_data: manifest_data.update(sums=[]),
    "a sum too few": lambda manifest_data: manifest_data["sums"][0].pop(),
    "sums that are none": lambda manifest_data: manifest_data.update(sums=[["x"] * 8] * 3),
    "no plans": lambda manifest_data: manifest_data.update(plans=[]),
    "a plan too few": without_a_layer,
    "a key too many": with_another_key,
    "a key too few": lambda manifest_data: manifest_data["plans"][0].pop("stride"),
    "a number that is none": lambda manifest_data: manifest_data["plans"][0].update(stride="wide"),
    "a size below zero": lambda manifest_data: manifest_data["plans"][0].update(stride=-4096),
    "no source": lambda manifest_data: manifest_data.pop("source"),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "no JSON", "a list", "a named pipe", "a folder"])
def test_damaged_records_are_passed_by_with_a_note(own, damage):
    """The model's own files are read instead, and the reader's note names the fault."""
    file = outlier_jupyter.repack(own, quiet=True).file
    text = file.read_bytes()
    length = FOOTER.unpack(text[-FOOTER.size :])[0]
    manifest = text[-FOOTER.size - length : -FOOTER.size]
    file.unlink()
    if damage == "a named pipe":
        os.mkfifo(file)
    elif damage == "a folder":
        file.mkdir()
    else:
        manifest_data = json.loads(manifest)
        if damage in DAMAGES:
            DAMAGES[damage](manifest_data)
        new = {"no JSON": b"{", "a list": b"[]"}.get(damage, json.dumps(manifest_data).encode())
        end = FOOTER.pack(len(new), zlib.crc32(new), b"outlrec1")
        file.write_bytes(text[: -FOOTER.size - length] + new + end)
    with outlier_jupyter.load(own, cache_experts=5, quiet=True) as engine:
        note = engine.status().reader_note
        assert str(file) in note and "repack the model" in note
        assert engine.generate("Hello", max_tokens=2).generated == 2
