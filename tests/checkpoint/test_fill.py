"""Reads are repeated while the error may pass, and no more often than stated."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.checkpoint import ByteRange
from outlier_jupyter.checkpoint.fill import PAUSES_S, TRANSIENT, Repeats, fill
from outlier_jupyter.errors import ReadFailed

DATA = os.urandom(5_000)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    path = tmp_path_factory.mktemp("fill") / "model.safetensors"
    path.write_bytes(DATA)
    descriptor = os.open(path, os.O_RDONLY)
    yield path, descriptor
    os.close(descriptor)


@given(
    answers=st.lists(st.integers(0, 900) | st.sampled_from(sorted(TRANSIENT)).map(lambda e: -e)),
    begin=st.integers(0, 4_000), sizes=st.lists(st.integers(0, 300), min_size=1, max_size=3),
)  # fmt: skip
def test_any_order_of_short_reads_and_errors_gives_all_bytes_or_an_error(
    opened, answers, begin, sizes
):
    """The views are filled exactly; pauses are those stated, each once."""
    path, descriptor = opened
    rest, pauses, repeats = list(answers), [], Repeats()

    def preadv(views, offset):
        answer = rest.pop(0) if rest else 1 << 20
        if answer < 0:
            for view in views:
                view[:] = bytes(len(view))
            raise OSError(-answer, os.strerror(-answer))
        short, most = [], answer
        for view in views:
            short.append(view[: max(0, most)])
            most -= len(view)
        return os.preadv(descriptor, short, offset)

    views = [memoryview(bytearray(size)) for size in sizes]
    where = ByteRange(path, begin, sum(sizes))
    try:
        fill(preadv, descriptor, where, views, repeats, pause=pauses.append)
    except ReadFailed:
        assert pauses == list(PAUSES_S)
    else:
        assert b"".join(views) == DATA[begin : begin + where.nbytes]
    assert pauses == list(PAUSES_S)[: len(pauses)] and repeats.count == len(pauses)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ESTALE, errno.EBADF, errno.ENXIO])
def test_an_error_that_cannot_pass_is_not_repeated(opened, code):
    """The disk is not tried again."""
    path, descriptor = opened
    calls = []

    def preadv(views, offset):
        calls.append(offset)
        raise OSError(code, os.strerror(code))

    with pytest.raises(ReadFailed, match="failed"):
        fill(preadv, descriptor, ByteRange(path, 0, 9), [memoryview(bytearray(9))], Repeats())
    assert len(calls) == 1


def test_the_end_of_the_file_is_not_repeated(opened):
    """A range beyond the end is an error at once; nothing where the file has bytes is not."""
    path, descriptor = opened
    repeats = Repeats()
    with pytest.raises(ReadFailed, match="ends at byte 5000"):
        fill(
            lambda views, offset: os.preadv(descriptor, views, offset), descriptor,
            ByteRange(path, 4_990, 20), [memoryview(bytearray(20))], repeats,
        )  # fmt: skip
    assert repeats.count == 0 and repeats.words() == ""
    with pytest.raises(ReadFailed, match="no bytes"):
        fill(
            lambda views, offset: 0, descriptor, ByteRange(path, 0, 9),
            [memoryview(bytearray(9))], repeats, pause=lambda seconds: None,
        )  # fmt: skip
    assert "repeated 2 times" in repeats.words()
