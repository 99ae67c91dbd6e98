"""Beside llama.cpp: the same geometry, the same routing and about the same bits, in turn.

    make bench-peers            (or: python -m benchmarks.peers --python PYTHON_WITH_LLAMA_CPP)

In RAM, and under memory limits where this machine lets a process make a control group. Each run is
a process of its own, and ours alternate with theirs; rows go to
`benchmarks/results/peers-<machine>.csv`. Under a limit our cache is what the limit leaves beside
what we promise to keep to; theirs is the page cache.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sections
from benchmarks.bench import BUSY, TRACES, Others, say, told
from benchmarks.cgroups import limited, read_ahead
from benchmarks.results import ROOT, Row, append
from outlier_jupyter.bench.geometry import router_codes
from outlier_jupyter.bench.models import Made, default_folder, find_source, make
from outlier_jupyter.bench.rounds import Numbers, row
from outlier_jupyter.machine import Machine
from outlier_jupyter.memory import beside_nbytes
from outlier_jupyter.planning import plan

GIB = 1 << 30
LIMITS = "12,8,4,3"
TOKENS = 32
READ_AHEAD_KB = 128
PEER = ROOT / "benchmarks" / "peer"


class Killed(Exception):
    """The system ended a run for the memory it wanted."""


def write_gguf(made: Made, python: str) -> Path:
    """The model as a GGUF, made if it is not there."""
    sections.routes_file(made)
    shape = made.shape
    random = np.random.default_rng(0)
    gates = [router_codes(made.routes, layer, shape.experts, shape.hidden, random)
             for layer in range(shape.layers)]  # fmt: skip
    np.save(made.folder / "gates.npy", np.stack(gates))
    target = made.folder / "peer.gguf"
    if not target.exists():
        say(f"{target}: written")
        subprocess.run([python, PEER / "write_gguf.py", made.folder, target], check=True)
    return target


def llama(made: Made, gguf: Path, python: str, number: int, **settings: Any) -> Numbers:
    """One run of llama.cpp."""
    text = sections.text_of(made, number, tokens=TOKENS)
    prefix = settings.pop("prefix", ())
    asked = {"model": str(gguf), "routes": str(made.folder / "routes.npz"), "first": text.first,
             "prompt": text.prompt, "tokens": text.tokens} | settings  # fmt: skip
    command = [*prefix, python, str(PEER / "run_llama.py"), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGKILL and prefix:
        raise Killed
    if done.returncode:
        raise RuntimeError(f"llama.cpp failed ({done.returncode}): {done.stderr[-2000:]}")
    found: Numbers = json.loads(done.stdout.splitlines()[-1])
    if found["right"] < 0.9:
        raise RuntimeError(f"llama.cpp said the text's next token in {found['right']:.0%} only")
    return found


def cache_for(made: Made, limit: int) -> float:
    """GB for experts: the limit without dense weights, KV cache and what is taken beside them."""
    found = plan(str(made.folder), machine=Machine(limit, limit))
    kv = (found.kv_per_token or 0) * 256
    beside = beside_nbytes(made.shape.vocabulary)
    return (0.97 * limit - found.dense - kv - beside) / 1e9


def compare(
    made: Made, gguf: Path, python: str, limit: int | None, rounds: int, threads: list[int]
) -> list[Row]:
    """Ours and theirs in turn, all in RAM or under a limit of so many bytes."""
    subjects: dict[str, Callable[[int, tuple[str, ...]], Numbers]] = {}
    shape = made.shape
    if limit is None:
        every = shape.layers * shape.experts
        subjects["ours, all cached"] = lambda number, prefix: sections.alone(
            made, number, prefix, cache_experts=every
        )
    else:
        cache = cache_for(made, limit)
        subjects["ours, cache as planned"] = lambda number, prefix: sections.alone(
            made, number, prefix, cache_gb=cache
        )
    for count in threads:
        # What it repacks is memory of its own: under a limit it is killed for that.
        for mmap in (True, False) if limit is None else (True,):
            name = f"llama.cpp, {count} threads, " + ("mmap" if mmap else "repacked in RAM")
            subjects[name] = lambda number, prefix, count=count, mmap=mmap: llama(  # type: ignore[misc]
                made, gguf, python, number, threads=count, mmap=mmap, repack=not mmap, prefix=prefix
            )
    seen: dict[str, list[Numbers]] = {name: [] for name in subjects}
    for number in range(rounds):
        for name, run in subjects.items():
            sections.forget([gguf, made.file()])
            try:
                found = alone_or_limited(run, number, limit)
            except Killed:
                say(f"round {number}, {name}: killed, for it wanted more memory than it may have")
                continue
            if found is None:
                say("no control group can be made here: the limited runs are left out")
                return []
            say(f"round {number}, {name}: {1 / found['token_s']:.2f} tokens/s")
            seen[name].append(found)
    about = made.said | {
        "limit_gib": "" if limit is None else limit / GIB, "prompt": sections.PROMPT,
        "tokens": TOKENS, "bits": 4.5, "read_ahead_kb": READ_AHEAD_KB,
    }  # fmt: skip
    return [row(name, each, **about) for name, each in seen.items() if each]


def alone_or_limited(
    run: Callable[[int, tuple[str, ...]], Numbers], number: int, limit: int | None
) -> Numbers | None:
    """One run, in a control group if there is a limit; None where there can be none."""
    if limit is None:
        return run(number, ())
    with limited(limit) as prefix:
        return None if prefix is None else run(number, prefix)


def main() -> int:
    """Write the GGUF, run all comparisons, append the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=str(ROOT / "build/peers/bin/python"))
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limits", default=LIMITS, help=f"in GiB ({LIMITS}); 0 leaves them out")
    parser.add_argument("--threads", default="2,4", help="of llama.cpp; in RAM the first alone")
    given = parser.parse_args()
    source = find_source(given.traces if given.traces.is_dir() else None, say)
    made = make("30b", given.folder, source, layers=given.layers, tell=say)
    gguf = write_gguf(made, given.python)
    threads = [int(count) for count in given.threads.split(",")]
    limits = [float(gib) for gib in given.limits.split(",") if float(gib)]
    with read_ahead(gguf, READ_AHEAD_KB) as ahead:
        say(f"the disk reads {ahead} kB ahead")
        for limit in (None, *limits):
            others = Others()
            nbytes = None if limit is None else int(limit * GIB)
            rows = compare(made, gguf, given.python, nbytes, given.rounds,
                           threads[:1] if limit is None else threads)  # fmt: skip
            share = others.share()
            stamp = {"others_cpu": round(share, 3), "busy": "yes" if share > BUSY else "no"}
            for one in rows:
                say(told(one))
            append("peers", [{"part": "peers"} | one | stamp for one in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
