"""Any file that the safetensors library reads, and any view of its tensors, byte for byte."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from outlier_jupyter.checkpoint import (
    ArrayView,
    Checkpoint,
    ExpertPart,
    NotAddressable,
    buffers_nbytes,
    open_reader,
    read_expert,
)
from outlier_jupyter.checkpoint import expert_reader as gather
from outlier_jupyter.errors import CheckpointError
from outlier_jupyter.options import READERS
from tests.checkpoint.files import shards

MANY = settings(max_examples=100)
"""Settings for tests that draw many kinds of values at once."""


@pytest.mark.parametrize("kind", READERS)
@given(files=shards())
def test_every_range_is_what_the_safetensors_library_returns(kind, files, tmp_path_factory):
    """Bytes agree for any shards, order, alignment, dtype, empty tensors, scalars, metadata."""
    folder = tmp_path_factory.mktemp("files")
    for number, shard in enumerate(files):
        shard.write(folder / f"model-{number}.safetensors")
    checkpoint = Checkpoint(folder)
    reader = open_reader(kind, checkpoint.files)
    seen = 0
    for file in checkpoint.files:
        for name, tensor in safetensors.deserialize(file.read_bytes()):
            span = checkpoint.spans[name]
            assert (span.dtype, list(span.shape)) == (tensor["dtype"], tensor["shape"])
            memory = bytearray(span.bytes.nbytes)
            reader.read(span.bytes, memoryview(memory))
            assert memory == tensor["data"]
            seen += 1
    reader.close()
    assert seen == len(checkpoint.spans)


@MANY
@given(files=shards(), data=st.data())
def test_a_damaged_header_is_one_sentence_or_still_within_its_file(files, data, tmp_path_factory):
    """With any damage to a header, all ranges are within the file and all errors are ours."""
    file = files[0].write(tmp_path_factory.mktemp("damaged") / "model.safetensors")
    content = bytearray(file.read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    file.write_bytes(content)
    try:
        spans = Checkpoint(file.parent).spans
    except CheckpointError as error:
        assert "model.safetensors" in str(error) and "\n" not in str(error)
        return
    for span in spans.values():
        assert span.bytes.offset >= 0
        assert span.bytes.offset + span.bytes.nbytes <= len(content)


class Made:
    """An array and its view, transformed together."""

    def __init__(self, array: np.ndarray, view: ArrayView) -> None:
        self.array = array
        self.view = view

    def slice(self, draw) -> None:
        starts = tuple(draw(st.integers(0, n - 1)) for n in self.array.shape)
        steps = tuple(draw(st.integers(1, 3)) for _ in self.array.shape)
        pairs = zip(starts, steps, strict=True)
        self.array = self.array[tuple(slice(start, None, step) for start, step in pairs)]
        self.view = self.view.slice(starts, steps, self.array.shape)

    def transpose(self, draw) -> None:
        axes = tuple(draw(st.permutations(range(self.array.ndim))))
        self.array, self.view = self.array.transpose(axes), self.view.transpose(axes)

    def reshape(self, draw) -> None:
        shape = [*self.array.shape]
        if draw(st.booleans()) and len(shape) > 1:
            axis = draw(st.integers(0, len(shape) - 2))
            shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
        else:
            axis = draw(st.integers(0, len(shape) - 1))
            divisors = [n for n in range(1, shape[axis] + 1) if shape[axis] % n == 0]
            first = draw(st.sampled_from(divisors))
            shape[axis : axis + 1] = [first, shape[axis] // first]
        self.array, self.view = self.array.reshape(shape), self.view.reshape(tuple(shape))

    def join(self, draw) -> None:
        axis = draw(st.integers(0, self.array.ndim - 1))
        self.array = np.concatenate([self.array, self.array], axis)
        self.view = ArrayView.concatenate([self.view, self.view], axis)

    def stack(self, draw) -> None:
        axis = draw(st.integers(0, self.array.ndim))
        self.view = ArrayView.concatenate([self.view.expand(axis)] * 2, axis)
        self.array = np.stack([self.array, self.array], axis)

    def reinterpret(self, draw) -> None:
        itemsize = draw(st.sampled_from([1, 2, 4]))
        assume(self.array.shape[-1] * self.array.itemsize % itemsize == 0)
        self.view = self.view.reinterpret(itemsize)
        self.array = np.ascontiguousarray(self.array).view(f"u{itemsize}")


MOVES = ("slice", "transpose", "reshape", "join", "stack", "reinterpret")


@st.composite
def movements(draw: st.DrawFn, file: Path, content: np.ndarray) -> Made:
    """A tensor of the file, transformed as models do: sliced, transposed, joined, reshaped."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    itemsize = draw(st.sampled_from([1, 2, 4]))
    nbytes = int(np.prod(shape)) * itemsize
    offset = draw(st.integers(0, content.size - nbytes))
    array = np.ndarray(shape, f"u{itemsize}", content.tobytes(), offset)
    made = Made(array, ArrayView.of(file, offset, shape, itemsize))
    for name in draw(st.lists(st.sampled_from(MOVES), max_size=6)):
        if made.array.size < 2000:
            try:
                getattr(made, name)(draw)
            except NotAddressable:
                assume(False)
    return made


@pytest.fixture(scope="module")
def blob(tmp_path_factory) -> tuple[Path, np.ndarray]:
    content = np.random.default_rng(5).integers(0, 256, 9000).astype(np.uint8)
    file = tmp_path_factory.mktemp("blob") / "model.safetensors"
    file.write_bytes(content.tobytes())
    return file, content


@pytest.fixture(scope="module")
def readers(blob):
    opened = {kind: open_reader(kind, [blob[0]]) for kind in READERS}
    yield opened
    for reader in opened.values():
        reader.close()


@MANY
@given(data=st.data())
def test_whatever_is_made_of_tensors_is_read_as_numpy_would_make_it(readers, blob, data):
    """Each row of a view has the bytes of the NumPy array, read in bands or directly."""
    file, content = blob
    made = data.draw(movements(file, content))
    part = ExpertPart("w", "U8", made.view)
    assert (part.experts, *part.shape) == made.array.shape
    reader = readers[data.draw(st.sampled_from(READERS))]
    for expert in range(part.experts):
        memory = bytearray(part.nbytes)
        read_expert(reader, [part], expert, lambda name, memory=memory: memoryview(memory))
        assert memory == np.ascontiguousarray(made.array[expert]).tobytes()


class CountingReader:
    """Counts the bytes that are read."""

    def __init__(self, reader) -> None:
        self.reader, self.nbytes = reader, 0

    def read(self, where, into) -> None:
        self.nbytes += where.nbytes
        self.reader.read(where, into)

    def scatter(self, where, into) -> None:
        self.nbytes += where.nbytes
        self.reader.scatter(where, into)


@pytest.mark.parametrize("band", [1, 64, 4 << 20])
@pytest.mark.parametrize("joined", ["rows", "columns", "in turn", "turned"])
def test_parts_that_lie_in_the_same_bytes_share_the_reads(joined, band, blob, monkeypatch):
    """Gate and up in one tensor are read once, together, at every band height."""
    monkeypatch.setattr(gather, "BAND_NBYTES", band)
    file, content = blob
    view = ArrayView.of(file, 40, (3, 8, 10), 4)
    array = np.ndarray((3, 8, 10), np.uint32, content.tobytes(), 40)
    half = {"rows": (1, 4, 1), "columns": (2, 5, 1), "in turn": (1, 1, 2), "turned": (2, 5, 1)}
    axis, second, step = half[joined]
    parts, arrays = [], []
    for name, start in (("gate", 0), ("up", second)):
        stop = (start + second) if step == 1 else None
        index = tuple(slice(start, stop, step) if at == axis else slice(None) for at in range(3))
        piece = array[index]
        starts = tuple(start if at == axis else 0 for at in range(3))
        steps = tuple(step if at == axis else 1 for at in range(3))
        moved = view.slice(starts, steps, piece.shape)
        if joined == "turned":
            piece, moved = piece.swapaxes(1, 2), moved.transpose((0, 2, 1))
        parts.append(ExpertPart(name, "U32", moved))
        arrays.append(piece)
    reader = CountingReader(open_reader("pread", [file]))
    for expert in range(3):
        memory = {part.name: bytearray(part.nbytes) for part in parts}
        wanted = read_expert(reader, parts, expert, lambda n, memory=memory: memoryview(memory[n]))
        assert wanted == 8 * 10 * 4
        for part, piece in zip(parts, arrays, strict=True):
            assert memory[part.name] == np.ascontiguousarray(piece[expert]).tobytes()
    assert reader.nbytes == 3 * 8 * 10 * 4
    reader.reader.close()


def test_a_threads_buffer_is_counted_while_the_thread_lives(blob):
    """Band buffers are counted as memory until their thread ends."""
    file, _ = blob
    part = ExpertPart("w", "U8", ArrayView.of(file, 0, (1, 64, 64), 1).transpose((0, 2, 1)))
    reader = open_reader("pread", [file])
    before = buffers_nbytes()
    seen = []

    def read() -> None:
        memory = bytearray(part.nbytes)
        read_expert(reader, [part], 0, lambda name: memoryview(memory))
        seen.append(buffers_nbytes())

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    reader.close()
    assert seen == [before + 4096]
    assert buffers_nbytes() == before


def test_what_lies_as_it_is_wanted_is_read_straight_into_its_place(blob):
    """No buffer and no copy between the file and the slot when the bytes lie in order."""
    file, _ = blob
    view = ArrayView.of(file, 0, (4, 6, 5), 2)
    rows = ArrayView.concatenate(
        [view.slice((0, half, 0), (1, 1, 1), (4, 3, 5)) for half in (0, 3)], 0
    )
    memory = bytearray(30)
    seen = []

    class Spy:
        def read(self, where, into):
            seen.append((where, np.frombuffer(into, np.uint8).ctypes.data))

    address = np.frombuffer(memory, np.uint8).ctypes.data
    for part in (ExpertPart("w", "U16", view), ExpertPart("w", "U16", rows)):
        for expert in range(part.experts):
            seen.clear()
            whole = bytearray(part.nbytes)
            target = memory if part.nbytes == 30 else whole
            read_expert(Spy(), [part], expert, lambda name, target=target: memoryview(target))
            assert len(seen) == 1 and seen[0][0] == part.at(expert)
            assert target is whole or seen[0][1] == address


def test_an_expert_that_is_no_range_says_so(blob):
    """`at` refuses a transposed expert; `read_expert` reads it."""
    file, _ = blob
    part = ExpertPart("w", "U8", ArrayView.of(file, 0, (2, 3, 4), 1).transpose((0, 2, 1)))
    with pytest.raises(NotAddressable, match="expert 1 of w is not one range"):
        part.at(1)


@pytest.mark.parametrize(("shape", "new"), list(itertools.product([(4, 6)], [(24,), (2, 12)])))
def test_a_reshape_across_turned_rows_is_refused(shape, new, blob):
    """A reshape that no strides can express is an error."""
    view = ArrayView.of(blob[0], 0, shape, 1).transpose((1, 0))
    with pytest.raises(NotAddressable, match="not adjacent"):
        view.reshape(new)
