"""Weight files that change while a model is loaded: the run ends with an error that names them."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.checkpoint import ByteRange, fill, open_reader
from outlier_jupyter.checkpoint import mapped_file as mapped_module
from outlier_jupyter.checkpoint import records as records_module
from outlier_jupyter.engine import load as loading
from outlier_jupyter.errors import CheckpointChanged, ReadFailed
from outlier_jupyter.options import READERS

SHARD = "model.safetensors"
PROMPT = "a fox in a box, a bird on a wire"


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of the tiny model, which the test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def overwrite(file):
    """Replace the second half of the weights by zeros, which are valid numbers."""
    with file.open("r+b") as stream:
        data = np.frombuffer(stream.read(), np.uint8)
        stream.seek(len(data) // 2)
        stream.write(bytes(len(data) - len(data) // 2))


def cut(file):
    os.truncate(file, 4096)


def run_with(engine, do):
    """Generate, call `do` after the third token, and return the tokens."""
    tokens = []
    for step in engine.stream(PROMPT, max_tokens=40):
        tokens.append(step.token)
        if len(tokens) == 3:
            do()
    return tokens


@pytest.mark.parametrize("spoil", [overwrite, cut])
@pytest.mark.parametrize("kind", READERS)
def test_a_shard_that_is_written_to_ends_the_run_with_a_sentence(folder, kind, spoil):
    """The partial run is kept and names the cause; later runs are refused until a new load."""
    with outlier_jupyter.load(folder, cache_experts=3, reader=kind, quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        with pytest.raises(CheckpointChanged, match=rf"{SHARD}.* load the model again") as refused:
            run_with(engine, lambda: spoil(folder / SHARD))
        assert len(str(refused.value)) <= 300
        kept = engine.last_run
        assert kept.finish_reason == "error" and kept.generated >= 3
        assert SHARD in kept.trace.info.changed_output
        with pytest.raises(CheckpointChanged, match="load the model again"):
            engine.generate(PROMPT, max_tokens=1)
        assert engine.last_run is kept
    assert engine.closed


@pytest.mark.parametrize("kind", READERS)
def test_a_shard_that_is_put_back_as_it_was_is_not_trusted_again(folder, kind):
    """The cache may contain bytes read in between, so a restored file does not help."""
    shard = folder / SHARD
    before, stat = shard.read_bytes(), shard.stat()
    with outlier_jupyter.load(folder, cache_experts=3, reader=kind, quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        with pytest.raises(CheckpointChanged):
            run_with(engine, lambda: overwrite(shard))
        with shard.open("r+b") as stream:
            stream.write(before)
        os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(CheckpointChanged):
            engine.generate(PROMPT, max_tokens=1)


def remove(file):
    file.unlink()


def replace(file):
    beside = file.with_suffix(".new")
    beside.write_bytes(bytes(file.stat().st_size))
    beside.replace(file)


@pytest.mark.parametrize("do", [remove, replace])
@pytest.mark.parametrize("kind", READERS)
def test_a_shard_that_is_removed_or_replaced_is_read_on_as_it_was(folder, kind, do):
    """The reader keeps the original file open, so the tokens are the same."""
    with outlier_jupyter.load(folder, cache_experts=3, reader=kind, quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        before = engine.generate(PROMPT, max_tokens=40).tokens.tolist()
        assert run_with(engine, lambda: do(folder / SHARD)) == before
        assert engine.last_run.trace.info.changed_output == ""
        assert f"{SHARD} was re" in engine.status().reader_note  # removed, or replaced


def test_repacked_experts_that_are_overwritten_are_named(folder, tmp_path):
    """Checksums are checked only at the first read, so the file is watched as shards are."""
    outlier_jupyter.repack(folder, tmp_path / "records", quiet=True)
    where = tmp_path / "records"
    with outlier_jupyter.load(folder, cache_experts=3, repacked=str(where), quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        run_with(engine, lambda: None)
        with pytest.raises(CheckpointChanged, match=records_module.NAME):
            run_with(engine, lambda: overwrite(where / records_module.NAME))


def test_a_run_that_is_stopped_says_that_its_files_changed(folder):
    """The run still ends as interrupted, and its trace records the changed file."""
    with outlier_jupyter.load(folder, cache_experts=3, quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()

        def spoil_and_stop():
            overwrite(folder / SHARD)
            engine.stop()

        with pytest.raises(outlier_jupyter.Interrupted) as stopped:
            run_with(engine, spoil_and_stop)
        assert SHARD in stopped.value.run.trace.info.changed_output


@pytest.mark.parametrize("step", ["fitted", "install"])
@pytest.mark.parametrize("spoil", [overwrite, cut, replace])
def test_a_shard_that_changes_while_it_is_loaded_is_refused(folder, monkeypatch, step, spoil):
    """A change between the header and the first token is detected, and nothing of it is used."""
    real = getattr(loading, step)

    def spoilt(*args, **kwargs):
        spoil(folder / SHARD)
        return real(*args, **kwargs)

    monkeypatch.setattr(loading, step, spoilt)
    if (step, spoil) == ("install", replace):  # all files are open by then
        outlier_jupyter.load(folder, quiet=True).close()
        return
    with pytest.raises(CheckpointChanged, match=SHARD):
        outlier_jupyter.load(folder, quiet=True)


def test_weights_that_the_disk_does_not_give_are_one_sentence(folder, monkeypatch):
    """The error has MLX's message and the folder's name."""
    real = loading.install

    def fail(*args):
        raise RuntimeError("[read] Unable to read from file.")

    def installed(*args):
        found = real(*args)
        monkeypatch.setattr(loading.mx, "eval", fail)
        return found

    monkeypatch.setattr(loading, "install", installed)
    with pytest.raises(ReadFailed, match=r"model cannot be read .*Unable to read"):
        outlier_jupyter.load(folder, quiet=True)


FAILING = """
import os, sys
from contextlib import suppress
import mlx.core as mx
from outlier_jupyter.engine.memory import give_back
for number in range(20):
    mx.save_safetensors(sys.argv[1], {"a": mx.ones((300, 1000)) + number})
    lazy = mx.load(sys.argv[1])["a"] + 1
    os.truncate(sys.argv[1], 2000)
    with suppress(RuntimeError):  # this may raise it, too
        mx.async_eval(lazy)
    give_back()
"""
"""In a process of its own: MLX counts some failed reads as work that never ends, and above ten
waits for it."""


def test_a_failed_read_of_mlx_s_is_one_error(tmp_path):
    """MLX raises what failed in the background out of an unrelated call, `clear_cache`: giving
    memory back does not fail by it.
    """
    words = [sys.executable, "-c", FAILING, str(tmp_path / "beside.safetensors")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_an_earlier_failed_read_is_no_failure_of_a_resize(folder, monkeypatch):
    """The cache has its new size, and the tokens are the same."""
    with outlier_jupyter.load(folder, cache_experts=6, quiet=True) as engine:
        before = engine.generate(PROMPT, max_tokens=3).tokens.tolist()
        pending = ["[read] Unable to read from file."]

        def clear():
            if pending:
                raise RuntimeError(pending.pop())

        monkeypatch.setattr(mx, "clear_cache", clear)
        engine.resize(cache_experts=9)
        assert not pending and engine.info.slots == 9
        assert engine.generate(PROMPT, max_tokens=3).tokens.tolist() == before


@pytest.mark.parametrize("allowed", [True, False])
def test_a_map_of_a_file_that_was_cut_gives_what_is_left(tmp_path, monkeypatch, allowed):
    """The reader returns the bytes that are left and raises no signal, also if the system forbids
    the guarded copy later.
    """
    path = tmp_path / SHARD
    path.write_bytes(bytes(range(1, 251)) * 80)
    reader = open_reader("mmap", [path])
    if not allowed:
        monkeypatch.setattr(mapped_module, "process_vm_readv", None)
    memory = memoryview(bytearray(9_000))
    reader.read(ByteRange(path, 5_000, 9_000), memory)
    assert memory == path.read_bytes()[5_000:14_000]
    os.truncate(path, 10_000)
    reader.read(ByteRange(path, 1_000, 9_000), memory)
    assert memory == path.read_bytes()[1_000:]
    for begin in (1_001, 9_999, 10_000, 16_384):
        with pytest.raises(ReadFailed, match=r"ends at byte"):
            reader.read(ByteRange(path, begin, 9_000), memory)
    reader.close()


def test_a_map_that_cannot_be_guarded_is_refused(tmp_path, monkeypatch):
    """Without the system's own copy a failing disk would be SIGBUS: files are read instead."""
    path = tmp_path / SHARD
    path.write_bytes(bytes(range(250)))
    monkeypatch.setattr(mapped_module, "process_vm_readv", None)
    reader = open_reader("mmap", [path])
    memory = memoryview(bytearray(200))
    reader.read(ByteRange(path, 10, 200), memory)
    assert memory == path.read_bytes()[10:210]
    assert reader.name == "pread" and "no safe way" in reader.note
    reader.close()


def test_a_map_of_another_machine_s_files_is_refused(tmp_path, monkeypatch):
    """A file system that may answer short would put zeros into it: the note names it."""
    path = tmp_path / SHARD
    path.write_bytes(bytes(range(250)))
    monkeypatch.setattr(mapped_module, "file_system", lambda descriptor: 0x6969)
    reader = open_reader("mmap", [path])
    assert reader.name == "pread" and reader.note.startswith("NFS may answer")
    reader.close()


def test_a_disk_that_fails_under_a_map_is_a_read_failure(tmp_path, monkeypatch):
    """A page that cannot be read although the file is long enough is a disk error."""
    monkeypatch.setattr(fill, "PAUSES_S", ())
    path = tmp_path / SHARD
    path.write_bytes(bytes(8192))
    reader = open_reader("mmap", [path])

    def refuse(*arguments: object) -> int:
        ctypes.set_errno(errno.EFAULT)
        return -1

    monkeypatch.setattr(mapped_module, "process_vm_readv", refuse)
    with pytest.raises(ReadFailed, match="check the disk"):
        reader.read(ByteRange(path, 0, 4096), memoryview(bytearray(4096)))
    reader.close()


@pytest.mark.parametrize("kind", READERS)
def test_an_empty_file_cannot_be_read_from(tmp_path, kind):
    """Each reader raises an error, either when it opens the file or when it reads."""
    path = tmp_path / SHARD
    path.touch()
    with pytest.raises(ReadFailed, match=SHARD):
        open_reader(kind, [path]).read(ByteRange(path, 0, 1), memoryview(bytearray(1)))
