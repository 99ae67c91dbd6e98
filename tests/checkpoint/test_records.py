"""Records have the shards' bytes, whatever happens while they are written or read."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from outlier_jupyter.checkpoint import (
    ArrayView,
    Checkpoint,
    ExpertPart,
    RecordReader,
    Records,
    open_reader,
    read_expert,
    repack,
    write_records,
)
from outlier_jupyter.checkpoint.records import FOOTER, MAGIC
from outlier_jupyter.errors import CheckpointError, ReadFailed, RepackFailed
from outlier_jupyter.options import READERS

LAYOUTS = ("stacked", "one by one", "turned", "every second")
SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=3) | st.sampled_from([[4096], [2, 512]])
PART = st.tuples(st.sampled_from(LAYOUTS), SHAPES, st.sampled_from([1, 2, 4]))
PARTS = st.lists(PART, min_size=1, max_size=4)


class Model:
    """Shards in a folder, their experts as parts, and their bytes by the safetensors library.

    Args:
        layers: for each layer the (layout, shape, itemsize) of each tensor of an expert.
    """

    def __init__(self, folder: Path, layers, experts: int) -> None:
        self.folder, self.experts = folder, experts
        self.target = folder / "experts.repacked"
        rng = np.random.default_rng(len(layers) + experts)
        tensors, self.made = {}, {}
        for layer, parts in enumerate(layers):
            for number, (layout, shape, itemsize) in enumerate(parts):
                name, dtype = f"l{layer}.p{number}", np.dtype(f"u{itemsize}")
                whole = rng.integers(0, 256, (experts, *shape, itemsize)).astype(np.uint8)
                array = whole.view(dtype)[..., 0]
                if layout == "one by one":
                    tensors |= {f"{name}.{e}": row for e, row in enumerate(array)}
                elif layout == "turned":
                    tensors[name] = np.ascontiguousarray(array.transpose(self.axes(array.ndim)))
                elif layout == "every second":
                    tensors[name] = np.repeat(array, 2, axis=1)
                else:
                    tensors[name] = array
                self.made[layer, number] = (name, layout)
        names = sorted(tensors)
        for shard in range(2):
            mine = {name: tensors[name] for name in names[shard::2]}
            save_file(
                mine or {f"pad{shard}": np.zeros(1, "u1")}, folder / f"model-{shard}.safetensors"
            )
        self.checkpoint = Checkpoint(folder)
        self.layers = {}
        for (layer, number), (name, layout) in self.made.items():
            part = ExpertPart(f"p{number}", "U8", self.view(name, layout))
            self.layers[f"l{layer}"] = (*self.layers.get(f"l{layer}", ()), part)

    @staticmethod
    def axes(ndim: int) -> tuple[int, ...]:
        return (0, *range(ndim - 1, 0, -1))

    def view(self, name: str, layout: str) -> ArrayView:
        spans = self.checkpoint.spans
        if layout == "one by one":
            rows = [spans[f"{name}.{e}"].view().expand(0) for e in range(self.experts)]
            return ArrayView.concatenate(rows, 0)
        view = spans[name].view()
        if layout == "turned":
            return view.transpose(self.axes(len(view.shape)))
        if layout == "every second":
            half = (view.shape[0], view.shape[1] // 2, *view.shape[2:])
            steps = (1, 2, *(1 for _ in half[2:]))
            return view.slice(tuple(0 for _ in half), steps, half)
        return view

    def expected(self, layer: int, number: int, expert: int) -> bytes:
        """An expert's tensor, as the safetensors library returns it."""
        name, layout = self.made[layer, number]
        wanted = f"{name}.{expert}" if layout == "one by one" else name
        for file in self.checkpoint.files:
            with safe_open(file, "np") as stream:
                if wanted in stream.keys():  # noqa: SIM118, a file of tensors is not a dict
                    array = stream.get_tensor(wanted)
        if layout == "turned":
            array = array.transpose(self.axes(array.ndim))
        if layout == "every second":
            array = array[:, ::2]
        return np.ascontiguousarray(array if layout == "one by one" else array[expert]).tobytes()

    def write(self, each=lambda nbytes: None):
        return write_records(self.target, self.checkpoint.files, self.layers, each)

    def open(self, kind: str) -> RecordReader:
        files = [*self.checkpoint.files, self.target]
        records = Records.open(self.target)
        assert not records.mismatch(self.checkpoint.files, self.layers)
        return RecordReader(open_reader(kind, files), records, self.layers, "")

    def assert_read(self, reader, aligned: bool = False) -> None:
        """Every expert, read from its record into aligned or unaligned memory, has its bytes."""
        records = Records.open(self.target)
        for layer, parts in enumerate(self.layers.values()):
            moved = records.parts(layer, parts)
            assert [part.name for part in moved] == [part.name for part in parts]
            for expert in range(self.experts):
                memory = {part.name: room(part.nbytes, aligned) for part in parts}
                read_expert(reader, moved, expert, memory.__getitem__)
                for number, part in enumerate(parts):
                    assert bytes(memory[part.name]) == self.expected(layer, number, expert)


def room(nbytes: int, aligned: bool) -> memoryview:
    """Memory that begins on a page, or one byte after."""
    whole = np.zeros(nbytes + 8192, np.uint8)
    begin = -whole.ctypes.data % 4096 + (0 if aligned else 1)
    return whole.data[begin : begin + nbytes]


THREE = [[("stacked", [700], 4), ("turned", [3, 5], 2), ("stacked", [8, 512], 1)]] * 3


@pytest.fixture
def model(tmp_path):
    return Model(tmp_path, THREE, 4)


@given(
    layers=st.lists(PARTS, min_size=1, max_size=3), experts=st.integers(1, 4),
    kind=st.sampled_from(READERS), aligned=st.booleans(),
)  # fmt: skip
def test_records_hold_what_the_safetensors_library_reads(
    layers, experts, kind, aligned, tmp_path_factory
):
    """Stacked, separate, transposed or interleaved experts are read from records byte for byte."""
    model = Model(tmp_path_factory.mktemp("records"), layers, experts)
    done = model.write()
    assert done.written == experts * len(layers)
    reader = model.open(kind)
    model.assert_read(reader, aligned)
    assert not reader.damaged
    reader.close()
    assert sorted(file.name for file in model.folder.iterdir()) == [
        "experts.repacked", "model-0.safetensors", "model-1.safetensors",
    ]  # fmt: skip


def test_an_expert_is_one_read(model, monkeypatch):
    """With direct reads into page-aligned memory, each expert takes one system call."""
    model.write()
    reader = model.open("direct")
    calls = []
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: calls.append(args) or real(*args))
    model.assert_read(reader, aligned=True)
    assert len(calls) == 3 * 4
    monkeypatch.undo()
    reader.close()


class Stopped(BaseException):
    """Raised in place of a KeyboardInterrupt."""


def stop_at(record: int):
    """A progress callback that raises at the given record, written or read back."""
    seen = []

    def each(nbytes: int) -> None:
        seen.append(nbytes)
        if len(seen) == record:
            raise Stopped

    return each


@pytest.mark.parametrize("after", [1, 5, 9, 12, 13, 23])
def test_an_interrupted_repack_goes_on_where_it_stopped(model, after):
    """Complete layers are kept; only incomplete ones are written again."""
    with pytest.raises(Stopped):
        model.write(stop_at(after))
    assert not model.target.exists()
    whole = min(3, len(model.target.with_suffix(".journal").read_text().splitlines()) - 1)
    assert whole == min((after - 1) // 4, 3)
    done = model.write()
    assert done.written == 4 * (3 - whole)
    model.assert_read(model.open("pread"))


def test_what_an_interrupt_after_the_last_step_left_is_removed(model):
    """The records are whole; the next call checks them, and only their file is left."""
    model.write()
    others = [model.target.with_suffix(end) for end in (".journal", ".partial")]
    for other in others:
        other.write_text("left")
    assert model.write().written == 0
    assert not any(other.exists() for other in others)


def test_a_journal_of_another_model_or_cut_short_is_not_believed(model):
    """The journal is used only as far as it is complete and belongs to these shards."""
    with pytest.raises(Stopped):
        model.write(stop_at(9))
    journal = model.target.with_suffix(".journal")
    assert len(journal.read_text().splitlines()) == 3
    heading = journal.read_text().splitlines()[0]
    journal.write_text(journal.read_text()[:-3])
    assert model.write().written == 8
    model.target.unlink()
    model.target.with_suffix(".partial").write_bytes(b"")
    journal.write_text(heading + "\n[1,2,3,4]\n")
    assert model.write().written == 12
    model.assert_read(model.open("pread"))


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_record_is_read_from_the_shards_and_mended_by_a_repack(model, kind):
    """With a flipped bit the bytes are still right; there are a note and one record to rewrite."""
    records = model.write().records
    where = records.plans[1].record(model.target, 2)
    with model.target.open("r+b") as stream:
        stream.seek(where.offset + 17)
        byte = stream.read(1)[0]
        stream.seek(where.offset + 17)
        stream.write(bytes([byte ^ 4]))
    reader = model.open(kind)
    model.assert_read(reader)
    assert reader.damaged == {("l1", 2)}
    assert "1 of them damaged (such as expert 2 of l1)" in reader.note
    model.assert_read(reader)
    reader.close()
    assert model.write().written == 1
    reader = model.open(kind)
    model.assert_read(reader)
    assert not reader.damaged
    assert model.write().written == 0


def test_a_record_that_cannot_be_read_is_read_from_the_shards(model):
    """With a bad block in the records, reads are correct at the shards' speed."""
    model.write()
    reader = model.open("pread")
    real = reader.inner.scatter

    def broken(where, into):
        if where.file == model.target:
            raise ReadFailed("a bad block")
        real(where, into)

    reader.inner.scatter = broken
    model.assert_read(reader)
    assert len(reader.damaged) == 12


def test_records_of_changed_shards_are_not_used(model):
    """A shard modified since, or experts of another shape, are detected."""
    records = model.write().records
    assert records.mismatch(model.checkpoint.files, model.layers) == ""
    other = {path: parts[:-1] for path, parts in model.layers.items()}
    assert "another form" in records.mismatch(model.checkpoint.files, other)
    os.utime(model.checkpoint.files[0], ns=(1, 1))
    assert "changed" in records.mismatch(model.checkpoint.files, model.layers)


def test_a_file_that_is_not_whole_is_refused(model):
    """A truncated, foreign or altered manifest is one sentence."""
    model.write()
    whole = model.target.read_bytes()
    for content in (b"", whole[:-1], whole[4096:], whole[:-40] + b"x" + whole[-39:]):
        model.target.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"experts\.repacked"):
            Records.open(model.target)
    assert model.write().written == 12


def test_a_full_disk_keeps_what_was_there_and_says_so(model, monkeypatch):
    """If the disk fills during a write, the old records stay, and the repack can resume later."""
    before = model.write().records.file.read_bytes()
    os.utime(model.checkpoint.files[0], ns=(5, 5))
    real, writes = os.pwrite, []

    def full(*args):
        writes.append(args)
        if len(writes) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(repack.os, "pwrite", full)
    with pytest.raises(RepackFailed, match="the disk is full; what was written is kept"):
        model.write()
    monkeypatch.undo()
    assert model.target.read_bytes() == before
    assert model.write().written == 8
    model.assert_read(model.open("pread"))


def test_too_little_room_is_an_error_before_anything_is_written(model, monkeypatch):
    """The error gives the bytes needed and free; no record is written."""
    monkeypatch.setattr(repack, "SPARE", 1 << 60)
    with pytest.raises(RepackFailed, match="are free: make room"):
        model.write()
    assert not model.target.exists()


def test_a_failing_read_of_the_shards_is_an_error_that_can_be_resumed(model, monkeypatch):
    """An unreadable shard ends the repack with its own sentence; the next call resumes."""
    real, reads = repack.read_expert, []

    def failing(*args):
        reads.append(args)
        if len(reads) == 6:
            raise ReadFailed("a bad block")
        return real(*args)

    monkeypatch.setattr(repack, "read_expert", failing)
    with pytest.raises(RepackFailed, match="a bad block; repack again to go on"):
        model.write()
    assert model.write().written == 8


def test_what_is_not_read_back_as_written_never_gets_its_name(model, monkeypatch):
    """A disk that returns other bytes than those written is an error; the good layers stay."""
    real = os.pwrite
    second = repack.plan_records(model.layers)[1].begin

    def lying(descriptor, data, offset):
        return real(descriptor, bytes(len(data)) if offset == second else data, offset)

    monkeypatch.setattr(repack.os, "pwrite", lying)
    with pytest.raises(RepackFailed, match=r"1 records of .* are not what was written"):
        model.write()
    monkeypatch.undo()
    assert not model.target.exists()
    assert model.write().written == 8
    model.assert_read(model.open("pread"))


def test_two_processes_do_not_repack_to_one_file(model):
    """While another process has the lock, the second fails and changes nothing."""
    with model.target.with_suffix(".partial").open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(RepackFailed, match="another process is repacking"):
            model.write()
    assert model.write().written == 12


def with_manifest(file: Path, text: bytes) -> Path:
    file.write_bytes(text + FOOTER.pack(len(text), zlib.crc32(text), MAGIC))
    return file


def test_a_damaged_manifest_is_one_short_sentence(tmp_path):
    """The message does not quote the manifest, however long that is."""
    file = with_manifest(tmp_path / "experts.repacked", b"\xff" * 50_000)
    with pytest.raises(CheckpointError, match="damaged manifest") as caught:
        Records.open(file)
    assert len(str(caught.value)) < 200 + len(str(file))


@pytest.mark.parametrize("experts", [2**31, 2**62, 10**30])
def test_a_manifest_of_experts_without_sums_takes_no_memory(tmp_path, experts):
    """A number of experts that its sums do not confirm is refused before it is used as a size."""
    plan = {"path": "l", "experts": experts, "begin": 0, "stride": 4096, "nbytes": 8, "parts": []}
    text = json.dumps({"source": [], "plans": [plan], "sums": [[1]]}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="damaged manifest"):
            Records.open(with_manifest(tmp_path / "experts.repacked", text))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
