"""Old names of attributes and methods, kept for one release after a rename."""

from __future__ import annotations

from typing import Any


def alias(name: str) -> Any:
    """A read-only attribute that stands for `name` of the same object, without a warning."""

    def read(self: object) -> Any:
        return getattr(self, name)

    read.__doc__ = f"The old name of `{name}`, kept for one release."
    return property(read)
