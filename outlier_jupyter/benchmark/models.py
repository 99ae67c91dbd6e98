"""Makes the benchmark's models and chooses their routing.

A model is written on first use and found again later. Its routing is that of a recorded trace;
without one, a run of the demo model is recorded.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from ..engine.load import load
from ..engine.repack import repack
from ..errors import OptionError
from ..formatting import size_words
from .geometry import Shape, config_of, write_model
from .routing import Routes, Source, read_source, resample

PREFERRED = "qwen3-30b-a3b.safetensors"
DEMO_TOKENS = 160
SPARE = 4_000_000_000
"""Bytes of the disk that stay free."""
Report = Callable[[str], object]
"""Receives a line of text about the progress."""


@dataclass(frozen=True)
class Made:
    """A model of the benchmark.

    Attributes:
        name: of its geometry.
        distinct: number of layers with their own bytes in the model's files.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    routes: Routes
    distinct: int

    @property
    def shape(self) -> Shape:
        """Its layers, experts and k."""
        return Shape.of(self.config)

    @property
    def description(self) -> dict[str, object]:
        """The columns of every result row that describe the model."""
        shape = self.shape
        aliased = "" if self.distinct == shape.layers else (
            f"; {shape.layers} layers named over the bytes of {self.distinct} in the model's files"
        )  # fmt: skip
        return {
            "model": f"{self.name}, random weights, vocabulary {shape.vocabulary}{aliased}",
            "layers": shape.layers, "experts": shape.experts, "top_k": shape.k,
            "routing": self.routes.description,
        }  # fmt: skip

    def file(self) -> Path:
        """The file that experts are read from."""
        records = self.folder / "experts.repacked"
        return records if records.exists() else min(self.folder.glob("model-layer*"))


def default_folder() -> Path:
    """The default folder of the models."""
    return user_cache_path("outlier_jupyter") / "bench"


def find_source(traces: Path | None, report: Report) -> Source:
    """The source of routing: Qwen3's trace in the folder, else another, else the demo's own."""
    found = sorted(traces.glob("*.safetensors")) if traces is not None else []
    best = next((file for file in found if file.name == PREFERRED), found[0] if found else None)
    if best is not None:
        return read_source(best)
    report("there are no recorded traces: recording the demo model's own routing")
    return record_demo()


def record_demo() -> Source:
    """The routing of the shipped demo model over a text that it generates."""
    with load("demo", resident=True, warm="off", quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        engine.generate(
            "What is an expert in a model?", max_tokens=DEMO_TOKENS, temperature=0.7, seed=1
        )
        assert engine.last_run is not None
        trace = engine.last_run.trace
        order = np.argsort(-trace.weights, axis=-1)
        picks = np.take_along_axis(trace.experts, order, axis=-1)
        return Source(picks, max(engine.info.experts_per_layer), "the shipped demo model")


def make(
    name: str,
    home: Path,
    source: Source,
    *,
    layers: int | None = None,
    distinct: int | None = 8,
    repacked: bool = True,
    report: Report = lambda line: None,
    config: dict[str, Any] | None = None,
) -> Made:
    """Write a model of the geometry `name` below `home`, unless it exists.

    Args:
        layers: fewer than the geometry has.
        distinct: number of layers with their own bytes, if the disk has room; the others share
            them. Repacked experts never share.
        repacked: also write the experts as records.
        config: a geometry other than the named ones.

    Raises:
        OptionError: the disk has no room.
    """
    config = config or config_of(name, layers)
    shape = Shape.of(config)
    routes = resample(source, shape.layers, shape.experts, shape.k,
                      shape.texts(len(source.picks)))  # fmt: skip
    folder = home / f"{name}-{shape.layers}"
    distinct = min(distinct or shape.layers, shape.layers)
    if not (folder / "bench.json").exists():
        distinct = _fitting(config, home, distinct, repacked)
    else:
        distinct = len(list(folder.glob("model-layer*")))
    report(f"{folder}: {shape.layers} layers of {shape.experts} experts; written if missing")
    write_model(folder, config, routes, distinct=distinct)
    if repacked and not (folder / "experts.repacked").exists():
        report(f"{folder}: repacking the experts")
        repack(folder, folder, quiet=True)
    return Made(name, folder, config, routes, distinct)


def layer_nbytes(config: dict[str, Any]) -> int:
    """Bytes of a layer's experts, 4-bit in groups of 64 with bfloat16 scales and biases."""
    inner = config.get("text_config", config)
    weights = 3 * inner["hidden_size"] * inner["moe_intermediate_size"]
    return int(inner["num_experts"] * weights * 4.5 / 8)


def _fitting(config: dict[str, Any], home: Path, distinct: int, repacked: bool) -> int:
    home.mkdir(parents=True, exist_ok=True)
    each, layers = layer_nbytes(config), Shape.of(config).layers
    room = shutil.disk_usage(home).free - SPARE - (layers * each if repacked else 0)
    if room < each:
        raise OptionError(
            f"{home} has no room for the benchmark's model: {size_words(2 * each - room)} more "
            "are needed; make room or name another folder"
        )
    return min(distinct, int(room // each))
