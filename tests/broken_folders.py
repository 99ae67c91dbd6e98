"""Some two hundred ways to break a model's folder, each applied to a new copy of the demo."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Break = Callable[[Path], None]
RETYPED: tuple[Any, ...] = (None, "x", -1, [], {}, 1.5, True)
"""The replacements of a value, for any type."""
SHARD = "model.safetensors"


def read(file: Path) -> Any:
    """A JSON file."""
    return json.loads(file.read_text())


def edited(name: str, change: Callable[[Any], Any]) -> Break:
    """A JSON file with something changed in it."""

    def make(folder: Path) -> None:
        content = read(folder / name)
        changed = change(content)
        (folder / name).write_text(json.dumps(content if changed is None else changed))

    return make


def written(name: str, data: bytes) -> Break:
    """A file with other contents."""
    return lambda folder: (folder / name).write_bytes(data) and None


def cut(name: str, share: float) -> Break:
    """A truncated file."""

    def make(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return make


def header(change: Callable[[dict[str, Any]], Any]) -> Break:
    """A shard whose header says something else."""

    def make(folder: Path) -> None:
        data = (folder / SHARD).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        content = json.loads(data[8 : 8 + length])
        change(content)
        text = json.dumps(content).encode()
        (folder / SHARD).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return make


def irregular(name: str) -> Break:
    """A pipe in place of a file: opening it blocks for ever."""

    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def _tensor(name: str, key: str, value: Any) -> Break:
    def change(content: dict[str, Any]) -> None:
        content[name][key] = value

    return header(change)


def variants(demo: Path) -> Iterator[tuple[str, Break]]:
    """(name, what breaks a copy of `demo`)."""
    for name in sorted(file.name for file in demo.iterdir() if file.is_file()):
        yield f"without {name}", lambda folder, name=name: (folder / name).unlink()
        yield f"empty {name}", written(name, b"")
        yield f"half of {name}", cut(name, 0.5)
        yield f"{name} as a pipe", irregular(name)
        if name.endswith(".json"):
            for value in ([], "text", 7, None):
                yield f"{name} holds {value!r}", edited(name, lambda content, v=value: v)
            yield f"{name} in UTF-16", written(name, (demo / name).read_text().encode("utf-16"))
            yield (
                f"{name} with a byte order mark",
                written(name, b"\xef\xbb\xbf" + (demo / name).read_bytes()),
            )
    config = read(demo / "config.json")
    for key in config:
        yield (
            f"config without {key}",
            edited("config.json", lambda content, key=key: content.pop(key) and None),
        )
        for value in RETYPED:
            yield (
                f"config {key}={value!r}",
                edited(
                    "config.json", lambda content, key=key, value=value: {**content, key: value}
                ),
            )
    yield (
        "a model type of nobody",
        edited("config.json", lambda content: {**content, "model_type": "nobody"}),
    )
    yield (
        "a billion layers",
        edited("config.json", lambda content: {**content, "num_hidden_layers": 10**9}),
    )
    yield (
        "an unknown quantisation",
        edited(
            "config.json",
            lambda content: (
                {k: v for k, v in content.items() if k != "quantization"}
                | {"quantization_config": {"quant_method": "nobody"}}
            ),
        ),
    )
    tensors = ("model.norm.weight", "lm_head.weight", "model.embed_tokens.weight")
    with (demo / SHARD).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        known = [t for t in json.loads(file.read(length)) if t != "__metadata__"]
    for tensor in [*(t for t in tensors if t in known), known[0], known[-1]]:
        yield f"shard without {tensor}", header(lambda content, t=tensor: content.pop(t))
        for key, value in (
            ("dtype", "F99"), ("dtype", 7), ("shape", [-1]), ("shape", [10**18]), ("shape", "x"),
            ("data_offsets", [0, 10**15]), ("data_offsets", [8, 0]), ("data_offsets", [0]),
        ):  # fmt: skip
            yield f"shard {tensor} {key}={value}", _tensor(tensor, key, value)
    yield "a header of 10^15 bytes", written(SHARD, struct.pack("<Q", 10**15) + b"{}")
    yield "an index of nothing", written("model.safetensors.index.json", b"{}")
    for content in ({"a": 7}, {"a": "../x.safetensors"}, {"a": "model-9.safetensors"}, []):
        yield (
            f"an index of {content}",
            written("model.safetensors.index.json", json.dumps({"weight_map": content}).encode()),
        )


def broken(demo: Path, to: Path) -> Iterator[tuple[str, Path]]:
    """Each variant's name and its folder, which is deleted before the next one is made."""
    for number, (name, make) in enumerate(variants(demo)):
        folder = to / f"variant-{number}"
        shutil.copytree(demo, folder, copy_function=shutil.copyfile)
        make(folder)
        yield name, folder
        shutil.rmtree(folder)
