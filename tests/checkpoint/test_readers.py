"""Every reader fills a buffer with the file's bytes, or raises an error with the reason."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.checkpoint import ByteRange, open_reader
from outlier_jupyter.checkpoint import readers as reader_module
from outlier_jupyter.errors import ReadFailed
from outlier_jupyter.options import READERS

SIZE = 40_000


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "model.safetensors"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.mark.parametrize("kind", READERS)
@given(begin=st.integers(0, SIZE - 1), length=st.integers(1, SIZE))
def test_any_range_is_read_exactly(kind, file, begin, length):
    """Aligned or not, a range's bytes are read, and no byte beside them changes."""
    length = min(length, SIZE - begin)
    memory = bytearray(b"\xee" * (length + 2))
    reader = open_reader(kind, [file])
    reader.read(ByteRange(file, begin, length), memoryview(memory)[1:-1])
    reader.close()
    assert memory[1:-1] == file.read_bytes()[begin : begin + length]
    assert memory[0] == memory[-1] == 0xEE


@pytest.mark.parametrize("kind", READERS)
def test_many_threads_may_read_at_once(kind, file):
    """Concurrent reads do not mix."""
    reader = open_reader(kind, [file])
    content = file.read_bytes()

    def read(begin: int) -> bool:
        memory = bytearray(1000)
        reader.read(ByteRange(file, begin, 1000), memoryview(memory))
        return memory == content[begin : begin + 1000]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(0, 39_000, 37)))
    reader.close()


@pytest.mark.parametrize("kind", READERS)
def test_a_file_cut_after_opening_is_named(kind, tmp_path):
    """A file that ends before the range does is a ReadFailed that says where it ends."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(20_000))
    reader = open_reader(kind, [path])
    os.truncate(path, 10_000)
    with pytest.raises(ReadFailed, match="ends at byte 10000"):
        reader.read(ByteRange(path, 5_000, 10_000), memoryview(bytearray(10_000)))
    reader.close()


def test_where_direct_reads_are_refused_it_says_so(file, monkeypatch):
    """On a file system that refuses O_DIRECT, pread is used, with a note."""
    real = os.open

    def refuse(path, flags, *rest, **more):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(reader_module.os, "open", refuse)
    reader = open_reader("direct", [file])
    assert reader.name == "pread"
    assert "refused direct reads" in reader.note
    reader.close()


def test_where_direct_reads_fail_only_when_reading_it_says_so(file, monkeypatch):
    """Some file systems accept the flag and refuse the read; pread is used there as well."""
    real = os.preadv
    refused = []

    def refuse(descriptor, buffers, offset):
        if not refused:
            refused.append(descriptor)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(reader_module.os, "preadv", refuse)
    reader = open_reader("direct", [file])
    assert reader.name == "pread" and "refused" in reader.note
    reader.close()


def test_a_missing_file_is_a_read_failure(tmp_path):
    """The error for a missing file names it."""
    with pytest.raises(ReadFailed, match=r"gone\.safetensors"):
        open_reader("pread", [tmp_path / "gone.safetensors"])


def test_a_disk_error_is_mapped_and_named(file, monkeypatch):
    """An EIO from the system becomes one sentence with file and offset."""

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    reader = open_reader("pread", [file])
    monkeypatch.setattr(reader_module.os, "preadv", fail)
    with pytest.raises(ReadFailed, match=r"at 7 of .*Input/output error"):
        reader.read(ByteRange(file, 7, 5), memoryview(bytearray(5)))
    reader.close()
