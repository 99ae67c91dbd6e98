"""The demo model, paged at several cache sizes, against mlx-lm with everything in RAM.

    python benchmarks/demo.py

Rounds are interleaved, so that a drift of the machine affects all alike; each row is the median
with its spread, and is appended to benchmarks/results/<machine>.csv with the commit. The limit is
measured in the same run: the bytes of the misses at the disk's direct-read bandwidth.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from mlx_lm import load as load_unpaged
from mlx_lm import stream_generate
from results import append

import outlier_jupyter
from outlier_jupyter.checkpoint import ByteRange, Checkpoint, open_reader
from outlier_jupyter.formatting import three
from outlier_jupyter.system.hub import resolve

PROMPT = "import os\n\ndef read_file(path):\n"
TOKENS = 100
ROUNDS = 5

Measured = dict[str, float]


def paged(slots: int | None = None, **options: object) -> Callable[[], Measured]:
    """A run of the engine with `slots` expert slots; the engine is kept warm between rounds."""
    engine = outlier_jupyter.load("demo", cache_experts=slots, **options)
    engine.tokenizer.eos_token_ids = set()

    def run() -> Measured:
        numbers = engine.generate(PROMPT, max_tokens=TOKENS, raw=True).summary()
        return {
            "tokens_per_s": numbers.tokens_per_second,
            "time_to_first_token_s": numbers.prefill_seconds,
            "decode_hit_rate": numbers.decode_hit_rate,
            "mb_read": numbers.bytes_read / 1e6,
        }

    return run


def unpaged() -> Callable[[], Measured]:
    """A run of mlx-lm itself, everything in RAM, with its own timing."""
    model, tokenizer = load_unpaged(str(resolve("demo")))
    tokenizer.eos_token_ids = set()
    prompt = tokenizer.encode(PROMPT)

    def run() -> Measured:
        begin, first, count = time.perf_counter(), 0.0, 0
        for _ in stream_generate(model, tokenizer, prompt, TOKENS):
            count += 1
            first = first or time.perf_counter()
        speed = (count - 1) / (time.perf_counter() - first)
        return {"tokens_per_s": speed, "time_to_first_token_s": first - begin}

    return run


def disk_mb_per_s() -> float:
    """MB/s of direct reads of 1 MiB, one after the other."""
    files = Checkpoint(resolve("demo")).files
    reader, size, nbytes = open_reader("direct", files), files[0].stat().st_size, 1 << 20
    memory = memoryview(bytearray(nbytes))
    begin = time.perf_counter()
    for offset in range(0, size - nbytes, nbytes):
        reader.read(ByteRange(files[0], offset, nbytes), memory)
    spent = time.perf_counter() - begin
    reader.close()
    return (size - nbytes) // nbytes * nbytes / spent / 1e6


def measure(rounds: int) -> list[dict[str, object]]:
    """Run every subject in turn, `rounds` times after one warm-up; a row each."""
    subjects = {"mlx-lm, all in RAM": unpaged(), "resident": paged(resident=True)}
    for slots in (96, 48, 24, 12):
        for reader in ("direct", "pread", "mmap"):
            subjects[f"paged, {slots} slots, {reader}"] = paged(slots, reader=reader)
    seen: dict[str, list[Measured]] = {name: [] for name in subjects}
    for turn in range(rounds + 1):
        for name, run in subjects.items():
            found = run()
            if turn:
                seen[name].append(found)
    return [row(name, found) for name, found in seen.items()]


def row(name: str, found: list[Measured]) -> dict[str, object]:
    """Medians, and the spread of the speed."""
    speeds = [one["tokens_per_s"] for one in found]
    middle = {key: three(statistics.median(one[key] for one in found)) for key in found[0]}
    return {
        "subject": name,
        **middle,
        "slowest": three(min(speeds)),
        "fastest": three(max(speeds)),
        "rounds": len(found),
    }


def main() -> int:
    """Measure, print and append."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    disk = {"disk_mb_per_s": three(disk_mb_per_s())}
    rows = [{"tokens": TOKENS} | found | disk for found in measure(args.rounds)]
    append("demo", rows)
    for one in rows:
        sys.stdout.write(f"{one['subject']:30} {one['tokens_per_s']:>8} tokens/s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
