"""Tokens/s predicted for cache sizes without a trace, against those then measured.

    python -m benchmarks.predicting [--folder …]

The demo model, or four layers of Qwen3-30B-A3B's geometry. `what_if` predicts other cache sizes
from a trace at one; the same prompt then runs at those. All engines have run before, and
`after` gets the traces of these runs, so that the replay starts from the same caches and policy. In
a round all engines run at once, a few tokens of each in turn, under the same conditions. A
prediction is compared with the run of its own round; the row has the median of the errors.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import outlier_jupyter
from outlier_jupyter import Engine, Trace
from outlier_jupyter.benchmark.geometry import prompt_of
from outlier_jupyter.benchmark.models import find_source, make
from outlier_jupyter.benchmark.short import LAYERS
from outlier_jupyter.benchmark.subjects import BenchmarkText
from outlier_jupyter.runs.run import Step
from outlier_jupyter.trace.cost_model import fit

from .bench import BUSY, TRACES, Others, say
from .cli import parser, print_rows

PROMPT = "import os\n\ndef read_file(path):\n"
TURN = 5
"""Tokens of one engine, before the next engine's turn."""


@dataclass(frozen=True)
class Subject:
    """A model, the recorded cache size, the predicted ones, and the text of a round."""

    name: str
    about: str
    fitted: int
    others: tuple[int, ...]
    begin: Callable[[Engine, int], Iterator[Step]]


def demo() -> Subject:
    """The demo model, which continues the same prompt in every round."""
    return Subject("demo", "demo", 48, (24, 72, 120),
                   lambda engine, _: engine.stream(PROMPT, max_tokens=100, raw=True))  # fmt: skip


def large(folder: Path, traces: Path) -> Subject:
    """A model of real geometry and routing, with another text in every round."""
    source = find_source(traces if traces.is_dir() else None, say)
    made = make("30b", folder, source, layers=LAYERS, distinct=None, report=say)
    token, every = made.shape.layers * made.shape.k, made.shape.layers * made.shape.experts

    def begin(engine: Engine, number: int) -> Iterator[Step]:
        first = (number + 1) % made.routes.texts * made.routes.tokens
        ids = BenchmarkText(first, 32, 40).ids(made.routes)
        return engine.stream(prompt_of(ids), max_tokens=40, raw=True)

    others = (round(0.9 * token), 2 * token, every // 2, 3 * every // 4)
    return Subject(str(made.folder), str(made.description["model"]), every // 4, others, begin)


def run_all(engines: dict[int, Engine], subject: Subject, number: int) -> dict[int, Trace]:
    """A round: each engine's run, `TURN` tokens at a time."""
    going = {slots: subject.begin(engine, number) for slots, engine in engines.items()}
    while going:
        for slots, steps in list(going.items()):
            if sum(1 for _, _ in zip(range(TURN), steps, strict=False)) < TURN:
                del going[slots]
    last = {slots: engine.last_run for slots, engine in engines.items()}
    return {slots: run.trace for slots, run in last.items() if run is not None}


def measure(subject: Subject, reader: str, kernels: str, rounds: int) -> list[dict[str, object]]:
    """A row for each size: predicted, measured and error, the medians over rounds."""
    engines = {}
    for slots in (subject.fitted, *subject.others):
        engines[slots] = outlier_jupyter.load(
            subject.name, cache_experts=slots, reader=reader, kernels=kernels, quiet=True
        )
        engines[slots].tokenizer.eos_token_ids = set()
    before = [run_all(engines, subject, 0)[subject.fitted]]
    seen: dict[int, list[tuple[float, float]]] = {slots: [] for slots in engines}
    costs = []
    for number in range(1, rounds + 1):
        traces = run_all(engines, subject, number)
        source = traces[subject.fitted]
        costs.append(fit(source))
        frame = source.what_if(slots=list(engines), policies=["default"], after=before)
        predicted = dict(zip(frame.slots, frame.tokens_per_second, strict=True))
        for slots, trace in traces.items():
            found = trace.calls[(trace.calls["phase"] == 1)]
            seen[slots].append((predicted[slots], float(len(found) * 1e9 / found["ns"].sum())))
        last = {slots: f"{pairs[-1][0]:.1f} / {pairs[-1][1]:.1f}" for slots, pairs in seen.items()}
        say(f"{reader}, {kernels}, round {number}, predicted / measured: {last}")
        before.append(source)
    for made in engines.values():
        made.close()
    rows = []
    for slots, pairs in seen.items():
        errors = [abs(told / found - 1) for told, found in pairs]
        rows.append({
            "model": subject.about, "reader": reader, "kernels": kernels,
            "fitted_at": subject.fitted, "slots": slots,
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
    arguments = parser(__doc__, rounds=7)
    arguments.add_argument("--kernels", action="append", help="mlx or auto; both")
    arguments.add_argument("--reader", action="append", help="direct or pread; both")
    arguments.add_argument(
        "--folder", type=Path, help="models of the benchmark, for the demo model"
    )
    arguments.add_argument(
        "--traces", type=Path, default=TRACES, help="a folder of recorded traces"
    )
    args = arguments.parse_args()
    subject = large(args.folder, args.traces) if args.folder else demo()
    others = Others()
    rows = [
        row
        for kernels in args.kernels or ("mlx", "auto")
        for reader in args.reader or ("direct", "pread")
        for row in measure(subject, reader, kernels, args.rounds)
    ]
    share = others.share()
    say(f"others took {share:.1%} of the processors")
    stamp = {"others_cpu": round(share, 3), "busy": "yes" if share > BUSY else "no"}
    print_rows("predicting", [row | stamp for row in rows], args.keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
