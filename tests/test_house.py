"""The house's rules, checked in the code itself: imports between rooms, sizes, names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import outlier_jupyter
from outlier_jupyter.display import VIEWS, view_of

ROOT = Path(outlier_jupyter.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py"))
TESTS_ROOT = Path(__file__).parent
TESTS = sorted(
    path for path in TESTS_ROOT.rglob("*.py") if path.name not in ("inspection.py", "test_house.py")
)

BASE = {
    "aliases", "display", "errors", "events", "families", "formatting", "options", "tools",
    "values",
}  # fmt: skip
"""Modules that all rooms may import; BASES lists their imports of each other."""
BASES = {
    "aliases": set(),
    "errors": set(),
    "events": {"aliases"},
    "families": set(),
    "formatting": set(),
    "display": set(),
    "values": {"errors"},
    "options": {"errors", "residency", "tools", "values"},
    "tools": {"errors", "values"},
}
ROOMS = {
    "residency": set(),
    "system": set(),
    "checkpoint": {"system"},
    "cpu": {"checkpoint", "residency", "system"},  # compiled lookups and reads
    "distributed": {"residency"},
    "paging": {"checkpoint", "distributed", "residency", "system"},
    "trace": {"residency", "system"},
    "runs": {"system", "trace"},
    "engine": {
        "checkpoint", "cpu", "distributed", "paging", "residency", "runs", "system", "trace",
    },
    "worker": {"distributed"},  # which loads `engine.rank_worker` by its name
    "studies": {"engine", "paging", "residency", "runs", "system", "trace"},
    "benchmark": {"checkpoint", "cpu", "engine", "residency", "system", "trace"},
    "notebook": {
        "benchmark", "engine", "paging", "residency", "runs", "studies", "system", "trace",
    },
    "testing": {"checkpoint", "system"},
}  # fmt: skip
"""Room → the rooms it may import, which are all above it. `__init__` is the package."""
MAY_IMPORT = BASES | {room: rooms | BASE for room, rooms in ROOMS.items()}
MAY_IMPORT["residency"] = {"errors"}  # `options` lists the policies

WITH_MLX = {"benchmark", "cpu", "engine", "paging", "studies", "testing"}
ONLY_IN = {
    "mlx": WITH_MLX,
    "mlx_lm": WITH_MLX,
    "numba": {"benchmark", "cpu", "residency", "trace"},
    "llvmlite": {"cpu"},
    "IPython": {"notebook"},
    "anywidget": {"notebook"},
    "traitlets": {"notebook"},
    "plotly": {"notebook"},
    "huggingface_hub": {"system"},
    "platformdirs": {"benchmark", "engine", "system"},
    "psutil": {"system"},
    "mmap": {"checkpoint", "system"},
    "scipy": {"studies", "trace"},
    "fcntl": {"checkpoint"},
    "llguidance": {"engine"},
}
"""Library → the rooms that may import it."""
LATE = {"display": {"notebook"}}
"""`display` is the one way from a record to its views, which are made on display."""


def room(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path: Path, late: bool):
    """The modules a file imports, ours as `.room`, at its top level or (late) inside functions."""
    tree = ast.parse(path.read_text())
    inside = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    typing_only = {
        n
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)
        for n in ast.walk(i)
    }
    depth = len(path.relative_to(ROOT).parts)
    for node in ast.walk(tree):
        if node in typing_only or (node in inside) != late:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.module.split(".")[0]
            elif node.level == depth and node.module:
                yield "." + node.module.split(".")[0]
            elif node.level == depth:
                yield from ("." + alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may(path):
    """Each file's imports stay within what the house allows its room."""
    if path == ROOT / "__init__.py":
        return
    here = room(path)
    for late in (False, True):
        for name in imports(path, late):
            if name.startswith(".") and name[1:] != here:
                allowed = MAY_IMPORT[here] | (LATE.get(here, set()) if late else set())
                assert name[1:] in allowed, f"{here} imports {name[1:]}"
            elif name in ONLY_IN:
                assert here in ONLY_IN[name], f"{name} is imported in {here}"


def test_rooms_import_those_above_them():
    """Each room's imports are before it in the table, so that no cycle is possible."""
    known = list(ROOMS)
    for name, imported in ROOMS.items():
        assert imported <= set(known[: known.index(name)]), name
    assert {room(path) for path in FILES} <= {*MAY_IMPORT, "__init__", "__main__"}


HEAVY = {
    "IPython", "anywidget", "huggingface_hub", "llguidance", "mlx", "mlx_lm", "numba", "pandas",
    "plotly", "pyarrow", "scipy", "traitlets", "tqdm", "transformers",
}  # fmt: skip
"""Libraries that justify a late import: they are slow to import, or may be missing."""


def module(path: Path) -> str:
    """A file's dotted name below the package, "" for the package itself."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def imported(path: Path, late: bool):
    """What a file imports at its top level, or late: our modules as `.a.b`, libraries as `a`."""
    tree = ast.parse(path.read_text())
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    inside = {n for f in ast.walk(tree) if isinstance(f, functions) for n in ast.walk(f)}
    for_types = {
        n
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)
        for n in ast.walk(i)
    }
    package = (
        module(path).split(".") if path.name == "__init__.py" else module(path).split(".")[:-1]
    )
    for node in ast.walk(tree):
        if node in for_types or (node in inside) != late:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level], *filter(None, [node.module])]
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                yield "." + (whole if whole in MODULES else ".".join(base))


def reached(start: str) -> set[str]:
    """All that importing the module `start` imports, ours and libraries."""
    found, left = set(), ["." + start]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        if name.startswith(".") and name[1:]:
            left += imported(MODULES[name[1:]], late=False)
    return found


def test_no_modules_import_each_other():
    """There is no import cycle, with late imports, without imports for types alone."""
    graph = {
        name: {
            other[1:] for late in (False, True) for other in imported(path, late)
            if other.startswith(".") and other[1:] != name
        }
        for name, path in MODULES.items()
    }  # fmt: skip
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_imported_late_is_heavy(path):
    """Late imports are slow libraries, or modules of ours that load one of them first."""
    for name in imported(path, late=True):
        if name.startswith("."):
            loads = (reached(name[1:]) - reached(module(path))) & HEAVY
            assert loads, f"{name[1:]} loads nothing heavy: import it at the top"
        elif name not in sys.stdlib_module_names:
            assert name in HEAVY, name


def test_a_class_has_a_name_of_its_own():
    """No name stands for two classes."""
    homes: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_its_room_looks_into_an_engine(path):
    """`engine._x` is in `engine/` alone."""
    assert room(path) == "engine" or not re.search(r"\bengine\._[a-z]", path.read_text())


PRIVATE = re.compile(r"_[a-zA-Z]\w*(?<!_)")
"""A private name: one underscore before it, and none after it, as in IPython's `_repr_html_`."""
IN_TEXT = re.compile(r"[\w)\]]\.(_[a-zA-Z]\w*)")
"""Attributes in code within a string."""
OF_OTHERS = {
    "_asdict", "_fields", "_replace",  # named tuples: public, with a name that no field can have
    "_esm",  # anywidget
    "_exit",  # os
    "_get_classes",  # mlx_lm.utils
    "_handle_msg",  # ipywidgets.Widget
    "_reschedule",  # xdist.scheduler.LoadScopeScheduling
    "_tokenizer",  # mlx-lm's TokenizerWrapper
}  # fmt: skip
"""Names of other libraries that tests use although they begin with an underscore."""
BY_NAME = {"setattr", "getattr", "hasattr", "delattr", "object"}
"""Functions that take an attribute's name; `object` is `mock.patch.object`."""


def private_uses(path: Path):
    """Line and private name of each use in a test file: as an attribute, by name, in a string."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = IN_TEXT.findall(node.value)
        elif isinstance(node, ast.Call):
            function = node.func
            called = getattr(function, "attr", None) or getattr(function, "id", None)
            if called in BY_NAME:
                names = [n.value for n in node.args[1:2] if isinstance(n, ast.Constant)]
        for name in names:
            if PRIVATE.fullmatch(str(name)) and name not in OF_OTHERS:
                yield node.lineno, name


@pytest.mark.parametrize("path", TESTS, ids=lambda p: str(p.relative_to(TESTS_ROOT)))
def test_tests_look_into_private_parts_in_one_place(path):
    """`something._name` is in `tests/inspection.py` alone, also by name and in strings."""
    assert list(private_uses(path)) == []


def test_private_parts_are_found_however_they_are_named(tmp_path):
    """An attribute, an import, a patch by name and code in a string count; IPython's do not."""
    file = tmp_path / "test_it.py"
    file.write_text(
        "from a import _b\nx._c\nmonkeypatch.setattr(x, '_d', 1)\nrun('y()._e = 2')\n"
        "x._repr_html_()\nself._f\nx.__doc__\nx._replace()\n"
    )
    assert [name for _, name in sorted(private_uses(file))] == ["_b", "_c", "_d", "_e"]


def test_the_door_imports_nothing_heavy():
    """`import outlier_jupyter` loads none of MLX, IPython, anywidget and plotly."""
    heavy = ("mlx", "IPython", "anywidget", "plotly", "numpy", "numba", "scipy")
    code = f"import sys, outlier_jupyter; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_name_at_the_door_opens():
    """All of `__all__` exists, and an unknown name is an AttributeError."""
    for name in outlier_jupyter.__all__:
        assert getattr(outlier_jupyter, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        outlier_jupyter.nothing  # noqa: B018


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_functions_and_classes_stay_small(path):
    """A file about 400 lines at most, a function 60, a class 250; each says what it is for."""
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 400
    assert ast.get_docstring(tree), "a module opens with a paragraph that says what it does"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 250, node.name


IN_PROTOCOLS = {
    "read", "close", "add", "row", "commit", "add_token", "finalize",
    "error", "buffer_nbytes", "routed", "ask", "drop", "victims", "order", "scatter",
    "changed", "kernel_readable",
}  # fmt: skip
"""Methods whose docstring is in a protocol or a base class."""


def public(body):
    """The public functions and classes of a body, and the public methods of those classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_public_name_says_what_it_is(path):
    """Public functions, classes and methods have docstrings, or a protocol has it for them."""
    for node in public(ast.parse(path.read_text()).body):
        assert ast.get_docstring(node) or node.name in IN_PROTOCOLS, node.name


WRITES_ITSELF = {
    "benchmark/geometry.py",  # models of the benchmark, made again if incomplete
    "checkpoint/repack.py",  # has a journal of its own
    "system/files.py",
    "system/hub.py",  # headers in a temporary folder
    "checkpoint/model_folder.py",  # a temporary folder
    "testing.py",  # models for tests
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_of_the_user_s_are_written_in_one_place(path):
    """`files.write` writes all or nothing; exceptions are listed above, with the reason."""
    if str(path.relative_to(ROOT)) in WRITES_ITSELF:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            assert name not in ("write_text", "write_bytes", "mkstemp", "NamedTemporaryFile"), name
            if name == "open":
                modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)]
                         if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
                assert not any(set(mode) & set("wax+") and len(mode) < 4 for mode in modes)


@pytest.mark.parametrize("what", VIEWS)
def test_what_a_record_offers_to_draw_is_there(what):
    """Every entry of the table of views is a function of the package."""
    assert callable(view_of(what))


def test_no_record_names_a_view():
    """Outside the notebook's room, two tables and entry points name modules."""
    naming = {
        str(path.relative_to(ROOT))
        for path in FILES
        if room(path) != "notebook"
        and re.search(r"import_module|from \.+notebook", path.read_text())
    }
    assert naming == {"__init__.py", "__main__.py", "aliases.py", "display.py", "worker.py"}
