"""Runs llama.cpp: writes a GGUF of a model's geometry, and starts processes that decode it.

They run in a Python environment of their own with llama-cpp-python and gguf (`make bench-peers`
makes one); their programs are in `peer/`.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import sections
from benchmarks.results import ROOT
from outlier_jupyter.benchmark.geometry import router_codes
from outlier_jupyter.benchmark.models import Made
from outlier_jupyter.benchmark.rounds import Numbers
from outlier_jupyter.benchmark.subjects import BenchmarkText

PEER = ROOT / "benchmarks" / "peer"
LOOKED_AT = 8
"""Tokens whose routing is compared to check a file."""
Decode = Callable[[int], list[float]]
"""Decodes so many tokens; the seconds of each."""


class Killed(Exception):
    """The system killed a run because it needed more memory than its limit."""


@dataclass(frozen=True)
class Llama:
    """A benchmark model as a GGUF that llama.cpp runs.

    Attributes:
        made: our model, with the same routing.
        python: the interpreter that has llama-cpp-python.
    """

    made: Made
    python: str

    @property
    def gguf(self) -> Path:
        """The path of the file that `write` makes."""
        return self.made.folder / "llama.gguf"

    def write(self, say: Callable[[str], object]) -> None:
        """Make the file if it does not exist, and check that it chooses our model's experts.

        Raises:
            RuntimeError: the new file chooses other experts.
        """
        sections.routes_file(self.made)
        if self.gguf.exists():
            return
        say(f"{self.gguf}: written, and its routing looked at")
        shape, routes = self.made.shape, self.made.routes
        random = np.random.default_rng(0)
        gates = [router_codes(routes, layer, shape.experts, shape.hidden, random)
                 for layer in range(shape.layers)]  # fmt: skip
        np.save(self.made.folder / "gates.npy", np.stack(gates))
        unseen = self.gguf.with_suffix(".unseen")
        command = [self.python, PEER / "write_gguf.py", self.made.folder, unseen]
        subprocess.run(command, check=True)
        self._look(unseen)
        unseen.replace(self.gguf)

    def _look(self, gguf: Path) -> None:
        """Compare its routing with the routes, which right next tokens alone would not prove."""
        tokens = np.array(sections.text_of(self.made, 0, LOOKED_AT).ids(self.made.routes))
        asked = [str(gguf), ",".join(map(str, tokens)), str(self.made.shape.k)]
        command = [self.python, str(PEER / "show_routing.py"), *asked]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seen = np.sort(json.loads(done.stdout), axis=-1)  # [layers, tokens, k]
        wanted = np.sort(self.made.routes.picks[tokens], axis=-1).swapaxes(0, 1)
        same = (seen == wanted).all(axis=-1)
        if not same.all():
            raise RuntimeError(
                f"llama.cpp chose other experts than the model was made for in {(~same).sum()} of "
                f"{same.size} choices: it cannot be compared, {gguf} is left to look at"
            )

    def run(self, text: BenchmarkText, prefix: tuple[str, ...] = (), **settings: Any) -> Numbers:
        """One run in a process of its own; `prefix` is put before its command.

        Raises:
            Killed: it needed more memory than `prefix` allows.
        """
        command = [*prefix, *self._command(text, settings)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == -signal.SIGKILL and prefix:
            raise Killed
        if done.returncode:
            raise RuntimeError(f"llama.cpp failed ({done.returncode}): {done.stderr[-2000:]}")
        return _checked(done.stdout.splitlines()[-1])

    @contextmanager
    def decoding(self, text: BenchmarkText, **settings: Any) -> Iterator[Decode]:
        """Start a process that reads the prompt; yields the function that decodes more tokens."""
        command = self._command(text, settings | {"asked": True})
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            asks, answers = process.stdin, process.stdout
            assert asks is not None
            assert answers is not None

            def decode(tokens: int) -> list[float]:
                asks.write(f"{tokens}\n")
                asks.flush()
                found: list[float] = json.loads(answers.readline())
                return found

            answers.readline()  # the prompt is read
            yield decode
            asks.close()
            _checked(answers.readline())

    def _command(self, text: BenchmarkText, settings: dict[str, Any]) -> list[str]:
        asked = {
            "model": str(self.gguf), "routes": str(self.made.folder / "routes.npz"),
            "first": text.first, "prompt": text.prompt, "tokens": text.tokens,
        } | settings  # fmt: skip
        return [self.python, str(PEER / "run_llama.py"), json.dumps(asked)]


def _checked(line: str) -> Numbers:
    """The numbers that a process printed, checked: it must have predicted the text's tokens."""
    found: Numbers = json.loads(line)
    if found["right"] < 0.9:
        raise RuntimeError(f"llama.cpp said the text's next token in {found['right']:.0%} only")
    return found


def way(threads: int, mmap: bool) -> str:
    """A run's name: mapped weights are not repacked, read ones are wherever possible."""
    return f"llama.cpp, {threads} threads, " + ("mmap" if mmap else "repacked in RAM")
