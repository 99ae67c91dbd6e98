"""Old names of attributes, arguments, classes and modules, kept for one release after a rename."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MOVED = {
    "bench": "benchmark",
    "bench.short": "benchmark.short",
    "checkpoint.reader": "checkpoint.readers",
    "hub": "system.hub",
    "loading": "engine.load",
    "machine": "system.memory_info",
    "notebook.desk": "notebook.chat.message_handler",
    "notebook.routes": "notebook.ipykernel_fixes",
    "planning": "engine.plan",
    "repacking": "engine.repack",
    "run": "runs.run",
    "transcript": "runs.text_stream",
    "uses": "runs.token_experts",
}
"""Old path of a module that users may import → its path now, both below the package."""


class Alias(property):
    """A read-only attribute that stands for the attribute `name`; made by `alias`."""

    name = ""


def alias(name: str) -> Any:
    """A read-only attribute that stands for `name` of the same object, without a warning."""

    def read(self: object) -> Any:
        return getattr(self, name)

    read.__doc__ = f"The old name of `{name}`, kept for one release."
    made = Alias(read)
    made.name = name
    return made


def add_aliases(kind: type, **names: str) -> None:
    """Give a class aliases, old=new, if its body takes none: that of a named tuple."""
    for old, name in names.items():
        setattr(kind, old, alias(name))


def with_old_keys(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `kind` of record by name, each also by its old name."""
    old = {key: each.name for key, each in vars(kind).items() if isinstance(each, Alias)}
    return {**values, **{key: values[name] for key, name in old.items() if name in values}}


def old_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator that accepts keyword arguments by their old names, too: old=new."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            new: Any = {names.get(name, name): value for name, value in kwargs.items()}
            return function(*args, **new)

        return call

    return decorate


def old_names(module: str, **names: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module whose classes or functions were renamed: old=new."""

    def read(name: str) -> Any:
        if name in names:
            return getattr(sys.modules[module], names[name])
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return read


def names_of(module: str, *names: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package that was a module: `names`, of the `module` in its place."""

    def read(name: str) -> Any:
        if name in names:
            return getattr(import_module(module), name)
        raise AttributeError(f"module {module.rpartition('.')[0]!r} has no attribute {name!r}")

    return read


def _below(name: str) -> list[str]:
    """The old paths below the package `name`."""
    return [old for old in MOVED if old.startswith(f"{name}.")]


class MovedModules(MetaPathFinder, Loader):
    """Imports a module of `MOVED` by its old path, with all names of the module at the new one."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """The spec of an old path; None for all others."""
        package, _, old = fullname.partition(".")
        if package != __package__ or old not in MOVED:
            return None
        return ModuleSpec(fullname, self, is_package=bool(_below(old)))

    def create_module(self, spec: ModuleSpec) -> None:
        """None: Python makes an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Look up the module's names in the module that has its place."""
        new = MOVED[module.__name__.partition(".")[2]]
        module.__doc__ = f"The old path of `{__package__}.{new}`, kept for one release."
        vars(module)["__getattr__"] = partial(getattr, import_module(f".{new}", __package__))


def moved(name: str) -> ModuleType:
    """The module with the old path `name`, and all old ones below it."""
    for old in _below(name):
        import_module(f".{old}", __package__)
    return import_module(f".{name}", __package__)
