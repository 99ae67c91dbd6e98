"""Compares with llama.cpp: the same geometry, the same routing, about the same bits, in turn.

    make bench-peers            (or: python -m benchmarks.peers --python PYTHON_WITH_LLAMA_CPP)

Runs are in RAM, and under memory limits where this machine lets a process make a control group.
Each is a process of its own, and ours alternate with theirs; rows go to
`benchmarks/results/peers-<machine>.csv`. Under a limit our expert cache gets what the
loaded process leaves of it; theirs is the page cache. With fewer layers both models are in RAM at
once, and their tokens alternate (`side_by_side.py`).
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import sections, side_by_side
from benchmarks.bench import BUSY, TRACES, Others, say, told
from benchmarks.cgroups import limited, read_ahead
from benchmarks.edge import EDGE, Edge
from benchmarks.llama import Killed, Llama, way
from benchmarks.results import ROOT, Row, append
from outlier_jupyter.benchmark.models import default_folder, find_source, make
from outlier_jupyter.benchmark.rounds import Numbers, row

GIB = 1 << 30
LIMITS = "0,12,8,4,3"
"""In GiB; 0 is none, all in RAM."""
TOKENS = 32
FILLED = 0.99
"""The share of a limit that our process may take: the kernel counts page tables, too."""
READ_AHEAD_KB = 128
ABREAST = 24
"""Layers of the two models that are in RAM at once."""


def compare(
    peer: Llama, limit: int | None, rounds: int, threads: list[int], program: str | None
) -> list[Row]:
    """Run ours and theirs in turn, all in RAM or under a limit of so many bytes."""
    subjects: dict[str, Callable[[int, tuple[str, ...]], Numbers]] = {}
    made = peer.made
    if limit is None:
        every = made.shape.layers * made.shape.experts
        subjects["ours, all cached"] = lambda number, prefix: sections.alone(
            made, number, prefix, tokens=TOKENS, cache_experts=every
        )
    else:
        subjects["ours, cache as measured"] = lambda number, prefix: sections.alone(
            made, number, prefix, tokens=TOKENS, limit=int(FILLED * limit)
        )
    for count in threads:
        # Repacked weights are anonymous memory: under a limit the process would be killed.
        for mmap in (True, False) if limit is None else (True,):
            subjects[way(count, mmap)] = lambda number, prefix, count=count, mmap=mmap: peer.run(  # type: ignore[misc]
                sections.text_of(made, number, tokens=TOKENS), prefix,
                threads=count, mmap=mmap, repack=not mmap,
            )  # fmt: skip
    if program is not None and limit is not None:
        edge = Edge(peer, program, int(FILLED * limit))
        subjects[EDGE] = lambda number, prefix: edge.run(
            sections.text_of(made, number, tokens=TOKENS), prefix, threads[0]
        )
    seen: dict[str, list[Numbers]] = {name: [] for name in subjects}
    for number in range(rounds):
        for name, run in subjects.items():
            sections.forget([peer.gguf, made.file()])
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
    about = made.description | {
        "limit_gib": "" if limit is None else limit / GIB, "prompt": sections.PROMPT,
        "tokens": TOKENS, "bits": 4.5, "read_ahead_kb": READ_AHEAD_KB,
    }  # fmt: skip
    return [row(name, each, **about) for name, each in seen.items() if each]


def alone_or_limited(
    run: Callable[[int, tuple[str, ...]], Numbers], number: int, limit: int | None
) -> Numbers | None:
    """One run, in a control group if there is a limit; None where no group can be made."""
    if limit is None:
        return run(number, ())
    with limited(limit) as prefix:
        return None if prefix is None else run(number, prefix)


def keep(part: str, measure: Callable[..., list[Row]], *asked: object) -> None:
    """Measure, and append the rows with the share of CPU time that other processes took."""
    others = Others()
    rows = measure(*asked)
    gc.collect()  # an engine has reference cycles, and the next runs need its memory
    share = others.share()
    stamp = {"others_cpu": round(share, 3), "busy": "yes" if share > BUSY else "no"}
    for one in rows:
        say(told(one))
    append("peers", [{"part": part} | one | stamp for one in rows])


def main() -> int:
    """Write the GGUFs, run all comparisons, append the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", default=str(ROOT / "build/peers/bin/python"))
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--traces", type=Path, default=TRACES)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=2, help="of whole runs; 0 leaves them out")
    parser.add_argument("--limits", default=LIMITS, help=f"in GiB, 0 for none ({LIMITS})")
    parser.add_argument("--threads", default="2,4", help="of llama.cpp; in RAM the first alone")
    parser.add_argument(
        "--abreast", type=int, default=ABREAST, help="layers that both hold at once; 0: none"
    )
    parser.add_argument("--edge", help="bmoe-cli of BigMoeOnEdge, which runs under the limits, too")
    args = parser.parse_args()
    source = find_source(args.traces if args.traces.is_dir() else None, say)
    threads = [int(count) for count in args.threads.split(",")]
    if args.abreast:
        made = make("30b", args.folder, source, layers=args.abreast, distinct=1, report=say)
        keep("abreast", side_by_side.compare, Llama(made, args.python), threads[0], say)
    if not args.rounds:
        return 0
    peer = Llama(make("30b", args.folder, source, layers=args.layers, report=say), args.python)
    peer.write(say)
    limits = [int(float(gib) * GIB) or None for gib in args.limits.split(",")]
    with read_ahead(peer.gguf, READ_AHEAD_KB) as ahead:
        say(f"the disk reads {ahead} kB ahead")
        for limit in limits:
            counts = threads[:1] if limit is None else threads
            keep("peers", compare, peer, limit, args.rounds, counts, args.edge)
    return 0


if __name__ == "__main__":
    sys.exit(main())
