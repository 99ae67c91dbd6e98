"""Hit rates of each eviction policy on recorded routing.

    python -m benchmarks.policies TRACE.safetensors …

Replays each trace token by token from an empty cache, with 0.9, 2 and 4 working sets of slots, for
hit rates and the share of the gap from LRU to Belady's bound that the default closes. Rows go to
`benchmarks/results/policies-<machine>.csv`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.results import Row, append
from outlier_jupyter.trace import Trace

TOKENS_WORTH = (0.9, 2, 4)


def rates(path: Path) -> list[Row]:
    """A row per size: the policies' hit rates, and the closed share of the gap to the bound."""
    trace = Trace.load(path)
    token = trace.experts[0].size
    slots = [round(token * worth) for worth in TOKENS_WORTH]
    frame = trace.what_if(slots).pivot(index="slots", columns="policy", values="hits")
    rows: list[Row] = []
    for worth, size in zip(TOKENS_WORTH, slots, strict=True):
        lru, habit, bound = (int(frame.loc[size, name]) for name in ("lru", "predictive", "belady"))
        rows.append(
            {
                "what": path.stem,
                "tokens_worth": worth,
                "slots": size,
                "lru": round(lru / trace.experts.size, 4),
                "habit": round(habit / trace.experts.size, 4),
                "belady": round(bound / trace.experts.size, 4),
                "way_to_bound": round((habit - lru) / (bound - lru), 3),
            }
        )
    return rows


def main() -> None:
    """Measure the traces named on the command line."""
    rows = [row for path in map(Path, sys.argv[1:]) for row in rates(path)]
    for row in rows:
        sys.stdout.write(f"{row}\n")
    sys.stdout.write(f"{append('policies', rows)}\n")


if __name__ == "__main__":
    main()
