"""Chooses the native parts of a loaded model, compiles their kernels, and swaps the classes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...system.progress import Progress
from ..kernels import (
    Format,
    Matrix,
    Workspace,
    for_attention,
    for_delta,
    for_experts,
    for_heads,
    for_layers,
    for_matrix,
    precompile,
)
from . import attention, gated_delta, latent_attention, switch
from . import decoder_layer as layer
from .arrays import KINDS
from .linear import EMBEDDINGS, LINEARS, format_of, swap_embedding, swap_linears
from .model import swap_model
from .stored_type import can_attend_latents, stored_type
from .token_loop import TokenLoop

SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Names of child modules that receive the same activations."""


class _Cancelled(Exception):
    """Loading was cancelled, so the kernels are not needed."""


class Native:
    """A model's native parts: begin compiling, then finish and swap.

    Args:
        model: built, evaluated or not; its switches are still mlx-lm's.

    Attributes:
        attends: whether all of the model's attention is native; known after `finish`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(path, module) for path, module in model.named_modules()]
        self._switches = [m for _, m in self._modules if switch.can_swap(m)]
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._done = threading.Event()
        self._cancelled = threading.Event()
        self._progress = (0, 1)
        self._layers = len(getattr(model, "layers", ()))
        self.attends = False

    def computes(self, module: nn.Module) -> bool:
        """Whether the switch `module` will be computed natively."""
        return any(module is other for other in self._switches)

    def begin(self) -> None:
        """Start compiling on a thread, while the rest of the model is read."""
        self._thread = threading.Thread(target=self._compile, name="outlier-compile", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """End the compiler's thread after the kernel that it is compiling."""
        self._cancelled.set()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()

    def finish(self, quiet: bool) -> None:
        """Wait for the compiler, with a bar after a second, and swap; weights must be evaluated."""
        with Progress(
            total=self._progress[1], desc="compiling for this CPU (once)", unit=" kernels", delay=1,
            leave=False, disable=quiet,
        ) as bar:  # fmt: skip
            while not self._done.wait(0.05):
                done, bar.total = self._progress
                bar.update(done - bar.n)
            if self._error is None:
                bar.update(bar.total - bar.n)  # else a notebook's bar ends red
        if self._error is not None:
            raise self._error
        self._swap()

    def _compile(self) -> None:
        try:
            work = for_layers()
            stored = {stored_type(module) for _, module in self._modules}
            for kind in sorted(KINDS[each] for each in stored if each is not None):
                work += for_attention(kind)
            for _, module in self._modules:
                if can_attend_latents(module):
                    work += for_attention("f32") if "indexer" in module else []
                    for name in latent_attention.formats_of(module):
                        work += for_heads(name)
                if gated_delta.can_swap(module):
                    work += for_delta(*gated_delta.kernels_of(module))
            for name in {form.name for form in self._forms()}:
                work += for_matrix(name)
            for module in self._switches:
                up, _, down = switch.projections(module)
                activation = switch.activation_of(module.activation)
                first, second = format_of(up), format_of(down)
                assert first and second and activation
                bias = "none" if "bias" not in up else KINDS[up.bias.dtype]
                work += for_experts(first.name, second.name, activation.kind, bias)
            precompile(work, self._report)
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def _report(self, done: int, total: int) -> None:
        if self._cancelled.is_set():
            raise _Cancelled
        self._progress = (done, total)

    def _forms(self) -> Iterator[Format]:
        for _, module in self._modules:
            if type(module) in LINEARS or type(module) in EMBEDDINGS:
                form = format_of(module)
                if form is not None:
                    yield form

    def _swap(self) -> None:
        for module in self._switches:
            switch.swap_switch(module)
        matrices: dict[int, Matrix] = {}
        for _, parent in self._modules:
            for group in _groups(parent):
                shared = swap_linears(group)
                matrices.update(zip(map(id, group), shared.matrices, strict=True))
        for _, module in self._modules:
            if type(module) in EMBEDDINGS and _readable(module):
                swap_embedding(module)
            elif attention.can_swap(module):
                attention.swap_attention(module, matrices)
            elif gated_delta.can_swap(module):
                gated_delta.swap_delta(module, matrices)

        attending = [module for _, module in self._modules if hasattr(module, "_plan")]
        self.attends = len(attending) == self._layers > 0
        token, memory = layer.TokenActivations(), Workspace()
        for _, module in self._modules:
            layer.swap_layer(module, matrices, token, memory)
        TokenLoop(layer.native_plans([module for _, module in sorted(self._modules, key=_order)]))
        for _, module in self._modules:
            swap_model(module, token)


def _order(named: tuple[str, Any]) -> list[int]:
    """The numbers in a module's path, by which the model's layers are in order."""
    return [int(number) for number in re.findall(r"\d+", named[0])]


def _groups(parent: nn.Module) -> Iterator[list[Any]]:
    """The linear layers of `parent` that can be swapped, grouped by shared input."""
    children = parent.children()
    mine = {
        name: child
        for name, child in children.items()
        if type(child) in LINEARS and _readable(child)
    }
    for names in SHARED_INPUTS:
        groups: dict[object, list[Any]] = {}
        for name in names:
            if name in mine:
                child = mine.pop(name)
                key = format_of(child), child.weight.shape[1]
                groups.setdefault(key, []).append(child)
        yield from groups.values()
    yield from ([child] for child in mine.values())


def _readable(module: Any) -> bool:
    """Whether kernels know the format, and all arrays are contiguous."""
    if format_of(module) is None:
        return False
    arrays = [module[name] for name in ("weight", "scales", "biases") if name in module]
    mx.eval(arrays)
    return all(_in_order(array) for array in arrays if array is not None)


def _in_order(array: mx.array) -> bool:
    return memoryview(array).c_contiguous  # type: ignore[arg-type]  # it has the buffer protocol
