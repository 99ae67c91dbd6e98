"""Converts arguments to plain Python values: NumPy's and MLX's numbers, paths, lists of texts.

Each function takes the argument's name and its value. It returns one of Python's own types, or
raises an `OptionError` that names the value and what is allowed. `checked` applies them to a
function's arguments.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from .errors import OptionError, shown

Function = TypeVar("Function", bound=Callable[..., Any])
LARGEST = (1 << 63) - 1
"""The largest count: the code that uses it computes in 64 bits."""
EXACT = 1 << 53
"""A float represents every integer below this exactly."""
LONGEST_PATH, LONGEST_NAME = 4095, 255
"""The most bytes of a path, and of each name in it."""


def checked(**checks: Callable[[str, Any], Any]) -> Callable[[Function], Function]:
    """Convert or refuse these arguments before the function is called.

    None passes unchanged where it is the argument's default.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        optional = {n for n, p in signature.parameters.items() if p.default is None}

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            bound = signature.bind(*args, **options)
            for name, check in checks.items():
                value = bound.arguments.get(name, signature.empty)
                if value is not signature.empty and not (value is None and name in optional):
                    bound.arguments[name] = check(name, value)
            return function(*bound.args, **bound.kwargs)

        return call  # type: ignore[return-value]  # the same signature

    return decorate


def refused(name: str, value: object, wanted: str) -> OptionError:
    """The error for a value of the wrong kind."""
    return OptionError(f"{name}={shown(value)} cannot be used: give {wanted}")


def integer(name: str, value: Any) -> int:
    """An integer of 64 bits, also NumPy's or MLX's; bools and floats (2.0 too) are refused.

    Raises:
        OptionError: `value` is something else.
    """
    found = whole(name, value)
    if abs(found) > LARGEST:
        raise OptionError(f"{name}={shown(value)} is too large: give a number of 64 bits")
    return found


def whole(name: str, value: Any) -> int:
    """As `integer`, of any size."""
    if not _is_bool(value):
        try:
            return operator.index(_scalar(value))
        except (TypeError, ValueError):
            pass
    raise refused(name, value, "a value of type int")


def is_whole(value: Any) -> bool:
    """Whether `integer` takes `value`, but for its size."""
    try:
        whole("", value)
    except OptionError:
        return False
    return True


def number(name: str, value: Any) -> float:
    """A finite number, also NumPy's or MLX's, as a float; an int stays an int.

    Raises:
        OptionError: `value` is no number, or not finite.
    """
    plain = _scalar(value)
    if _is_bool(plain) or not isinstance(plain, numbers.Real):
        raise refused(name, value, "a value of type float")
    try:
        found = float(plain)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise refused(name, value, "a finite number")
    return int(found) if isinstance(plain, numbers.Integral) and abs(found) < EXACT else found


def boolean(name: str, value: Any) -> bool:
    """True or False, also NumPy's.

    Raises:
        OptionError: `value` is something else.
    """
    if not _is_bool(value):
        raise refused(name, value, "a value of type bool")
    return bool(value)


def text(name: str, value: Any) -> str:
    """A text; a `PathLike` becomes one.

    Raises:
        OptionError: `value` is something else.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise refused(name, value, "a value of type str")
    return str(value)


def path(name: str, value: Any) -> str:
    """A path that a file can have; `~` is not expanded here.

    Raises:
        OptionError: `value` is something else.
    """
    found = text(name, value)
    try:
        encoded = os.fsencode(found)
    except UnicodeEncodeError:
        raise refused(name, value, "a path that a file can have") from None
    names = encoded.split(b"/")
    if b"\0" in encoded or len(encoded) > LONGEST_PATH or max(map(len, names)) > LONGEST_NAME:
        raise refused(name, value, "a path that a file can have")
    return found


def items(name: str, value: Any, wanted: str) -> list[Any]:
    """The items of a list, tuple, array, generator …; a text is refused.

    Args:
        wanted: what to give instead, for the message.

    Raises:
        OptionError: `value` is a text or not iterable.
    """
    if isinstance(value, str | bytes | bytearray | type):
        raise refused(name, value, wanted)
    try:
        return list(value)
    except (TypeError, ValueError):  # MLX raises ValueError for a single number
        raise refused(name, value, wanted) from None


def integers(name: str, value: Any) -> list[int]:
    """The integers in any container.

    Raises:
        OptionError: `value` is something else.
    """
    return [integer(name, each) for each in items(name, value, "whole numbers, in a list")]


def texts(name: str, value: Any) -> tuple[str, ...]:
    """One text, or the texts in a list, tuple, generator …; none for None.

    Raises:
        OptionError: `value` or one of its items is something else.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    wanted = "a text, or several in a list"
    if isinstance(value, Mapping):
        raise refused(name, value, wanted)
    found = items(name, value, wanted)
    for each in found:
        if not isinstance(each, str):
            raise refused(name, each, wanted)
    return tuple(found)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """`value`, if it is one of `choices`.

    Raises:
        OptionError: it is not; the message suggests the nearest choice.
    """
    words = list(choices)
    if isinstance(value, str) and value in words:
        return value
    near = difflib.get_close_matches(value, words, 1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    options = " or ".join(words) if len(words) == 2 else ", ".join(words)
    raise OptionError(f"{name}={shown(value)} is unknown: choose {options}{hint}")


def word(*choices: str) -> Callable[[str, Any], str]:
    """A check for `checked`: `one_of` these choices."""
    return lambda name, value: one_of(name, value, choices)


def within(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> None:
    """Raises OptionError: `value` is below `low`, not above `above`, or above `high`."""
    if low is not None and not value >= low:
        raise OptionError(f"{name}={shown(value)} is too small: give {low} or more")
    if above is not None and not value > above:
        raise OptionError(f"{name}={shown(value)} cannot be used: give more than {above}")
    if high is not None and not value <= high:
        raise OptionError(f"{name}={shown(value)} is too large: give {high} or less")


def bounded(read: Callable[[str, Any], Any], **bounds: float) -> Callable[[str, Any], Any]:
    """A check that converts as `read` does and requires the result to be `within` these bounds."""

    def check(name: str, value: Any) -> Any:
        found = read(name, value)
        within(name, found, **bounds)
        return found

    return check


count = bounded(integer, low=1)
natural = bounded(integer, low=0)
rate = bounded(number, above=0)
seed = bounded(whole, low=0, high=2**64 - 1)
"""64 bits without a sign, as random number generators take it."""


def instance(*kinds: type, wanted: str) -> Callable[[str, Any], Any]:
    """A check for `checked`: `value` is an instance of one of these classes."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kinds):
            raise refused(name, value, wanted)
        return value

    return check


def _scalar(value: Any) -> Any:
    """The item of an array without axes; any other value unchanged."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "shape", None) == () else value


def _is_bool(value: object) -> bool:
    # NumPy's bool is recognised by its name, so that this module need not import NumPy.
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")
