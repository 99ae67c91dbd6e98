"""Changes a router's choice where its logits are made, for as long as somebody asks for it.

A router is found by what it is: the matrix with one row per expert, nearest to the switch. Where
that is a linear layer, its output is changed; where a module multiplies by its own `weight`, the
product is, which an input of a class of its own gives away. Biases that only steer the selection
get what masks and forces, and nothing else. The rest of the router, whatever it is (softmax,
sigmoid, groups), is the model's own code and sees other logits. `top_k` is set wherever the
router or its block keeps it.

Nothing of the model is touched while nothing is asked for: classes, arrays and numbers are put
in place when an intervention begins and back when it ends. Whether it took effect is not assumed
but looked at: the switch holds the ids it is given against what was asked.
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

FAR = 30_000.0
"""As good as infinite for a logit, and a float16."""
HAIR = 64
"""A forced expert lies above the likeliest by one part in so many: more than bfloat16's step."""
TWICE = math.log(2)
"""Where groups of experts are chosen by the sum of their best two, and by nothing else, a forced
expert counts twice the likeliest: no other two are more together."""


@dataclass(frozen=True)
class Router:
    """Where a layer's choice is made.

    Attributes:
        matrix: the module that makes the logits.
        width: how many logits there are; more than experts where some stand for no expert.
        around: the modules from the matrix up to the switch's block, and their configs.
    """

    matrix: nn.Module
    width: int
    around: tuple[Any, ...]

    @property
    def grouped(self) -> bool:
        """Whether experts are chosen from the best groups of them."""
        return any(
            (vars(thing).get(name) or 0) > 1 for thing in self.around for name in names("groups")
        )

    def biases(self) -> list[tuple[nn.Module, str]]:
        """What is added to scores to select by: the modules that hold it, and its name there."""
        return [
            (thing, name)
            for thing in self.around
            for name in names("selection_biases")
            if isinstance(thing, nn.Module)
            and isinstance(thing.get(name), mx.array)
            and thing[name].shape == (self.width,)
        ]


class LayerOverride:
    """One layer's routing while it is changed."""

    def __init__(self, layer: int, wanted: Intervention, router: Router, experts: int) -> None:
        self.width = width = router.width
        self._lift = TWICE if router.grouped and not router.biases() else 0.0
        self._layer = layer
        self._ambiguous = width > experts  # ids beyond the experts reach the switch as 0
        self._temperature = wanted.temperature
        self._top_k = wanted.top_k
        self._seen = False
        self._masked = np.zeros(width, bool)
        self._forced = np.zeros(width, bool)
        for keys, into in ((wanted.mask, self._masked), (wanted.force, self._forced)):
            into[[key.expert for key in keys if key.layer == layer]] = True
        boosts = np.zeros(width, np.float32)
        for key, by in wanted.boost.items():
            if key.layer == layer:
                boosts[key.expert] = by
        self._boosts = mx.array(boosts) if boosts.any() else None
        self._mask = mx.array(self._masked) if self._masked.any() else None
        self._force = mx.array(self._forced) if self._forced.any() else None
        mx.eval([a for a in (self._boosts, self._mask, self._force) if a is not None])

    def logits(self, logits: mx.array) -> mx.array:
        """The router's logits [..., width] as they are to be."""
        self._seen = True
        if self._temperature != 1.0:
            logits = logits / self._temperature
        if self._boosts is not None:
            logits = logits + self._boosts.astype(logits.dtype)
        if self._mask is not None:
            logits = mx.where(self._mask, mx.array(-FAR, logits.dtype), logits)
        if self._force is not None:
            top = logits.max(axis=-1, keepdims=True)
            above = top + mx.maximum(mx.abs(top), mx.array(1.0, top.dtype)) / HAIR + self._lift
            logits = mx.where(self._force, mx.maximum(logits, above), logits)
        return logits

    def bias(self, bias: mx.array) -> mx.array:
        """A bias of the selection [width] that excludes what is masked and takes what is forced."""
        for these, far in ((self._mask, -FAR), (self._force, FAR)):
            if these is not None:
                bias = mx.where(these, mx.array(far, bias.dtype), bias)
        return bias

    def check(self, ids: npt.NDArray[Any]) -> None:
        """Hold what the router chose, [..., k], against what was asked of it.

        Raises:
            OptionError: this model's router did not do as asked.
        """
        seen, self._seen = self._seen, False
        refused = f"the routing of layer {self._layer} cannot be changed so"
        if not seen:
            raise OptionError(f"{refused}: this model's router makes its logits out of sight")
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
    """Changes the routing of one model.

    Args:
        model: with paged switches in place, and its final modules.
        switches: (path, experts) of each MoE layer, in the model's order.
    """

    def __init__(self, model: nn.Module, switches: Sequence[tuple[str, int]]) -> None:
        self._model = model
        self._switches = list(switches)
        self._now = Intervention()
        self._undo: list[Any] = []

    @contextmanager
    def applied(self, wanted: Intervention) -> Iterator[None]:
        """Route so within the block, and as before after it.

        Raises:
            OptionError: a layer whose router cannot be found.
        """
        before = self._now
        self._change(wanted)
        try:
            yield
        finally:
            self._change(before)

    def release(self) -> None:
        """Forget the model, and what stood in it before it was changed: it has no weights more."""
        self._undo.clear()
        self._switches.clear()
        self._now = Intervention()

    def _change(self, wanted: Intervention) -> None:
        if wanted == self._now:
            return
        self._restore()
        self._now = Intervention()
        try:
            if wanted:
                for layer in range(len(self._switches)):
                    self._begin(layer, wanted)
        except BaseException:
            self._restore()
            raise
        self._now = wanted

    def _restore(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _begin(self, layer: int, wanted: Intervention) -> None:
        keys = wanted.mask | wanted.force | wanted.boost.keys()
        everywhere = wanted.top_k is not None or wanted.temperature != 1.0
        if not everywhere and all(key.layer != layer for key in keys):
            return
        path, experts = self._switches[layer]
        router = find_router(self._model, path, experts)
        if router is None:
            raise OptionError(
                f"the routing of layer {layer} cannot be changed: no matrix with a row for each of "
                f"its {experts} experts was found beside {path}"
            )
        override = LayerOverride(layer, wanted, router, experts)
        self._swap_class(router.matrix, override)
        for module, name in router.biases():
            old = module[name]
            module[name] = override.bias(old)
            self._undo.append(lambda m=module, n=name, old=old: m.__setitem__(n, old))
        if wanted.top_k is not None:
            for thing in router.around:
                self._set_top_k(thing, wanted.top_k)
        switch = _at(self._model, path.split("."))
        switch.override_routing(override)
        self._undo.append(lambda: switch.override_routing(None))

    def _swap_class(self, module: nn.Module, override: LayerOverride) -> None:
        kind = type(module)
        call = _linear(kind, override) if _is_linear(module) else _multiplying(kind, override)
        module.__class__ = type(kind.__name__, (kind,), {"__call__": call, "overridden": True})
        self._undo.append(lambda: setattr(module, "__class__", kind))

    def _set_top_k(self, thing: Any, top_k: int) -> None:
        family = family_of(thing)
        if family is not None and top_k in family.fatal_top_k:
            raise OptionError(
                f"top_k={top_k} cannot be used: with it MLX ends the process when mlx-lm computes "
                f"a {type(thing).__name__}; give another number"
            )
        for name in (*names("top_k"), *names("router_top_k")):
            old = vars(thing).get(name)
            if isinstance(old, int) and not isinstance(old, bool):
                object.__setattr__(thing, name, top_k)
                self._undo.append(lambda name=name, old=old: object.__setattr__(thing, name, old))


def find_router(model: nn.Module, path: str, experts: int) -> Router | None:
    """The router of the switch at `path`, or None where there is none, or no single one."""
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
            if len(fits) > 1 or more:  # its name tells, where its size alone does not
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
    around = {id(thing): thing for thing in [*modules, *configs] if hasattr(thing, "__dict__")}
    matrix = modules[len(down)]
    return Router(matrix, _rows(matrix), tuple(around.values()))


def _rows(module: Any) -> int:
    """Rows of a module's own matrix, 0 where it has none."""
    weight = module.get("weight") if isinstance(module, nn.Module) else None
    return weight.shape[0] if isinstance(weight, mx.array) and weight.ndim == 2 else 0


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.QuantizedLinear)


def _at(model: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        model = model[int(step)] if isinstance(model, list) else model[step]
    return model


def _linear(kind: Any, override: LayerOverride) -> Any:
    """The call of a linear layer whose output is the logits."""

    def __call__(self: Any, x: mx.array) -> mx.array:  # noqa: N807  # a method
        return override.logits(kind.__call__(self, x))

    return __call__


def _multiplying(kind: Any, override: LayerOverride) -> Any:
    """The call of a module that multiplies by a matrix of its own on its way."""

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
    """A router's input: what it is multiplied by to one logit per expert is the router's matrix."""

    __slots__ = ()

    def __matmul__(self, other: Any) -> mx.array:
        product = super().__matmul__(other)
        override: LayerOverride | None = getattr(_probing, "override", None)
        if override is not None and product.shape[-1] == override.width:
            return override.logits(product)
        return product

    def astype(self, *args: Any, **kwargs: Any) -> mx.array:
        """Another type of the same numbers is looked at in its place."""
        cast = super().astype(*args, **kwargs)
        cast.__class__ = _Probe
        return cast
