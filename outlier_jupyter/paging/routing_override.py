"""Overrides routing: changes a router's logits while an intervention is applied.

A router is found by its shape: the matrix with one row per expert, nearest to the switch. If that
is a linear layer, its output is changed. If a module multiplies by its own `weight`, its input
gets a subclass whose `@` changes the product. Biases that only steer the selection get the masks
and forces, and nothing else. The rest of the router (softmax, sigmoid, groups) is the model's
own code, which sees other logits. `top_k` is set wherever the router or its block keeps it.

Without an intervention the model is untouched: classes, arrays and numbers are replaced when one
begins and restored when it ends. Its effect is verified: the switch checks the chosen ids.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from ..families import family_of, names
from .interventions import Intervention

LARGE_LOGIT = 30_000.0
"""Practically infinite for a logit; a float16 can hold it."""
MARGIN = 64
"""A forced expert is above the likeliest by one part in so many: more than bfloat16's step."""
LOG_TWO = math.log(2)
"""The margin where groups of experts are chosen by the sum of their best two alone: a forced
expert weighs twice the likeliest, so that no other two weigh more together."""


@dataclass(frozen=True)
class Router:
    """The router of a layer.

    Attributes:
        matrix: the module that computes the logits.
        width: the number of logits; more than experts if some stand for no expert.
        around: the modules from the matrix up to the switch's block, and their configs.
    """

    matrix: nn.Module
    width: int
    around: tuple[Any, ...]

    @property
    def grouped(self) -> bool:
        """Whether experts are chosen from the best groups of them."""
        return any(
            (vars(owner).get(name) or 0) > 1 for owner in self.around for name in names("groups")
        )

    def biases(self) -> list[tuple[nn.Module, str]]:
        """The biases added to scores for selection alone: (module, attribute name) of each."""
        return [
            (owner, name)
            for owner in self.around
            for name in names("selection_biases")
            if isinstance(owner, nn.Module)
            and isinstance(owner.get(name), mx.array)
            and owner[name].shape == (self.width,)
        ]


class LayerOverride:
    """The override of one layer's routing."""

    def __init__(
        self, layer: int, intervention: Intervention, router: Router, experts: int
    ) -> None:
        self.width = width = router.width
        self._lift = LOG_TWO if router.grouped and not router.biases() else 0.0
        self._layer = layer
        self._ambiguous = width > experts  # ids beyond the experts reach the switch as 0
        self._temperature = intervention.temperature
        self._top_k = intervention.top_k
        self._seen = False
        self._masked = np.zeros(width, bool)
        self._forced = np.zeros(width, bool)
        for keys, into in ((intervention.mask, self._masked), (intervention.force, self._forced)):
            into[[key.expert for key in keys if key.layer == layer]] = True
        boosts = np.zeros(width, np.float32)
        for key, by in intervention.boost.items():
            if key.layer == layer:
                boosts[key.expert] = by
        self._boosts = mx.array(boosts) if boosts.any() else None
        self._mask = mx.array(self._masked) if self._masked.any() else None
        self._force = mx.array(self._forced) if self._forced.any() else None
        mx.eval([a for a in (self._boosts, self._mask, self._force) if a is not None])

    def logits(self, logits: mx.array) -> mx.array:
        """The changed `logits` [..., width] of the router."""
        self._seen = True
        if self._temperature != 1.0:
            logits = logits / self._temperature
        if self._boosts is not None:
            logits = logits + self._boosts.astype(logits.dtype)
        if self._mask is not None:
            logits = mx.where(self._mask, mx.array(-LARGE_LOGIT, logits.dtype), logits)
        if self._force is not None:
            top = logits.max(axis=-1, keepdims=True)
            above = top + mx.maximum(mx.abs(top), mx.array(1.0, top.dtype)) / MARGIN + self._lift
            logits = mx.where(self._force, mx.maximum(logits, above), logits)
        return logits

    def bias(self, bias: mx.array) -> mx.array:
        """The selection `bias` [width], changed to exclude masked and take forced experts."""
        for these, far in ((self._mask, -LARGE_LOGIT), (self._force, LARGE_LOGIT)):
            if these is not None:
                bias = mx.where(these, mx.array(far, bias.dtype), bias)
        return bias

    def check(self, ids: npt.NDArray[Any]) -> None:
        """Verify the router's choice `ids` [..., k].

        Raises:
            OptionError: this model's router did not follow the intervention.
        """
        seen, self._seen = self._seen, False
        refused = f"the routing of layer {self._layer} cannot be changed so"
        if not seen:
            raise OptionError(
                f"{refused}: its router's logits come from no layer or weight that can be found"
            )
        if self._top_k is not None and ids.shape[-1] != self._top_k:
            raise OptionError(
                f"{refused}: this model's router takes {ids.shape[-1]} experts a token, whatever "
                "top_k says; give top_k to load"
            )
        wrong = self._masked.copy()
        if self._ambiguous:
            wrong[0] = False
        if wrong.any() and wrong[ids].any():
            raise OptionError(
                f"{refused}: this model's router fell back on a masked expert, because the groups "
                "it chose from had too few others; mask fewer of one group"
            )
        for expert in np.flatnonzero(self._forced):
            if not (ids == expert).any(axis=-1).all():
                raise OptionError(
                    f"{refused}: this model's router did not choose expert {expert} every time; "
                    "force fewer at once, of one group"
                )


class RoutingOverride:
    """Applies interventions to the routing of one model.

    Args:
        model: with paged switches in place, and its final modules.
        switches: (path, experts) of each MoE layer, in the model's order.
    """

    def __init__(self, model: nn.Module, switches: Sequence[tuple[str, int]]) -> None:
        self._model = model
        self._switches = list(switches)
        self._current = Intervention()
        self._undo: list[Any] = []

    @contextmanager
    def applied(self, intervention: Intervention) -> Iterator[None]:
        """Apply `intervention` within the block, and what applied before after it.

        Raises:
            OptionError: the router of a layer cannot be found.
        """
        before = self._current
        self._change(intervention)
        try:
            yield
        finally:
            self._change(before)

    def release(self) -> None:
        """Forget the model and what was replaced in it, once its weights are gone."""
        self._undo.clear()
        self._switches.clear()
        self._current = Intervention()

    def _change(self, intervention: Intervention) -> None:
        if intervention == self._current:
            return
        self._restore()
        self._current = Intervention()
        try:
            if intervention:
                for layer in range(len(self._switches)):
                    self._begin(layer, intervention)
        except BaseException:
            self._restore()
            raise
        self._current = intervention

    def _restore(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _begin(self, layer: int, intervention: Intervention) -> None:
        keys = intervention.mask | intervention.force | intervention.boost.keys()
        everywhere = intervention.top_k is not None or intervention.temperature != 1.0
        if not everywhere and all(key.layer != layer for key in keys):
            return
        path, experts = self._switches[layer]
        router = find_router(self._model, path, experts)
        if router is None:
            raise OptionError(
                f"the routing of layer {layer} cannot be changed: no matrix with a row for each of "
                f"its {experts} experts was found beside {path}"
            )
        override = LayerOverride(layer, intervention, router, experts)
        self._swap_class(router.matrix, override)
        for module, name in router.biases():
            old = module[name]
            module[name] = override.bias(old)
            self._undo.append(lambda m=module, n=name, old=old: m.__setitem__(n, old))
        if intervention.top_k is not None:
            for owner in router.around:
                self._set_top_k(owner, intervention.top_k)
        switch = _at(self._model, path.split("."))
        switch.override_routing(override)
        self._undo.append(lambda: switch.override_routing(None))

    def _swap_class(self, module: nn.Module, override: LayerOverride) -> None:
        kind = type(module)
        linear = isinstance(module, nn.Linear | nn.QuantizedLinear)
        call = (_linear if linear else _multiplying)(kind, override)
        module.__class__ = type(kind.__name__, (kind,), {"__call__": call, "overridden": True})
        self._undo.append(lambda: setattr(module, "__class__", kind))

    def _set_top_k(self, owner: Any, top_k: int) -> None:
        family = family_of(owner)
        if family is not None and top_k in family.fatal_top_k:
            raise OptionError(
                f"top_k={top_k} cannot be used: with it MLX ends the process when mlx-lm computes "
                f"a {type(owner).__name__}; give another number"
            )
        for name in (*names("top_k"), *names("router_top_k")):
            old = vars(owner).get(name)
            if isinstance(old, int) and not isinstance(old, bool):
                object.__setattr__(owner, name, top_k)
                self._undo.append(lambda name=name, old=old: object.__setattr__(owner, name, old))


def find_router(model: nn.Module, path: str, experts: int) -> Router | None:
    """The router of the switch at `path`; None if there is not exactly one."""
    steps = path.split(".")
    for up in range(1, len(steps)):
        parent = _at(model, steps[:-up])
        if not isinstance(parent, nn.Module):
            continue
        below = ".".join(steps[-up:])
        found = [
            (name, module)
            for name, module in parent.named_modules()
            if name and name != below and not name.startswith(below + ".") and _rows(module)
        ]
        for more in (False, True):  # as many rows as experts; or some that stand for no expert
            low, high = (experts + 1, 2 * experts) if more else (experts, experts)
            fits = [(name, module) for name, module in found if low <= _rows(module) <= high]
            if len(fits) > 1 or more:  # where the size is ambiguous, the name decides
                fits = [item for item in fits if set(item[0].split(".")) & set(names("routers"))]
            if len(fits) == 1:
                return _router(parent, fits[0][0], steps[-up:])
    return None


def _router(parent: nn.Module, name: str, below: list[str]) -> Router:
    """The router whose matrix is `name` below `parent`, as the switch is `below`."""
    down = name.split(".")
    modules = [_at(parent, down[:n]) for n in range(len(down) + 1)]
    modules += [_at(parent, below[:n]) for n in range(1, len(below))]
    configs = [
        value
        for module in modules
        if isinstance(module, nn.Module)
        for key, value in vars(module).items()
        if key in ("args", "config") and hasattr(value, "__dict__")
    ]
    around = {id(owner): owner for owner in [*modules, *configs] if hasattr(owner, "__dict__")}
    matrix = modules[len(down)]
    return Router(matrix, _rows(matrix), tuple(around.values()))


def _rows(module: Any) -> int:
    """Rows of a module's own matrix; 0 if it has none."""
    weight = module.get("weight") if isinstance(module, nn.Module) else None
    return weight.shape[0] if isinstance(weight, mx.array) and weight.ndim == 2 else 0


def _at(model: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        model = model[int(step)] if isinstance(model, list) else model[step]
    return model


def _linear(kind: Any, override: LayerOverride) -> Any:
    """The `__call__` of a linear layer whose output is the logits."""

    def __call__(self: Any, x: mx.array) -> mx.array:  # noqa: N807  # a method
        return override.logits(kind.__call__(self, x))

    return __call__


def _multiplying(kind: Any, override: LayerOverride) -> Any:
    """The `__call__` of a module that multiplies by its own matrix among other things."""

    def __call__(self: Any, x: mx.array, *args: Any, **kwargs: Any) -> Any:  # noqa: N807  # a method
        probe = mx.reshape(x, x.shape)  # another object over the same numbers
        probe.__class__ = _Probe
        _probing.override = override
        try:
            return kind.__call__(self, probe, *args, **kwargs)
        finally:
            _probing.override = None

    return __call__


_probing = threading.local()


class _Probe(mx.array):
    """A router's input: its product with one column per logit is the logits."""

    __slots__ = ()

    def __matmul__(self, other: Any) -> mx.array:
        product = super().__matmul__(other)
        override: LayerOverride | None = getattr(_probing, "override", None)
        if override is not None and product.shape[-1] == override.width:
            return override.logits(product)
        return product

    def astype(self, *args: Any, **kwargs: Any) -> mx.array:
        """MLX's cast; the result is a probe as well."""
        cast = super().astype(*args, **kwargs)
        cast.__class__ = _Probe
        return cast
