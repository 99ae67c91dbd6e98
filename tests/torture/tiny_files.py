"""Small files that are right, from which fuzzing begins."""

from __future__ import annotations

import json
import struct
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from outlier_jupyter import load
from outlier_jupyter.notebook.chat.conversations import ASSISTANT, USER, Conversations
from outlier_jupyter.notebook.chat.tool_calls import DONE, ToolCall
from outlier_jupyter.notebook.live.frames import STEP, Frame, Totals, encode


def shard() -> bytes:
    """A shard of four tensors, with metadata."""
    entries, begin = {}, 0
    for name, dtype, shape, size in (
        ("a.weight", "F32", [2, 3], 24), ("b.weight", "BF16", [4], 8),
        ("b.scales", "U8", [0, 4], 0), ("c", "U32", [], 4),
    ):  # fmt: skip
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    text = json.dumps({"__metadata__": {"format": "mlx"}, **entries}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(range(begin))


@cache
def saved_run() -> bytes:
    """A run of the demo model with all that can be recorded, as a file."""
    with tempfile.TemporaryDirectory() as folder, load(
        "demo", cache_experts=24, quiet=True, repacked="off"
    ) as engine:  # fmt: skip
        engine.generate("a", max_tokens=2)
        run = engine.generate("Hi", max_tokens=5, alternatives=2, measure_loss=True)
        return run.save(Path(folder) / "run.safetensors").read_bytes()


def chat() -> bytes:
    """A chat of two conversations with a branch, thinking and a tool's call."""
    made = Conversations()
    made.current.system = "Be brief."
    first = made.current.add(0, USER, "What is an *expert*?")
    answer = made.current.add(first.id, ASSISTANT, "One of many.", "stop")
    answer.numbers = {"generated": 3, "tokens_per_second": 41.5}
    answer.thinking = {"text": "Hm.", "seconds": 0.5, "tokens": 2}
    call = ToolCall("1", "add", {"a": 1, "b": [2, "x"]})
    call.end(DONE, "3")
    answer.tool_calls.append(call)
    made.current.add(answer.id, ASSISTANT, "3", "length")
    made.current.add(first.id, ASSISTANT, "Another answer.", "interrupted")
    made.new()
    made.current.add(0, USER, "Second")
    return made.dumps().encode()


def frames() -> bytes:
    """Three frames that follow each other, each after its length."""
    out = b""
    for seq in (1, 2, 3):
        made = Frame(
            run=1, seq=seq, since=seq - 1, first_step=2 * (seq - 1), layers=3, experts=5, slots=7,
            prompt_tokens=2, text="é𝄞", text_start=3 * (seq - 1), steps=np.zeros(2, STEP),
            count_index=np.array([1, 4], np.uint32), count=np.array([2, 1], np.uint32),
            change_index=np.array([3], np.uint32), change_state=np.array([1], np.uint8),
            experts_of=np.ones((2, 3, 2), np.uint16), hits_of=np.ones((2, 3, 2), bool),
            move_step=np.array([seq], np.uint32), move=np.array([7], np.uint32),
            totals=Totals(*range(11)), order_kind=1, order=np.array([1, 3], np.uint32), pinned=1,
            final=seq == 3,
        )  # fmt: skip
        data = encode(made)
        out += struct.pack("<I", len(data)) + data
    return out
