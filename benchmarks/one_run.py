"""One run of one engine in a process of its own, so that its memory can be limited or measured.

    python -m benchmarks.one_run '{"folder": …, "routes": …, "options": …, "first": …, …}'

Prints the numbers as JSON: speed, hits, the resident set and the budget promised for it. With
`limit` among the options, bytes, the cache gets what the loaded process leaves of it.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import outlier_jupyter
from outlier_jupyter.benchmark.geometry import Shape
from outlier_jupyter.benchmark.routing import Routes
from outlier_jupyter.benchmark.subjects import BenchmarkText, active_bytes, run_engine
from outlier_jupyter.engine.engine import Engine
from outlier_jupyter.engine.first_experts import read_all_experts
from outlier_jupyter.engine.memory import SPARE_NBYTES


def peak_nbytes() -> int:
    """The peak resident set of this process since it began to run this program."""
    status = Path("/proc/self/status")
    if status.exists():  # `getrusage` there reports the parent's, if larger
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used) * (1 if sys.platform == "darwin" else 1024)


def kv_nbytes(engine: Engine, tokens: int) -> int:
    """Bytes of the KV cache of so many tokens, in the 256 by which mlx-lm's grow."""
    needs = engine._needs
    return needs.kv_run + needs.kv_token * (-(-tokens // 256) * 256 - needs.tokens)


def fill_limit(engine: Engine, limit: int, tokens: int) -> None:
    """Give the cache what remains of a limit, by what the process takes and a run will take."""
    use, kv = engine.memory(), kv_nbytes(engine, tokens)
    engine._needs = replace(engine._needs, kv_run=kv, tokens=tokens)
    taken = use.process - use.experts + kv + SPARE_NBYTES
    engine.resize(cache_gb=(limit - taken) / 1e9, force=True)


def main() -> None:
    """Make the run that the first argument describes."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    stored = np.load(asked["routes"])
    routes = Routes(stored["picks"], int(stored["tokens"]), "")
    config = json.loads((Path(asked["folder"]) / "config.json").read_text())
    usual = {"reader": "direct", "kernels": "auto", "quiet": True, "force": True}
    options = usual | asked["options"]
    limit = options.pop("limit", None)
    if limit is not None:
        options["cache_experts"] = Shape.of(config).layers
    with outlier_jupyter.load(asked["folder"], **options) as engine:
        if limit is not None:
            fill_limit(engine, limit, asked["prompt"] + asked["tokens"])
        if engine.status().slots >= Shape.of(config).layers * Shape.of(config).experts:
            read_all_experts(engine)
        run_engine(engine, routes, BenchmarkText(0, 4, 3))
        text = BenchmarkText(asked["first"], asked["prompt"], asked["tokens"])
        found = run_engine(engine, routes, text)
        use = engine.memory()
        length = text.prompt + text.tokens
        promised = use.dense + use.experts + use.python + kv_nbytes(engine, length) + SPARE_NBYTES
        peak = peak_nbytes()
        found |= {
            "active_bytes": active_bytes(engine, config, length), "rss_gb": use.process / 1e9,
            "budget_gb": promised / 1e9, "rss_of_budget": use.process / promised,
            "peak_gb": peak / 1e9, "peak_of_budget": peak / promised,
            "cache_gb": use.experts / 1e9,
        }  # fmt: skip
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
