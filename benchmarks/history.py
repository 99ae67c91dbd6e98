"""Misses of the first tokens after a load: cold, and with the experts of earlier runs.

    python -m benchmarks.history [--keep]

The demo model answers questions and continues texts; then it is loaded anew, and each of other
texts, of the same kinds and of none that was learnt from, is a first run. Rows have the misses of
its first 100 tokens (prompt and answer), summed over the texts.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import outlier_jupyter
from benchmarks.cli import parser, print_rows
from benchmarks.results import Row
from outlier_jupyter.engine import routing_history

FIRST = 100
SHARES = (0.125, 0.25, 0.5)
LEARNED = (
    "What is a router?", "Why does a paged engine need no more memory?",
    "def fibonacci(n):\n", "The river rises in the mountains and", "for file in *.txt; do\n",
)  # fmt: skip
OTHERS = {
    "questions": ("What is a cache hit?", "How fast is an SSD?", "What does top-k mean?"),
    "code": ("class Stack:\n    def push(", "#include <stdio.h>\n", '{"name": "'),
    "prose": ("The old house at the end of", "Im Winter ist der Wald", "La ville est connue"),
}


def misses(text: str, slots: int, question: bool) -> tuple[int, int]:
    """Misses and lookups of the first tokens of a first run."""
    with outlier_jupyter.load("demo", cache_experts=slots, quiet=True) as engine:
        engine.history.path = None  # texts that are measured are not learnt from
        engine.tokenizer.eos_token_ids = set()
        trace = engine.generate(text, max_tokens=FIRST, raw=not question, seed=1).trace
        hits = trace.hits[:FIRST]
        return int(hits.size - hits.sum()), hits.size


def rows() -> Iterator[Row]:
    """A row for each kind of text and cache size."""
    with outlier_jupyter.load("demo", resident=True, quiet=True) as engine:
        experts = engine.status().experts
        for text in LEARNED:
            engine.generate(text, max_tokens=FIRST, raw=not text.endswith("?"), seed=1)
    for kind, texts in OTHERS.items():
        for share in SHARES:
            found: dict[str, int] = {}
            for name, switch in (("cold", "0"), ("warm", "1")):
                os.environ["OUTLIER_HISTORY"] = switch
                counts = [misses(t, round(share * experts), kind == "questions") for t in texts]
                found[name], lookups = (sum(column) for column in zip(*counts, strict=True))
            yield {
                "what": kind,
                "share": share,
                "texts": len(texts),
                "lookups": lookups,
                "misses_cold": found["cold"],
                "misses_warm": found["warm"],
                "warm_over_cold": round(found["warm"] / found["cold"], 3),
            }


def main() -> None:
    """Measure, and print or keep the rows."""
    options = parser(__doc__, rounds=1).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OUTLIER_HISTORY"] = "1"
        routing_history.user_cache_path = lambda name: Path(folder)
        print_rows("history", rows(), options.keep)


if __name__ == "__main__":
    main()
