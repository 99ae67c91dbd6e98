"""Tokens/s predicted for cache sizes that nothing was fitted to, against what they then measure.

    python -m benchmarks.predicting

The demo model. A trace at one size is asked by `what_if` for three others; the same prompt then
runs at those. All engines have run it before, and the trace of that is given as `after`, so that
caches and policy are where they are in the run. Rounds are interleaved: each prediction is held
against the run of its own round, and the row has the median of the errors.
"""

from __future__ import annotations

import statistics
import sys

import outlier_jupyter
from outlier_jupyter.trace.cost import fit

from .asking import parser, tell

PROMPT = "import os\n\ndef read_file(path):\n"
TOKENS = 100
FITTED, OTHERS = 48, (24, 72, 120)


def engine(slots: int, reader: str, kernels: str) -> outlier_jupyter.Engine:
    """One that has run the prompt before."""
    made = outlier_jupyter.load(
        "demo", cache_experts=slots, reader=reader, kernels=kernels, quiet=True
    )
    made.tokenizer.eos_token_ids = set()
    return made


def run(made: outlier_jupyter.Engine) -> outlier_jupyter.Run:
    """The prompt, read anew."""
    return made.generate(PROMPT, max_tokens=TOKENS, raw=True)


def measure(reader: str, kernels: str, rounds: int) -> list[dict[str, object]]:
    """A row for each size: predicted, measured, and how far off, the median over rounds."""
    engines = {slots: engine(slots, reader, kernels) for slots in (FITTED, *OTHERS)}
    before = {slots: [run(made).trace] for slots, made in engines.items()}
    seen: dict[int, list[tuple[float, float]]] = {slots: [] for slots in engines}
    costs = []
    for _ in range(rounds):
        traces = {slots: run(made).trace for slots, made in engines.items()}
        source = traces[FITTED]
        costs.append(fit(source))
        frame = source.what_if(slots=list(engines), policies=["default"], after=before[FITTED])
        predicted = dict(zip(frame.slots, frame.tokens_per_second, strict=True))
        for slots, trace in traces.items():
            found = trace.calls[(trace.calls["phase"] == 1)]
            seen[slots].append((predicted[slots], float(len(found) * 1e9 / found["ns"].sum())))
            before[slots].append(trace)
    for made in engines.values():
        made.close()
    rows = []
    for slots, pairs in seen.items():
        errors = [abs(told / found - 1) for told, found in pairs]
        rows.append({
            "reader": reader, "kernels": kernels, "fitted_at": FITTED, "slots": slots,
            "predicted": round(statistics.median(told for told, _ in pairs), 2),
            "measured": round(statistics.median(found for _, found in pairs), 2),
            "off_median": round(
                statistics.median(told for told, _ in pairs)
                / statistics.median(found for _, found in pairs) - 1, 4),
            "off_of_a_round": round(statistics.median(errors), 4),
            "rounds": rounds,
            "compute_ms": round(statistics.median(cost.compute for cost in costs) / 1e6, 3),
        })  # fmt: skip
    return rows


def main() -> int:
    """Measure, print and append."""
    asked = parser(__doc__, rounds=7)
    asked.add_argument("--kernels", action="append", help="mlx or auto; both")
    asked.add_argument("--reader", action="append", help="direct or pread; both")
    given = asked.parse_args()
    rows = (
        row
        for kernels in given.kernels or ("mlx", "auto")
        for reader in given.reader or ("direct", "pread")
        for row in measure(reader, kernels, given.rounds)
    )
    tell("predicting", rows, given.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
