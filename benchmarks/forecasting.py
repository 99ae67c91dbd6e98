"""Forecasts against measurements: tokens per second of models and cache sizes that `plan` foresaw.

    python benchmarks/forecasting.py --folder FOLDER --traces FOLDER [--rounds 3] [--dry]

The machine is measured before each. The slices of Qwen3-30B-A3B and Qwen3.5-397B-A17B have random
weights and follow routes that are resampled from a real trace, as the forecast's are: what is
checked for them is the speed. The demo model chooses for itself, and was not among the recordings.
`by_trace` is what the same speeds predict by the routing of the measured run itself, as
`what-if --hosts 1 --measured` does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

from results import Row, append

from outlier_jupyter import load
from outlier_jupyter.benchmark.geometry import prompt_of
from outlier_jupyter.benchmark.models import Made, find_source, make
from outlier_jupyter.checkpoint.model_folder import ModelFolder
from outlier_jupyter.engine.forecast import forecast, geometry_of
from outlier_jupyter.engine.load import probed_of
from outlier_jupyter.engine.measure_speed import measure_speed
from outlier_jupyter.engine.open_checkpoint import open_model
from outlier_jupyter.paging.probe import dense_nbytes
from outlier_jupyter.system import hub
from outlier_jupyter.system.machine_speed import MachineSpeed

PAIRS = (("demo", 0, 0.25), ("demo", 0, 0.5), ("30b", 4, 0.25), ("30b", 4, 0.5), ("397b", 4, 0.25),
         ("397b", 4, 0.5))  # fmt: skip
"""Model, its layers, and the share of experts that is cached."""
PROMPT, LONG_PROMPT, TOKENS = 32, 128, 64


def measured(
    made: Made | None, slots: int, rounds: int, machine: MachineSpeed
) -> tuple[float, float]:
    """The median tokens per second of decode, with direct reads, and of those by the trace."""
    model = "demo" if made is None else str(made.folder)
    speeds, expected = [], []
    with load(model, cache_experts=slots, reader="direct", warm="off", quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        for number in range(rounds + 1):
            text = "Once upon a time"
            if made is not None:
                first = number % made.routes.texts * made.routes.tokens
                text = prompt_of(list(range(first, first + PROMPT)))
            run = engine.generate(text, raw=True, max_tokens=TOKENS, temperature=0)
            speeds.append(run.summary().tokens_per_second)
            frame = run.trace.what_if_hosts([1], machine=machine)
            expected.append(float(frame.tokens_per_second[0]))
    return median(speeds[1:]), median(expected[1:])


def waited(made: Made, slots: int) -> float:
    """Seconds until the first token after a prompt of `LONG_PROMPT` tokens, with an empty cache."""
    with load(str(made.folder), cache_experts=slots, reader="direct", warm="off",
              quiet=True) as engine:  # fmt: skip
        prompt = prompt_of(list(range(LONG_PROMPT)))
        return engine.generate(prompt, raw=True, max_tokens=1).summary().prefill_seconds


def main() -> int:
    """Measure, compare and append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to store the models")
    parser.add_argument("--traces", type=Path, help="recorded traces to take routing from")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print, and append nothing")
    arguments = parser.parse_args()
    source = find_source(arguments.traces, sys.stdout.write)
    rows: list[Row] = []
    for name, layers, share in PAIRS:
        made = None
        if name != "demo":
            made = make(name, arguments.folder, source, layers=layers, distinct=2, repacked=False)
        model = "demo" if made is None else str(made.folder)
        with hub.headers(model, None) as (folder, _):
            opened = open_model(ModelFolder(folder))
            dense = dense_nbytes(opened.module, opened.switches)
            geometry = geometry_of(opened, probed_of(opened, "auto"), dense)
        assert geometry is not None
        slots = round(share * geometry.layers * geometry.experts)
        machine = measure_speed((), geometry.expert_nbytes)
        found = forecast(geometry, [slots], machine)
        (speed,) = found.speeds
        tokens, by_trace = measured(made, slots, arguments.rounds, machine)
        rows.append({
            "model": name, "layers": geometry.layers, "slots": slots, "share": share,
            "low": round(speed.low, 2), "likely": round(speed.likely, 2),
            "high": round(speed.high, 2), "measured": round(tokens, 2),
            "likely_over_measured": round(speed.likely / tokens, 3),
            "by_trace": round(by_trace, 2), "by_trace_over_measured": round(by_trace / tokens, 3),
            "hit_rate": round(speed.hit_rate, 3), "memory_gb_per_s": round(machine.memory / 1e9, 1),
            "disk_gb_per_s": round(machine.disk / 1e9, 2),
            "million_loops_per_s": round(machine.loops / 1e6, 1),
            "wait_s": round(dict(found.waits)[LONG_PROMPT], 3),
            "measured_wait_s": round(waited(made, slots), 3) if made is not None else "",
        })  # fmt: skip
        sys.stdout.write(f"{rows[-1]}\n")
    if not arguments.dry:
        append("forecasting", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
