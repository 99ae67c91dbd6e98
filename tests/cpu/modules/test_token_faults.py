"""Real faults while compiled code reads a token's experts: the kernel's queue and its threads meet
files that are cut, overwritten, removed or replaced, and a disk that fails.
"""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

import outlier_jupyter
from outlier_jupyter.checkpoint import fill
from outlier_jupyter.errors import CheckpointChanged, CheckpointError, ReadFailed
from tests.faulty_disk import Unavailable, faulty_disk
from tests.inspection import kernel_reads_in_flight, pager_of, stepwise
from tests.models import checkpoint

PROMPT, MOST = "a fox in a box", 24
OPTIONS = {"cache_experts": 6, "quiet": True, "kernels": "auto"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model, repacked, and the tokens that it generates."""
    folder = checkpoint("qwen3_moe", tmp_path_factory.mktemp("faults") / "model")
    outlier_jupyter.repack(folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def wanted(whole):
    """What the model generates from a good disk."""
    with outlier_jupyter.load(whole, **OPTIONS) as engine:
        engine.tokenizer.eos_token_ids = set()
        return engine.generate(PROMPT, max_tokens=MOST).tokens.tolist()


def tokens_of(engine, do=None):
    return stepwise(engine, PROMPT, MOST, do)


def cut(file):
    os.truncate(file, 4096)


def overwrite(file):
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(4096)
        stream.write(os.urandom(size - 4096))


def replace(file):
    beside = file.with_suffix(".new")
    beside.write_bytes(bytes(file.stat().st_size))
    beside.replace(file)


def whole_table(engine):
    """Nothing is under way, and every slot is resident or free."""
    assert kernel_reads_in_flight(pager_of(engine)) == 0
    pager_of(engine).table.check()


@pytest.mark.parametrize("repacked", ["auto", "off"])
@pytest.mark.parametrize("reader", ["pread", "direct"])
@pytest.mark.parametrize("spoil", [cut, overwrite])
def test_no_token_of_a_changed_file_is_returned(
    whole, wanted, tmp_path, monkeypatch, spoil, reader, repacked
):
    """All tokens up to the error are right, the partial run is kept, and no slot is in doubt."""
    monkeypatch.setattr(fill, "PAUSES_S", ())
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    file = next(folder.glob("*.repacked" if repacked == "auto" else "*.safetensors"))
    with outlier_jupyter.load(folder, reader=reader, repacked=repacked, **OPTIONS) as engine:
        engine.tokenizer.eos_token_ids = set()
        found = []
        with pytest.raises(CheckpointChanged, match="load the model again"):
            for step in engine.stream(PROMPT, max_tokens=MOST):
                found.append(step.token)
                if len(found) == 5:
                    spoil(file)
        assert found == wanted[: len(found)] and 5 <= len(found) < MOST
        assert engine.last_run.generated >= len(found) and engine.last_run.finish_reason == "error"
        whole_table(engine)


@pytest.mark.parametrize("spoil", [Path.unlink, replace])
def test_a_file_that_is_removed_or_replaced_is_noticed_and_read_on(whole, wanted, tmp_path, spoil):
    """The open file stays what it was; the status says that it is another one now."""
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    file = next(folder.glob("*.repacked"))
    with outlier_jupyter.load(folder, reader="direct", **OPTIONS) as engine:
        engine.tokenizer.eos_token_ids = set()
        assert tokens_of(engine, lambda: spoil(file)) == wanted
        assert f"{file.name} was re" in engine.status().reader_note
        whole_table(engine)


@pytest.mark.parametrize("repacked", ["auto", "off"])
@pytest.mark.parametrize("reader", ["pread", "direct", "mmap"])
def test_a_disk_that_fails_is_an_error_and_then_works_again(
    whole, wanted, tmp_path, monkeypatch, reader, repacked
):
    """Errors that pass are repeated and noted; those that stay end the run, and not the engine."""
    monkeypatch.setattr(fill, "PAUSES_S", (0.0, 0.0))
    options = {**OPTIONS, "reader": reader, "repacked": repacked}
    try:
        with faulty_disk(whole, tmp_path) as disk:
            with outlier_jupyter.load(disk.folder, **options) as engine:
                engine.tokenizer.eos_token_ids = set()
                disk.forget()
                disk.fail("error", every=1, most=1)
                assert tokens_of(engine) == wanted
                assert disk.failed() == 1 or reader == "pread"  # what was read ahead needs no other
                disk.forget()
                disk.fail("error")
                with pytest.raises(ReadFailed, match="check the disk"):
                    engine.generate(PROMPT, max_tokens=MOST)
                assert engine.last_run.finish_reason == "error"
                whole_table(engine)
                disk.heal()
                assert tokens_of(engine) == wanted
                assert "a read was repeated" in engine.status().reader_note
            disk.fail("error")
            disk.forget()
            with pytest.raises(CheckpointError):
                outlier_jupyter.load(disk.folder, **options)
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("reader", ["pread", "direct", "mmap"])
def test_a_disk_that_answers_short_changes_no_token(whole, wanted, tmp_path, reader):
    """Reads are continued; a map, into which the system would put zeros, is refused with a note."""
    options = {**OPTIONS, "reader": reader, "repacked": "off"}
    try:
        with faulty_disk(whole, tmp_path) as disk, ExitStack() as opened:
            disk.uncached(True)
            engine = opened.enter_context(outlier_jupyter.load(disk.folder, **options))
            engine.tokenizer.eos_token_ids = set()
            disk.forget()
            disk.fail("short", every=2)
            assert tokens_of(engine) == wanted
            assert disk.failed() > 0
            note = "FUSE may answer a memory map's read short" if reader == "mmap" else ""
            assert note in engine.status().reader_note
            whole_table(engine)
    except Unavailable as why:
        pytest.skip(str(why))
