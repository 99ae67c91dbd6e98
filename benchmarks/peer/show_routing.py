"""Prints as JSON which experts llama.cpp's routers choose, token by token.

    python show_routing.py GGUF TOKENS K

TOKENS are comma-separated ids. Run by the peers' own Python. The callback that collects the choices
makes llama.cpp compute each layer's graph in pieces, so no run is timed with it.

Prints:
    lists [layers][tokens][K] of expert ids.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp

CHOICE = "ffn_moe_topk-"
"""llama.cpp's name of the tensor of a layer's chosen experts, without the layer's number."""
Callback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)


class Choices:
    """Collects the routers' choices while a graph is computed.

    Args:
        k: experts a token.
    """

    def __init__(self, k: int) -> None:
        self.of: dict[int, list[list[int]]] = {}
        self._k = k
        library = next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))
        self._ggml = ctypes.CDLL(str(library))
        self._ggml.ggml_get_name.argtypes = [ctypes.c_void_p]
        self._ggml.ggml_get_name.restype = ctypes.c_char_p
        self._ggml.ggml_backend_tensor_get.argtypes = [
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t,
        ]  # fmt: skip

    def __call__(self, tensor: int, asked: bool, _: object) -> bool:
        """Return whether a tensor is wanted; or, once it is computed, keep it and return True."""
        name = self._ggml.ggml_get_name(tensor).decode()
        if not name.startswith(CHOICE):
            return not asked
        if not asked:
            ids = (ctypes.c_int32 * self._k)()
            self._ggml.ggml_backend_tensor_get(tensor, ids, 0, ctypes.sizeof(ids))
            self.of.setdefault(int(name.removeprefix(CHOICE)), []).append(list(ids))
        return True


def main() -> None:
    """Decode the tokens one by one, and print the chosen experts."""
    gguf, tokens, k = sys.argv[1:]
    choices = Choices(int(k))
    callback = Callback(choices)
    of_context = llama_cpp.llama_cpp.llama_context_default_params
    of_model = llama_cpp.llama_cpp.llama_model_default_params

    def context_parameters() -> object:
        found = of_context()
        found.cb_eval = ctypes.cast(callback, type(found.cb_eval))
        return found

    def model_parameters() -> object:
        found = of_model()
        found.use_extra_bufts = False  # the weights stay the file's pages, not repacked in RAM
        return found

    # `Llama` has no arguments for them.
    llama_cpp.llama_cpp.llama_context_default_params = context_parameters
    llama_cpp.llama_cpp.llama_model_default_params = model_parameters
    llm = llama_cpp.Llama(gguf, n_ctx=512, use_mmap=True, verbose=False)
    choices.of.clear()
    for token in tokens.split(","):
        llm.eval([int(token)])
    sys.stdout.write(json.dumps([choices.of[layer] for layer in sorted(choices.of)]) + "\n")


if __name__ == "__main__":
    main()
