"""One run of llama.cpp, by llama-cpp-python, in a process of its own; prints JSON.

    python run_llama.py '{"model": …, "routes": …, "first": …, "prompt": …, "tokens": …,
                          "threads": …, "mmap": …, "repack": …}'

With `mmap` the weights are the file's pages; with `repack` llama.cpp copies those that it has
faster kernels for into its own memory, mapped or not. With `asked` it stops after the prompt; for
each line of its input, a number, it decodes that many tokens and prints their seconds.

Run by the peers' own Python. The decoded tokens are those of the text; the share that the model
predicts is reported, because right predictions show that it computed the model.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np


class Run:
    """A model that reads a prompt and then decodes token by token.

    Args:
        asked: the options, as in the module's docstring.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        routes = np.load(asked["routes"])
        self._length, count = int(routes["tokens"]), len(routes["picks"])
        self._llm = opened(asked)
        self._llm.eval([0, 1, 2, 3])
        self._llm.reset()
        prompt = [(asked["first"] + i) % count for i in range(asked["prompt"])]
        begin = time.perf_counter()
        self._llm.eval(prompt)
        self.prompt_s = time.perf_counter() - begin
        self._token, self.right, self.steps = prompt[-1], 0, 0

    def step(self) -> float:
        """Decode one token of the text; returns its seconds."""
        size = self._llm.n_vocab()
        said = int(np.argmax(np.ctypeslib.as_array(self._llm._ctx.get_logits(), (size,))))
        text, place = divmod(self._token, self._length)
        self._token = text * self._length + (place + 1) % self._length
        self.right += said == self._token
        self.steps += 1
        begin = time.perf_counter()
        self._llm.eval([self._token])
        return time.perf_counter() - begin

    def told(self) -> dict[str, float]:
        """The run's numbers besides its speed."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "prompt_s": self.prompt_s, "right": self.right / self.steps,
            "major_faults": used.ru_majflt, "rss_gb": peak_kb() / 1e6,
        }  # fmt: skip


def peak_kb() -> int:
    """Peak resident set of this program; `getrusage` may report the parent's."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def opened(asked: dict[str, Any]) -> llama_cpp.Llama:
    """The model, mapped or read, with or without llama.cpp's repacking."""
    defaults = llama_cpp.llama_cpp.llama_model_default_params

    def parameters() -> object:
        found = defaults()
        found.use_extra_bufts = asked["repack"]
        return found

    # `Llama` has no argument for it.
    llama_cpp.llama_cpp.llama_model_default_params = parameters
    return llama_cpp.Llama(
        asked["model"], n_ctx=asked["prompt"] + asked["tokens"] + 64, n_batch=512,
        n_threads=asked["threads"], n_threads_batch=asked["threads"], use_mmap=asked["mmap"],
        verbose=False,
    )  # fmt: skip


def say(found: object) -> None:
    """Print a line of JSON."""
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the prompt, decode, and print the numbers."""
    asked = json.loads(sys.argv[1])
    run = Run(asked)
    if asked.get("asked"):
        say(run.prompt_s)
        for line in sys.stdin:
            say([run.step() for _ in range(int(line))])
        say(run.told())
        return
    steps = [run.step() for _ in range(asked["tokens"])]
    say(run.told() | {"token_s": float(np.mean(steps))})


if __name__ == "__main__":
    main()
