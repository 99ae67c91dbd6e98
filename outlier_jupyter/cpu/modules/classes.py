"""Classes of mlx-lm's modules that compute natively, made when a model has such a module."""

from __future__ import annotations

_MADE: dict[tuple[type, type], type] = {}


def native_class(behaviour: type, kind: type) -> type:
    """The subclass of `kind` that behaves as `behaviour` says, always the same one."""
    if (behaviour, kind) not in _MADE:
        _MADE[behaviour, kind] = type(f"Native{kind.__name__}", (behaviour, kind), {})
    return _MADE[behaviour, kind]
