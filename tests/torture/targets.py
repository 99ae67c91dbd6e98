"""What is fuzzed: each target reads bytes from a stranger, and may only succeed or say why not."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

from outlier_jupyter import Run, Trace
from outlier_jupyter.checkpoint import Checkpoint, open_reader
from outlier_jupyter.checkpoint.model_folder import ModelFolder
from outlier_jupyter.checkpoint.records import MAGIC, RecordLayout, Records
from outlier_jupyter.errors import OutlierError
from outlier_jupyter.notebook.chat.conversations import Conversations
from outlier_jupyter.notebook.commands import COMMANDS
from outlier_jupyter.notebook.commands.line import expand_flags, parse, split_prompt
from outlier_jupyter.notebook.commands.parsing import HelpRequested
from outlier_jupyter.notebook.commands.run import cell_parser
from outlier_jupyter.notebook.completion import completions
from outlier_jupyter.notebook.live.frames import Frame, FrameError, decode, encode
from outlier_jupyter.notebook.live.merge_frames import History
from outlier_jupyter.trace.trace import Trace as TraceRecord

from . import mutations
from .mutations import Mutation
from .tiny_files import chat, frames, saved_run, shard

ALLOWED = (OutlierError, HelpRequested, FrameError)


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        seeds: inputs that are right.
        call: reads one input, in a folder of its own; raises one of `ALLOWED` if it is wrong.
        mutate: changes an input and keeps its form.
    """

    seeds: Callable[[], list[bytes]]
    call: Callable[[bytes, Path], None]
    mutate: Mutation


def header(data: bytes, folder: Path) -> None:
    """A shard: its header is read, then the bytes of its smallest tensors."""
    file = folder / "model.safetensors"
    file.write_bytes(data)
    checkpoint = Checkpoint(folder)
    reader = open_reader("pread", checkpoint.files)
    try:
        for span in list(checkpoint.spans.values())[:4]:
            assert span.bytes.offset >= 0 and span.bytes.offset + span.bytes.nbytes <= len(data)
            reader.read(span.bytes, memoryview(bytearray(span.bytes.nbytes)))
    finally:
        reader.close()


def index(data: bytes, folder: Path) -> None:
    """A folder's index, beside a good config and a good shard."""
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_moe"}))
    (folder / "model.safetensors").write_bytes(shard())
    (folder / "model-1.safetensors").write_bytes(shard())
    (folder / "model.safetensors.index.json").write_bytes(data)
    for file in ModelFolder(folder).shards:
        assert file.resolve().parent == folder.resolve(), file


def config(data: bytes, folder: Path) -> None:
    """A folder's config.json and generation_config.json."""
    (folder / "config.json").write_bytes(data)
    (folder / "generation_config.json").write_bytes(data)
    (folder / "model.safetensors").write_bytes(shard())
    opened = ModelFolder(folder)
    opened.check_code()
    _ = opened.generation
    with opened.view() as view:
        assert not list(view.glob("*.py"))


def records(data: bytes, folder: Path) -> None:
    """A file of repacked experts: its manifest, and what is asked of it before it is used."""
    file = folder / "experts.repacked"
    file.write_bytes(data)
    opened = Records.open(file)
    opened.mismatch([], {})
    opened.trailer()


def trace(data: bytes, folder: Path) -> None:
    """A trace: opened, measured, replayed, explained, drawn as tables, saved and opened again."""
    file = folder / "trace.safetensors"
    file.write_bytes(data)
    opened = Trace.load(file)
    questions: tuple[Callable[[TraceRecord], object], ...] = (
        lambda t: t.what_if(),
        lambda t: t.times,
        lambda t: Run.of(t).measures(None),
        lambda t: t.to_pandas(),
        lambda t: Trace.load(t.save(folder / "again.safetensors")),
    )
    for question in questions:
        _allowed(lambda question=question: question(opened))


def run(data: bytes, folder: Path) -> None:
    """A run: opened, shown, explained, and saved again."""
    file = folder / "run.safetensors"
    file.write_bytes(data)
    opened = Run.load(file)
    for question in (
        opened.summary,
        opened._repr_mimebundle_,
        lambda: str(opened.explain(-1)) + opened.explain(-1)._repr_html_(),
        lambda: opened.tokens_of(0, 0)._repr_html_(),
        lambda: opened.experts_of(slice(1, 3))._repr_html_(),
        lambda: opened.report(folder / "report.html"),
        lambda: Run.load(opened.save(folder / "again.safetensors")),
    ):
        _allowed(question)


def _allowed(question: Callable[[], object]) -> None:
    with suppress(OutlierError):
        question()


def chats(data: bytes, folder: Path) -> None:
    """A chat: added to others, walked through, and written again as the same."""
    found = Conversations()
    found.add_from(data.decode("utf-8", "replace"))
    for conversation in found.by_id.values():
        _ = conversation.label, conversation.end, conversation.end_answered
        for message in conversation.messages.values():
            _ = message.chars
    text = found.dumps()
    again = Conversations()
    again.add_from(text)
    assert again.dumps() == text


def frame(data: bytes, folder: Path) -> None:
    """Frames of the live view, one after another, each after its length; the history merges."""
    history, at = History(), 0
    while at + 4 <= len(data):
        size = struct.unpack_from("<I", data, at)[0]
        found: Frame = decode(data[at + 4 : at + 4 + size])
        assert decode(encode(found)) == found
        history.add(found)
        at += 4 + size
    history.snapshot()


def line(data: bytes, folder: Path) -> None:
    """A line after the magic: completed, its variables expanded, split and parsed."""
    text = data.decode("utf-8", "replace")
    for magic in ("%outlier ", "%%outlier "):
        completions(magic + text, ("run", "engine"))
    expand_flags(text, str)
    first, _, rest = text.partition(" ")
    command = COMMANDS.get(first)
    parser = command.parser() if command else cell_parser()
    flags, _ = split_prompt(parser, rest if command else text)
    with redirect_stdout(io.StringIO()):
        parse(parser, rest if command and not command.takes_text else flags)


def record_seeds() -> list[bytes]:
    """Two layers of two experts."""
    plans = [RecordLayout(f"layers.{n}", 2, n * 8192, 4096, 64, [["w", "U8", [64]]])
             for n in range(2)]  # fmt: skip
    made = Records(Path("x"), [["model.safetensors", 9, 9]], plans, [[1, 2], [3, 4]])
    assert made.trailer().endswith(MAGIC)
    short = replace(made, plans=plans[:1], sums=[[1, 2]])
    return [bytes(16384) + made.trailer(), bytes(8192) + short.trailer()]


@cache
def words() -> list[str]:
    """Flags and values of all commands, right ones and odd ones."""
    lines = ["%%outlier ", *(f"%outlier {name} " for name in COMMANDS)]
    flags = sorted({found.text for line in lines for found in completions(line + "--")})
    values = {found.text for flag in flags for line in lines[:3]
              for found in completions(f"{line}{flag} ", ("run",))
              if not found.text.endswith("/")}  # fmt: skip
    return [*COMMANDS, *flags, *sorted(values - set(flags)), *VALUES, *map(str, mutations.TEXTS)]


def line_changed(data: bytes, rng: Random) -> bytes:
    """A line with words more, fewer or in another order; with other bytes now and then."""
    if rng.random() < 0.2:
        return mutations.bytes_changed(data, rng)
    found = data.decode("utf-8", "replace").split(" ")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, what = rng.randrange(len(found) + 1), rng.random()
        new = rng.choice(rng.choice((words(), VALUES)))
        if what < 0.5:
            found[at:at] = [new]
        elif what < 0.6 and at:
            found[at - 1] += rng.choice(("=", "", ":", "{", "'")) + new
        elif what < 0.85:
            found[at : at + 1] = [new]
        else:
            del found[at : at + 1]
    return " ".join(found).encode("utf-8", "replace")


VALUES = ("0", "1", "8", "-1", "1e9", "0.5", "nan", "0:1", "0:1-3", "1:2=3", "a", "run", "/", "[1]",
          "{x}", "'a b'", '"', "é", "1" * 400, "x" * 3000)  # fmt: skip
LINES = (b"load demo --cache-gb 1 # a small one", b"--seed 3 --max-tokens 4 What is {x}?",
         b"run --stop '\\n\\n' -o found \"quoted\"", b"--mask 0:1-3 --boost 1:2=3 --json",
         b"compare a b", b"load ~/mod", b"run --help")  # fmt: skip
INDEX = json.dumps({"metadata": {"total_size": 9}, "weight_map": {
    "a.weight": "model.safetensors", "b.weight": "model-1.safetensors"}}).encode()  # fmt: skip
CONFIG = json.dumps({
    "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 260,
    "num_experts": 8, "num_experts_per_tok": 2, "quantization": {"bits": 4, "group_size": 32},
    "eos_token_id": [1, 2], "temperature": 0.5, "top_p": 0.9, "do_sample": True,
}).encode()  # fmt: skip

TARGETS = {
    "headers": Target(lambda: [shard()], header, mutations.safetensors_changed),
    "index": Target(lambda: [INDEX], index, mutations.json_text_changed),
    "config": Target(lambda: [CONFIG], config, mutations.json_text_changed),
    "records": Target(record_seeds, records, mutations.manifest_changed),
    "traces": Target(lambda: [saved_run()], trace, mutations.safetensors_changed),
    "runs": Target(lambda: [saved_run()], run, mutations.safetensors_changed),
    "chats": Target(lambda: [chat()], chats, mutations.json_text_changed),
    "frames": Target(lambda: [frames()], frame, mutations.bytes_changed),
    "lines": Target(lambda: list(LINES), line, line_changed),
}  # fmt: skip
