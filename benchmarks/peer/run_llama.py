"""One run of llama.cpp, by llama-cpp-python, in a process of its own; prints JSON.

    python run_llama.py '{"model": …, "routes": …, "first": …, "prompt": …, "tokens": …,
                          "threads": …, "mmap": …, "repack": …}'

With `mmap` the weights are the file's pages; with `repack` those that llama.cpp has faster kernels
for are copied into memory of its own, mapped or not.

Run by the peers' own Python. The tokens given to it are those of the text; that it would have
said them itself is checked, as that shows that it computed the model.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import llama_cpp
import numpy as np


def main() -> None:
    """Read the prompt, decode, and tell."""
    asked = json.loads(sys.argv[1])
    routes = np.load(asked["routes"])
    length, count = int(routes["tokens"]), len(routes["picks"])
    defaults = llama_cpp.llama_cpp.llama_model_default_params

    def parameters() -> object:
        found = defaults()
        found.use_extra_bufts = asked["repack"]
        return found

    # `Llama` has no argument for it.
    llama_cpp.llama_cpp.llama_model_default_params = parameters
    llm = llama_cpp.Llama(
        asked["model"], n_ctx=asked["prompt"] + asked["tokens"] + 64, n_batch=512,
        n_threads=asked["threads"], n_threads_batch=asked["threads"], use_mmap=asked["mmap"],
        verbose=False,
    )  # fmt: skip
    llm.eval([0, 1, 2, 3])
    llm.reset()
    prompt = [(asked["first"] + i) % count for i in range(asked["prompt"])]
    begin = time.perf_counter()
    llm.eval(prompt)
    took = time.perf_counter() - begin
    token, right, steps = prompt[-1], 0, []
    for _ in range(asked["tokens"]):
        said = int(np.argmax(np.ctypeslib.as_array(llm._ctx.get_logits(), (llm.n_vocab(),))))
        token = token // length * length + (token % length + 1) % length
        right += said == token
        begin = time.perf_counter()
        llm.eval([token])
        steps.append(time.perf_counter() - begin)
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "prompt_s": took, "token_s": float(np.mean(steps)), "right": right / asked["tokens"],
        "major_faults": used.ru_majflt, "rss_gb": used.ru_maxrss / 1e6,
    }  # fmt: skip
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
