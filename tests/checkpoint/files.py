"""Hypothesis strategies: safetensors files of every structure."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from outlier_jupyter.checkpoint.layout import ITEM_BYTES

NAMES = st.from_regex(r"[a-z]{1,6}(\.[a-z0-9]{1,6}){0,2}", fullmatch=True)
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@dataclass(frozen=True)
class Shard:
    """One file to write: its tensors in byte order, and the rest of the header."""

    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    order: tuple[int, ...]
    padding: int
    metadata: dict[str, str] | None
    seed: int

    def write(self, file: Path) -> Path:
        """Write it with tensors in byte order and header entries in another order."""
        entries, end = [], 0
        for name, dtype, shape in self.tensors:
            begin, size = end, ITEM_BYTES[dtype]
            for n in shape:
                size *= n
            end = begin + size
            entries.append(
                (name, {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]})
            )
        header: dict[str, object] = dict(entries[index] for index in self.order)
        if self.metadata is not None:
            header = {"__metadata__": self.metadata, **header}
        text = json.dumps(header).encode() + b" " * self.padding
        data = bytes((self.seed + 31 * i) % 251 for i in range(end))
        file.write_bytes(struct.pack("<Q", len(text)) + text + data)
        return file


@st.composite
def shards(draw: st.DrawFn) -> list[Shard]:
    """One to three shards with distinct names, in any order and with any alignment of the bytes."""
    names = draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))
    count = draw(st.integers(1, 3))
    made = []
    for number in range(count):
        mine = [
            (name, draw(st.sampled_from(sorted(ITEM_BYTES))), draw(SHAPES))
            for name in names[number::count]
        ]
        made.append(
            Shard(
                tuple(draw(st.permutations(mine))),
                tuple(draw(st.permutations(range(len(mine))))),
                draw(st.integers(0, 9)),
                draw(st.none() | st.dictionaries(NAMES, NAMES, max_size=2)),
                draw(st.integers(0, 250)),
            )
        )
    return made
