"""Makes native subclasses of mlx-lm's module classes, on demand."""

from __future__ import annotations

_MADE: dict[tuple[type, type], type] = {}


def native_class(behaviour: type, kind: type) -> type:
    """The subclass of `kind` with the mixin `behaviour`; always the same object."""
    if (behaviour, kind) not in _MADE:
        _MADE[behaviour, kind] = type(f"Native{kind.__name__}", (behaviour, kind), {})
    return _MADE[behaviour, kind]
