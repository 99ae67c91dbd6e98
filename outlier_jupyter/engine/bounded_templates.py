"""Jinja's sandbox with a bound on memory: chat templates come from strangers.

Jinja's own sandbox bounds what a template may touch, and not what it may take: `'x' * 10**9` is a
gigabyte, at once. Here every operation that makes text or lists is refused before it makes more
than `MOST` of them. What grows little by little is watched from outside (`templates.apply`).

transformers compiles templates with the class `ImmutableSandboxedEnvironment` of its module;
`install` puts ours in its place, for this process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from types import BuiltinMethodType
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from transformers.utils import chat_template_utils

from ..errors import TemplateTooLarge
from ..system.memory_info import process_nbytes

MOST = 16_000_000
"""The most characters of a text, and bytes of a list's own memory: four million tokens."""
GROWTH = 128_000_000
"""The most bytes that the process may grow by while a template works; looked at every 30 ms."""
LARGE = 500_000
"""Bytes of one operation from which it looks itself at how much the process has grown by."""
LOOK: ContextVar[Callable[[], type[Exception] | None]] = ContextVar("look", default=lambda: None)
MOST_BITS = 100_000
"""The most bits of a number."""
POINTER = 8
MOST_PIECES = 1_000_000
"""The most items of a list: a piece that a text is cut into takes about 60 bytes."""
SCALAR = 30
"""Characters that a number or a name takes, at most about."""
WIDTHS = {
    "batch": MOST, "center": MOST, "indent": MOST, "round": 400, "slice": 100_000, "tojson": 1000,
    "truncate": MOST, "wordwrap": MOST,
}  # fmt: skip
"""Filters whose numbers say how much they make or compute, and the largest."""
WRITES = {
    "capitalize", "center", "e", "escape", "forceescape", "format", "indent", "join", "lower",
    "pprint", "replace", "safe", "string", "striptags", "title", "tojson", "trim", "truncate",
    "unique", "upper", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr",
}  # fmt: skip
"""Filters that make text of what is not text."""
LISTS = {"batch", "groupby", "list", "slice", "sort"}
"""Filters that make a list of a text's characters."""
REPEATS = {"urlize", "wordwrap", "xmlattr"}
"""Filters that may repeat a text that they are passed at every word."""
LONG = 1000
"""The longest text that they may repeat."""
REFUSED = {"from_bytes", "maketrans", "to_bytes", "translate"}
"""Methods that no chat template needs: they make much of little."""
DIGITS = re.compile(r"\d{6}")
"""A width in a format that is larger than any text needs."""


def install() -> None:
    """Have transformers compile chat templates with bounds, from now on."""
    chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment


@contextmanager
def watched() -> Iterator[Callable[[], type[Exception] | None]]:
    """Bound how much the process grows by in this block.

    Large operations on this thread look themselves. Yields a function for any other thread, that
    returns `TemplateTooLarge` once it has grown by more than GROWTH.
    """
    before = process_nbytes()
    grown = lambda: TemplateTooLarge if process_nbytes() - before > GROWTH else None  # noqa: E731
    token = LOOK.set(grown)
    try:
        yield grown
    finally:
        LOOK.reset(token)


def check(nbytes: int) -> None:
    """Raises TemplateTooLarge: so much is more than a template may make, by itself or in all."""
    if nbytes > MOST or (nbytes > LARGE and LOOK.get()()):
        raise TemplateTooLarge


def weight(value: Any) -> int:
    """About how many characters `value` has as text; it stops counting beyond MOST.

    A list that holds one text a thousand times has it a thousand times.
    """
    total, left = 0, [iter([value])]  # iterators, for a list's copy would be as large as the list
    while left and total <= MOST:
        each = next(left[-1], left)
        if each is left:
            left.pop()
        elif isinstance(each, str | bytes):
            total += len(each) + 2
        elif isinstance(each, Mapping):
            total += SCALAR + len(each)
            left += [iter(each.keys()), iter(each.values())]
        elif isinstance(each, list | tuple | set | frozenset):
            total += SCALAR + len(each)
            left.append(iter(each))
        else:
            total += SCALAR
    return total


def made(found: Any) -> Any:
    """What an operation made, itself, if it is not too much."""
    if isinstance(found, str | list):
        check(len(found) * (1 if isinstance(found, str) else MOST // MOST_PIECES))
    return found


def finalized(value: Any) -> Any:
    """A value that is about to be written, itself."""
    if not isinstance(value, str):
        check(weight(value))
    return value


def joined(parts: Iterable[Any]) -> str:
    """`parts` as one text."""
    total, found = 0, []
    for part in parts:
        found.append(part if isinstance(part, str) else str(finalized(part)))
        check(len(found[-1]))
        total += len(found[-1]) + POINTER
        if total > MOST:
            raise TemplateTooLarge
    return "".join(found)


def repeated(text: Any, count: Any) -> None:
    """Check `text * count`, of either order, of texts, lists and numbers."""
    if isinstance(text, int) and not isinstance(count, int):
        text, count = count, text
    if isinstance(text, int):
        check(MOST if text.bit_length() + count.bit_length() <= MOST_BITS else MOST + 1)
    elif isinstance(text, str | bytes | list | tuple) and isinstance(count, int):
        check(len(text) * max(0, count) * (1 if isinstance(text, str | bytes) else POINTER))


def replaced(text: str, old: str, new: str) -> None:
    """Check `text.replace(old, new)`."""
    count = text.count(old) if old else len(text) + 1
    check(len(text) + count * max(0, len(new) - len(old)))


def added(left: Any, right: Any) -> None:
    """Check `left + right`."""
    if isinstance(left, str | bytes | list | tuple) and isinstance(right, type(left)):
        check((len(left) + len(right)) * (1 if isinstance(left, str | bytes) else POINTER))


def formatted(text: Any, values: Any) -> None:
    """Check `text % values`, which may have widths in it or among the values."""
    if isinstance(text, str | bytes):
        words = text if isinstance(text, str) else text.decode("latin-1")
        if DIGITS.search(words) or "*" in words:
            raise TemplateTooLarge
        check(len(words) + words.count("%") * weight(values))


def raised(base: Any, exponent: Any) -> None:
    """Check `base ** exponent`."""
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0:
        check(MOST if base.bit_length() * exponent <= MOST_BITS else MOST + 1)


OPERATORS: dict[str, Callable[[Any, Any], None]] = {
    "*": repeated, "+": added, "%": formatted, "**": raised,
}  # fmt: skip


def numbers(values: Iterable[Any], most: int = MOST) -> None:
    """Check that no number among `values`, such as a width, is larger than `most`."""
    if any(isinstance(value, int) and abs(value) > most for value in values):
        raise TemplateTooLarge


def filtered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter `name`, checked before it works and after."""

    @wraps(function)  # Jinja looks at attributes for what it passes besides
    def bounded(*args: Any, **kwargs: Any) -> Any:
        passed = 1 if getattr(function, "jinja_pass_arg", None) is not None else 0
        value, *others = args[passed:]
        others += kwargs.values()
        if name in WRITES:
            value = [*value] if name == "join" and not isinstance(value, str) else finalized(value)
            check(sum(map(weight, others)))
        if name in WIDTHS:
            numbers(others, WIDTHS[name])
        texts = [each for each in others if isinstance(each, str)]
        if name == "indent":
            width = max([len(t) for t in texts] + [n for n in others if isinstance(n, int)] + [4])
            check((str(value).count("\n") + 1) * width + len(str(value)))
        elif name == "replace" and len(texts) > 1:
            replaced(str(value), texts[0], texts[1])
        elif name == "join":
            check(weight(value) + len(value) * max(map(len, texts), default=0))
        elif name == "format":
            formatted(str(value), others)
        elif name in REPEATS:
            check(max((MOST + 1 for text in texts if len(text) > LONG), default=0))
        elif name in LISTS and isinstance(value, str | bytes):
            check(len(value) * POINTER)
        return made(function(*args[:passed], value, *args[passed + 1 :], **kwargs))

    return bounded


def cut(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of `str.split` by which it stops one piece beyond what `made` lets pass."""
    most = args[1] if len(args) > 1 else kwargs.get("maxsplit", -1)
    if isinstance(most, int) and not 0 <= most < MOST_PIECES:
        return args[:1], {**kwargs, "maxsplit": MOST_PIECES}
    return args, kwargs


def method(
    function: BuiltinMethodType, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Check the call of a built-in object's method; its arguments, read once."""
    name, owner = function.__name__, function.__self__
    if name in REFUSED:
        raise TemplateTooLarge
    if not isinstance(owner, str | bytes):
        return args, kwargs
    numbers(args)
    if name in {"split", "rsplit"}:
        return cut(args, kwargs)
    if name == "splitlines" and len(owner) > MOST_PIECES:
        check(MOST + 1)
    if name == "join" and args:
        parts = list(args[0])
        check(weight(parts) + len(parts) * len(owner))
        return (parts,), kwargs
    if name == "replace" and len(args) > 1 and all(isinstance(a, type(owner)) for a in args[:2]):
        replaced(owner, args[0], args[1])  # type: ignore[arg-type]  # of bytes, too
    if name == "expandtabs":
        size = args[0] if args and isinstance(args[0], int) else 8
        check(owner.count("\t" if isinstance(owner, str) else b"\t") * size + len(owner))  # type: ignore[arg-type]
    return args, kwargs


class BoundedFormatter(SandboxedFormatter):
    """One call of `str.format`, without huge widths."""

    total = 0

    def format_field(self, value: Any, format_spec: str) -> str:
        """Format one value."""
        if DIGITS.search(format_spec):
            raise TemplateTooLarge
        found = str(super().format_field(finalized(value), format_spec))
        self.total += len(found)
        check(self.total)
        return found


class Generator(CodeGenerator):
    """Compiles `a ~ b` to a call that is checked."""

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802
        """Write the call."""
        self.write("environment.joined((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, whose operations are checked before they make anything large."""

    intercepted_binops = frozenset(OPERATORS)
    code_generator_class = Generator
    concat = staticmethod(joined)
    joined = staticmethod(joined)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"finalize": finalized, **kwargs})
        self.globals.pop("lipsum", None)
        self.filters = Filters(self.filters)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right`."""
        OPERATORS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function or method."""
        if isinstance(__obj, BuiltinMethodType):
            args, kwargs = method(__obj, args, kwargs)
        return made(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """A function in place of `str.format` and `str.format_map`."""
        if super().wrap_str_format(value) is None:
            return None
        text = value.__self__
        if value.__name__ == "format_map":
            return lambda names: BoundedFormatter(self).vformat(text, (), names)
        return lambda *args, **kwargs: BoundedFormatter(self).vformat(text, args, kwargs)


class Filters(dict[str, Callable[..., Any]]):
    """Filters, each checked: also those that are put in later."""

    def __init__(self, known: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        for name, function in known.items():
            self[name] = function

    def __setitem__(self, name: str, function: Callable[..., Any]) -> None:
        super().__setitem__(name, filtered(name, function))
