"""The cost of reading an expert: from a model's files and from records, direct or cached.

    python benchmarks/reads.py [folder on the disk to measure]

Experts of Qwen3-30B-A3B's geometry, random bytes, in 4 layers of 128 (1.4 GB), stacked as mlx-lm
writes them, then repacked. Each round reads 128 experts at random with each way of reading, four at
once, into memory aligned as slots are, with a cold page cache (`pread` uses it). The limit is plain
reads of the same bytes. Rounds are interleaved; rows have the median, the least and the most.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from results import Row, append

from outlier_jupyter.checkpoint import (
    Checkpoint,
    ExpertPart,
    RecordReader,
    open_reader,
    read_expert,
    write_records,
)

LAYERS, EXPERTS, AT_ONCE, READS, ROUNDS = 4, 128, 4, 128, 7
UP, DOWN = (768, 2048), (2048, 768)
Way = Callable[[int, int, int], object]
"""Reads (layer, expert) into the memory of one thread."""


def tensors() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → dtype and shape of the tensors of a layer's experts, affine 4-bit in groups of 64."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (rows, columns) in {"gate": UP, "up": UP, "down": DOWN}.items():
        found[f"{name}.weight"] = ("U32", (EXPERTS, rows, columns // 8))
        found[f"{name}.scales"] = ("BF16", (EXPERTS, rows, columns // 64))
        found[f"{name}.biases"] = ("BF16", (EXPERTS, rows, columns // 64))
    return found


def write_shard(file: Path, layer: int) -> None:
    """One layer's experts, stacked."""
    header, begin = {}, 0
    for name, (dtype, shape) in tensors().items():
        end = begin + int(np.prod(shape)) * (4 if dtype == "U32" else 2)
        header[f"{layer}.{name}"] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for _ in range(EXPERTS):
            stream.write(os.urandom(begin // EXPERTS))
        stream.flush()
        os.fsync(stream.fileno())


def rows(parts: list[ExpertPart], aligned: bool) -> dict[str, memoryview]:
    """Memory for an expert: aligned to a page, or offset as MLX's own memory is."""
    made = {}
    for part in parts:
        whole = np.zeros(part.nbytes + 8192, np.uint8)
        begin = -whole.ctypes.data % 4096 + (0 if aligned else 24)
        made[part.name] = whole.data[begin : begin + part.nbytes]
    return made


def forget(files: list[Path]) -> None:
    """Drop the system's page cache of these files."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(way: Way, wanted: list[tuple[int, int]], nbytes: int) -> tuple[float, float]:
    """MB/s, and CPU milliseconds per expert."""
    shares = [wanted[thread::AT_ONCE] for thread in range(AT_ONCE)]

    def work(thread: int) -> None:
        for layer, expert in shares[thread]:
            way(thread, layer, expert)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        begin, cpu = time.perf_counter(), time.process_time()
        list(pool.map(work, range(AT_ONCE)))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return len(wanted) * nbytes / seconds / 1e6, cpu * 1e3 / len(wanted)


def ways(folder: Path, files: list[Path]) -> dict[str, Way]:
    """Every way of reading, by name."""
    spans = Checkpoint(folder).spans
    layers = {
        str(layer): [
            ExpertPart(name, dtype, spans[f"{layer}.{name}"].view())
            for name, (dtype, _) in tensors().items()
        ]
        for layer in range(LAYERS)
    }
    target = folder / "experts.repacked"
    begin, cpu = time.perf_counter(), time.process_time()
    records = write_records(target, files, layers).records
    sys.stdout.write(
        f"repacked {records.nbytes / 1e6:.0f} MB in {time.perf_counter() - begin:.1f} s, "
        f"{time.process_time() - cpu:.1f} s of CPU time\n"
    )
    straight = [records.parts(layer, parts) for layer, parts in enumerate(layers.values())]
    first = layers["0"]
    found: dict[str, Way] = {}

    def add(name: str, reader: object, sources: list, aligned: bool) -> None:
        memory = [rows(first, aligned) for _ in range(AT_ONCE)]
        found[name] = lambda thread, layer, expert: read_expert(
            reader, sources[layer], expert, memory[thread].__getitem__
        )

    for kind in ("direct", "pread"):
        add(f"{kind}, model's files", open_reader(kind, files), list(layers.values()), True)
        reader = open_reader(kind, [*files, target])
        add(f"{kind}, records", RecordReader(reader, records, layers, ""), straight, True)
    reader = open_reader("direct", [target])
    add("direct, records, slots not on pages", reader, straight, False)
    memory = [rows(first, True) for _ in range(AT_ONCE)]
    inner = open_reader("direct", [target])
    views = [list(each.values()) for each in memory]
    order = [sorted(each, key=lambda view: -len(view)) for each in views]
    found["the limit: direct, bare"] = lambda thread, layer, expert: inner.scatter(
        records.plans[layer].record(target, expert), order[thread]
    )
    return found


def main() -> None:
    """Measure, print, and append the rows."""
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    folder = Path(tempfile.mkdtemp(dir=where))
    try:
        files = [folder / f"model-{layer}.safetensors" for layer in range(LAYERS)]
        for layer, file in enumerate(files):
            write_shard(file, layer)
        found = ways(folder, files)
        every = [(layer, expert) for layer in range(LAYERS) for expert in range(EXPERTS)]
        for way in found.values():  # the first read of a record also checks its sum
            measure(way, every, 1)
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
        for number in range(ROUNDS):
            wanted = random.Random(number).sample(every, READS)
            for name in random.Random(number).sample(list(found), len(found)):
                forget(list(folder.iterdir()))
                seen[name].append(measure(found[name], wanted, 2_654_208))
    finally:
        shutil.rmtree(folder)
    made: list[Row] = []
    for name, figures in seen.items():
        speeds, costs = zip(*figures, strict=True)
        row: Row = {
            "way": name, "mb_per_s": round(statistics.median(speeds)), "least": round(min(speeds)),
            "most": round(max(speeds)), "cpu_ms_per_expert": round(statistics.median(costs), 3),
            "rounds": ROUNDS, "load": round(os.getloadavg()[0], 1),
        }  # fmt: skip
        made.append(row)
        sys.stdout.write(
            f"{name:38} {row['mb_per_s']:6} MB/s ({row['least']}–{row['most']}), "
            f"{row['cpu_ms_per_expert']:.2f} ms of CPU time an expert\n"
        )
    sys.stdout.write(f"{append('reads', made)}\n")


if __name__ == "__main__":
    main()
