"""`make torture`: every subject's long form, each in a process of its own, into the log.

python -m tests.torture                             all of them
python -m tests.torture fuzzing:headers soak        some of them, or one unit
python -m tests.torture --seconds 30 --seed 7 …     shorter, with another seed
python -m tests.torture --report                    only write docs/torture.md
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from . import log, page
from .child import run_child
from .counts import Counts, Skipped, Tried
from .subjects import Subject, subjects


def one(subject: Subject, unit: str, seconds: float, seed: int) -> None:
    """In the child: run a unit and print its counts."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            counts = subject.run(unit, seconds, seed, Path(scratch))
        except Skipped as why:
            counts = Counts({f"not tried: {why}": Tried()})
    sys.stdout.write("\n" + json.dumps({what: asdict(row) for what, row in counts.rows.items()}))


def guarded(subject: Subject, unit: str, seconds: float, seed: int) -> tuple[Counts, float]:
    """A unit's counts and seconds; a crash or a hang of its process is a failure among them."""
    begun = time.monotonic()
    ended = run_child(
        "-m", "tests.torture", f"{subject.name}:{unit}", "--child", "--seconds", str(seconds),
        "--seed", str(seed), timeout_s=seconds * 2 + 600,
    )  # fmt: skip
    taken = time.monotonic() - begun
    if failure := ended.failure():
        sys.stderr.write(ended.errors[-5000:])
        return Counts({"the whole": Tried(1, 1, [failure])}), taken
    rows = json.loads(ended.output.rpartition("\n")[2])
    return Counts({what: Tried(**row) for what, row in rows.items()}), taken


def main() -> int:
    """Run what the command line names; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("what", nargs="*", help="SUBJECT or SUBJECT:UNIT; all without")
    parser.add_argument("--seconds", type=float, help="of each unit, in place of its own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = {subject.name: subject for subject in subjects()}
    units = [
        (subject, unit)
        for name in options.what or ([] if options.report else known)
        for subject in [known[name.partition(":")[0]]]
        for unit in ([name.partition(":")[2]] if ":" in name else subject.units)
    ]
    status = 0
    for subject, unit in units:
        seconds = options.seconds if options.seconds is not None else subject.long_s
        if options.child:
            one(subject, unit, seconds, options.seed)
            return 0
        counts, taken = guarded(subject, unit, seconds, options.seed)
        log.append(subject.name, unit, options.seed, taken, counts)
        sys.stdout.write(f"{subject.name} {unit}: {counts.times} in {taken:.0f} s, ")
        sys.stdout.write(f"failed: {counts.failures or 'nothing'}\n")
        sys.stdout.flush()
        status |= bool(counts.failures)
    page.write()
    return status


if __name__ == "__main__":
    sys.exit(main())
