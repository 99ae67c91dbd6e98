"""The fuzzer's own process: libFuzzer calls a target with inputs until its time is over."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from random import Random

import atheris

from .fuzzing import LARGEST, Watched, keep


def main(name: str, scratch: Path, seconds: float, seed: int) -> None:
    """Fuzz; libFuzzer ends the process."""
    with atheris.instrument_imports(include=["outlier_jupyter"], enable_loader_override=False):
        watched = Watched(name, scratch)
    mutate = watched.target.mutate
    tracemalloc.start()

    def write() -> None:
        """After every input that might be the last: libFuzzer ends without asking."""
        wrong = [f"{fault} (input {keep(name, data)})" for fault, data in watched.wrong.items()]
        (scratch / "counts.json").write_text(
            json.dumps({
                "calls": watched.calls, "refused": watched.refused, "peak": watched.peak,
                "longest_s": watched.longest_s, "wrong": wrong,
            })
        )  # fmt: skip

    def one(data: bytes) -> None:
        watched(data)
        if watched.calls % 200 == 0:
            write()

    def changed(data: bytes, most: int, number: int) -> bytes:
        rng = Random(number)
        if rng.random() < 0.2:
            return bytes(atheris.Mutate(data, most))
        return mutate(data, rng)[:most]

    arguments = [
        sys.argv[0], str(scratch / "grown"), str(scratch / "begin"),
        f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={LARGEST}", "-timeout=60",
        "-rss_limit_mb=3000", f"-artifact_prefix={scratch}/", "-verbosity=0", "-len_control=0",
    ]  # fmt: skip
    atheris.Setup(arguments, one, custom_mutator=changed)
    write()
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
