"""The fuzzer's own process: libFuzzer calls a target with inputs until its time is over."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from random import Random

import atheris

from .fuzzing import LARGEST, Watched, keep

AGAIN = 0.6
"""How often an input is changed that was read in full, in place of the fuzzer's choice."""
PACKAGE = Path(__file__).parents[2] / "outlier_jupyter"
COMPILED = [
    "outlier_jupyter." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    for file in [*PACKAGE.glob("cpu/**/*.py"), *PACKAGE.glob("residency/**/*.py"),
                 PACKAGE / "trace" / "compiled_folds.py"]
]  # fmt: skip
"""Modules with functions for Numba, which does not compile instrumented ones."""


def main(name: str, scratch: Path, seconds: float, seed: int) -> None:
    """Fuzz; libFuzzer ends the process."""
    with atheris.instrument_imports(
        include=["outlier_jupyter"], exclude=COMPILED, enable_loader_override=False
    ):
        from .targets import TARGETS

        watched = Watched(name, scratch, TARGETS[name].seeds())
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
        if rng.random() < AGAIN:  # most that lead to new branches are wrong, and stay so
            data = rng.choice(watched.good)
        return mutate(data, rng)[:most]

    arguments = [
        sys.argv[0], str(scratch / "grown"), str(scratch / "begin"),
        f"-max_total_time={int(seconds)}", f"-seed={seed}", f"-max_len={LARGEST}", "-timeout=600",
        "-rss_limit_mb=3000", f"-artifact_prefix={scratch}/", "-verbosity=0", "-len_control=0",
    ]  # fmt: skip
    atheris.Setup(arguments, one, custom_mutator=changed)
    write()
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
