"""Folders of models from strangers: a tiny model whose shard, index, config, tokenizer or repacked
experts are changed, cut, or replaced by pipes, devices, links and other files, or that have code of
their own (`auto_map`, `model_file`, modules, pickles) or hostile chat templates. Each is loaded and
runs a few tokens: it is refused by one short sentence of our own, or it computes. Never is
its code run, a thread or a file left open, more than 20 s of CPU time taken, or 400 MB of memory.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import psutil

import outlier_jupyter
from outlier_jupyter.checkpoint import records
from outlier_jupyter.errors import OutlierError
from outlier_jupyter.testing import tiny_checkpoint
from tests.hostile_templates import DEEP, LARGE, OUTSIDE
from tests.interrupting import open_files, threads
from tests.torture.counts import Counts, deadline
from tests.torture.mutations import (
    any_value,
    bytes_changed,
    json_text_changed,
    manifest_changed,
    safetensors_changed,
)

TITLE = "Bad models"
GROUP = 2.0
QUICK_S = 1.5
LONG_S = 600.0
REFUSED, RUN = OUTCOMES = ("refused", "computed")
MOST_S, MOST_NBYTES, LONGEST = 20.0, 400e6, 330
SHARDS = ("model-00000.safetensors", "model-00001.safetensors")
INDEX = "model.safetensors.index.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
CODE = "import pathlib\npathlib.Path({!r}).touch()\n"
"""A module that leaves a file, if it is run."""
AUTO_MAP = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "code.Model")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.mark), "w")


class Folders:
    """Copies of a tiny model in two shards, each with one thing wrong.

    Attributes:
        folder: the copy; `mark`, the file that its code would make.
        tokens: what the model answers if nothing is wrong.
    """

    def __init__(self, scratch: Path, rng: Random) -> None:
        self.rng, self.whole, self.folder = rng, scratch / "whole", scratch / "model"
        self.mark, self.outside = scratch / "mark", scratch / "outside.safetensors"
        tiny_checkpoint(self.whole, shards=2)
        self.outside.write_bytes((self.whole / SHARDS[0]).read_bytes())
        outlier_jupyter.repack(self.whole, quiet=True)
        names = {
            name: shard
            for shard in SHARDS
            for name in json.loads(
                (self.whole / shard).read_bytes()[8:].split(b"}}", 1)[0] + b"}}"
            )
            if name != "__metadata__"
        }  # fmt: skip
        (self.whole / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
        with outlier_jupyter.load(self.whole, cache_experts=6, quiet=True) as engine:
            self.tokens = engine.generate("ab", raw=True, max_tokens=3).tokens.tolist()

    def fresh(self) -> None:
        """Another copy."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.whole, self.folder)

    def change(self, name: str, how: Callable[[bytes, Random], bytes]) -> None:
        """Change one file of the copy."""
        file = self.folder / name
        file.write_bytes(how(file.read_bytes(), self.rng))

    def edit(self, name: str, **values: object) -> None:
        """Set fields of a JSON file."""
        file = self.folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    def shard(self) -> None:
        """A header, or a tensor's bytes."""
        self.change(self.rng.choice(SHARDS), safetensors_changed)

    def cut(self) -> None:
        """A shard that is cut, longer, or another one's."""
        data = (self.folder / SHARDS[1]).read_bytes()
        data = self.rng.choice((data[: self.rng.randrange(len(data))], data + data[:99], b""))
        (self.folder / self.rng.choice(SHARDS)).write_bytes(data)

    def index(self) -> None:
        """An index, sometimes of files outside."""
        if self.rng.random() < 0.3:
            other = self.rng.choice(
                (f"../{self.outside.name}", str(self.outside), "/dev/zero", ".", SHARDS[1])
            )
            self.change(INDEX, lambda data, _: data.replace(SHARDS[0].encode(), other.encode()))
        else:
            self.change(INDEX, json_text_changed)

    def config(self) -> None:
        """A value of config.json, or its text."""
        if self.rng.random() < 0.5:
            key = self.rng.choice(sorted(json.loads((self.folder / "config.json").read_text())))
            self.edit("config.json", **{key: any_value(self.rng)})
        else:
            self.change("config.json", json_text_changed)

    def tokenizer(self) -> None:
        """A tokenizer's files."""
        how = json_text_changed if self.rng.random() < 0.8 else bytes_changed
        self.change(self.rng.choice(TOKENIZER), how)

    def repacked(self) -> None:
        """The manifest of repacked experts, or their bytes."""
        self.change(records.NAME, manifest_changed)

    def irregular(self) -> None:
        """A pipe, device, folder, link or nothing in place of a file."""
        file = self.folder / self.rng.choice((*SHARDS, INDEX, "config.json", *TOKENIZER))
        file.unlink()
        self.rng.choice((
            lambda: os.mkfifo(file), lambda: file.symlink_to("/dev/zero"), file.mkdir,
            lambda: file.symlink_to(self.folder / "nothing"), lambda: file.symlink_to(file),
            lambda: file.symlink_to("/dev/stdin"), lambda: None,
        ))()  # fmt: skip

    def code(self) -> None:
        """Code of its own, asked for by its configs or not."""
        text = CODE.format(str(self.mark))
        for name in ("code.py", "modeling.py", "tokenization.py", "__init__.py", "conftest.py"):
            (self.folder / name).write_text(text)

        for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
            (self.folder / name).write_bytes(pickle.dumps(Bomb(self.mark)))
        which = self.rng.randrange(4)
        if which == 0:
            self.edit("config.json", auto_map=AUTO_MAP)
        elif which == 1:
            self.edit("config.json", model_file="code.py")
        elif which == 2:
            self.edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T", "code.T"]},
                      tokenizer_class="T")  # fmt: skip
        else:
            (self.folder / SHARDS[0]).unlink()

    def template(self) -> None:
        """A hostile chat template."""
        text = self.rng.choice(self.rng.choice((DEEP, LARGE, OUTSIDE)))
        self.edit("tokenizer_config.json",
                  chat_template=text.replace("PLACE", str(self.mark)))  # fmt: skip

    def both(self) -> None:
        """Two of the others."""
        for change in self.rng.sample((self.shard, self.index, self.config, self.tokenizer), 2):
            change()


REPACKED = "repacked experts"
KINDS: dict[str, Callable[[Folders], None]] = {
    "a shard's header or bytes": Folders.shard, "a shard cut, longer, or another's": Folders.cut,
    "the index": Folders.index, "config.json": Folders.config,
    "the tokenizer's files": Folders.tokenizer, REPACKED: Folders.repacked,
    "pipes, devices, links, folders": Folders.irregular, "code of its own": Folders.code,
    "two of these": Folders.both, "a chat template": Folders.template,
}  # fmt: skip


def load_and_run(folder: Path, rng: Random, wanted: list[int]) -> str:
    """Either of OUTCOMES, else what must not be.

    Args:
        wanted: the tokens, where a model that is not refused must have these.
    """
    chat = not wanted and rng.random() < 0.5
    try:
        with outlier_jupyter.load(
            folder, cache_experts=6, quiet=True, kernels=rng.choice(("auto", "mlx")),
            reader=rng.choice(("pread", "direct", "mmap")),
        ) as engine:  # fmt: skip
            found = engine.generate("ab", raw=not chat, max_tokens=3).tokens.tolist()
        return f"it computed {found} in place of {wanted}" if wanted not in ([], found) else RUN
    except OutlierError as error:
        text = str(error)
        longest = LONGEST + text.count(str(folder)) * len(str(folder))
        if len(text) > longest or "\n" in text:
            return f"the message has {len(text)} characters: {text[:90]}"
        return REFUSED
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]}"


def one(folders: Folders, kind: str) -> str:
    """Break a folder, load it; either of OUTCOMES, else what must not be."""
    folders.fresh()
    KINDS[kind](folders)
    process, others = psutil.Process(), threading.enumerate()
    rss, begun = process.memory_info().rss, time.process_time()
    wanted = folders.tokens if kind == REPACKED else []
    found = load_and_run(folders.folder, folders.rng, wanted)
    took, more = time.process_time() - begun, process.memory_info().rss - rss
    if folders.mark.exists():
        folders.mark.unlink()
        return "its code was run"
    if left := open_files(folders.folder) + threads(but=others):
        return f"{left} is left"
    if took > MOST_S:
        return f"it took {took:.0f} s"
    return f"it took {more / 1e6:.0f} MB" if more > MOST_NBYTES else found


def torture(seconds: float, seed: int, scratch: Path) -> Counts:
    """Load broken folders until the time is over; templates take long, and need 30 s."""
    counts, rng, more = Counts(), Random(seed), deadline(seconds)
    folders = Folders(scratch, rng)
    kinds = list(KINDS)[: None if seconds >= 30 else -1]
    outcomes = dict.fromkeys(OUTCOMES, 0)
    while more() or counts.times < len(kinds):
        kind = kinds[counts.times % len(kinds)]
        found = one(folders, kind)
        failed = "" if found in outcomes else found
        if not failed:
            outcomes[found] += 1
        counts.add(kind, failed=failed)
    counts.measure("of all: refused; computed", f"{outcomes[REFUSED]:,}; {outcomes[RUN]:,}")
    return counts
