"""Runs BigMoeOnEdge, llama.cpp with an expert cache of its own, on the GGUF that llama.cpp has.

Its program is named on the command line (`--edge build/cli/bmoe-cli`). It keeps dense weights and
the most recently used experts in RAM, reads the rest past the page cache with four threads, and
computes meanwhile (`--overlap`).
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
from dataclasses import dataclass
from statistics import mean

from benchmarks.llama import Killed, Llama
from outlier_jupyter.benchmark.geometry import prompt_of
from outlier_jupyter.benchmark.rounds import Numbers
from outlier_jupyter.benchmark.subjects import BenchmarkText

EDGE = "BigMoeOnEdge"
"""Its name in rows and tables."""
MIB = 1 << 20
BITS = 4.5
"""Of a weight in the GGUF, its share of a scale included."""
SPARE = 200 * MIB
"""What its process takes beside weights, cache and page tables: the computation's own memory."""
LESS = 100 * MIB
"""By so much its cache is made smaller when the system kills it."""
TRIES = 5
TOKEN = re.compile(r"<t(\d+)>")


@dataclass
class Edge:
    """BigMoeOnEdge on a model's GGUF, in so much memory.

    Attributes:
        peer: the model and its GGUF.
        program: the path of `bmoe-cli`.
        limit: bytes that its process may take.
    """

    peer: Llama
    program: str
    limit: int
    _cache: int = 0

    def run(self, text: BenchmarkText, prefix: tuple[str, ...], threads: int) -> Numbers:
        """One run with the largest cache with which the system does not kill it.

        Raises:
            Killed: it needs more memory than `limit` with a smaller cache, too.
            RuntimeError: it failed, or predicted other tokens than the text's.
        """
        self._cache = self._cache or self.limit - self._dense - SPARE
        for _ in range(TRIES):
            done = self._done(text, prefix, threads)
            if done.returncode != -signal.SIGKILL:
                break
            self._cache -= LESS
        else:
            raise Killed
        if done.returncode:
            raise RuntimeError(f"BigMoeOnEdge failed ({done.returncode}): {done.stderr[-2000:]}")
        return self._numbers(text, done.stdout)

    @property
    def _dense(self) -> int:
        """Bytes of the GGUF beside its experts."""
        made, shape = self.peer.made, self.peer.made.shape
        weights = 3 * shape.hidden * int(made.config["moe_intermediate_size"])
        experts = shape.layers * shape.experts * weights * BITS // 8
        return self.peer.gguf.stat().st_size - int(experts)

    def _done(
        self, text: BenchmarkText, prefix: tuple[str, ...], threads: int
    ) -> subprocess.CompletedProcess[str]:
        prompt = prompt_of(text.ids(self.peer.made.routes)[: text.prompt])
        command = [
            *prefix, self.program, "--model", str(self.peer.gguf), "--prompt", prompt,
            "--n-predict", str(text.tokens + 1), "--threads", str(threads), "--temp", "0",
            "--ctx-size", str(text.prompt + text.tokens + 64), "--progress",
            "--moe-stream", "--cache-mb", str(self._cache // MIB), "--overlap",
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _numbers(self, text: BenchmarkText, printed: str) -> Numbers:
        """The mean time of a token, from a line for each; the first one ends the prompt."""
        kept = [line.split(" ", 1)[1] for line in printed.splitlines() if "BMOE_PROGRESS" in line]
        steps = [json.loads(line) for line in kept][1:]
        made = [int(found) for step in steps for found in TOKEN.findall(step["delta_text"])]
        length = self.peer.made.routes.tokens
        right = mean(
            after // length == before // length and after % length == (before + 1) % length
            for before, after in itertools.pairwise(made)
        ) if len(made) > 1 else 0.0  # fmt: skip
        if right < 0.9:
            raise RuntimeError(f"BigMoeOnEdge made the text's next token in {right:.0%} only")
        return {
            "token_s": mean(step["wall_ms"] for step in steps) / 1e3,
            "hit_rate": steps[-1]["cache_hit_pct"] / 100, "cache_gb": self._cache / 1e9,
            "right": right,
        }  # fmt: skip
