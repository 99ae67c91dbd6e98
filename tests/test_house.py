"""The house's rules, checked from the code itself: who imports whom, how large things are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import outlier_jupyter
from outlier_jupyter.display import VIEWS, view_of

ROOT = Path(outlier_jupyter.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py"))

BASE = {"errors", "options", "events", "families", "values"}
MAY_IMPORT = {
    "errors": set(),
    "families": set(),
    "display": set(),
    "options": {"errors", "residency", "values"},
    "values": {"errors"},
    "events": set(),
    "interrupt": set(),
    "attended": set(),
    "progress": {"attended"},
    "turns": {"errors", "interrupt"},
    "async_run": {"run", "turns"},
    "closing": {"checkpoint", "errors", "interrupt", "memory", "paging"},
    "files": {"errors", "interrupt"},
    "units": set(),
    "machine": set(),
    "large_pages": set(),
    "memory": {"machine", "units"},
    "budget": {"errors", "kv_caches", "machine", "memory", "options", "paging", "prompts", "units"},
    "hub": {"errors"},
    "model_folder": {"errors"},
    "opening": {
        "checkpoint",
        "errors",
        "machine",
        "model_folder",
        "paging",
        "units",
        "vocabulary",
    },
    "provenance": {"machine", "units"},
    "kv_caches": {"errors", "options", "units"},
    "listeners": {"events"},
    "prompts": {"values", "errors", "options", "templates"},
    "templates": {"errors", "interrupt"},
    "status": {"checkpoint", "paging", "trace", "units"},
    "transcript": set(),
    "vocabulary": {"transcript"},
    "chunking": set(),
    "checkpoint": BASE | {"files", "large_pages", "machine"},
    "residency": {"errors"},
    "paging": BASE | {"checkpoint", "interrupt", "large_pages", "machine", "residency", "units"},
    "trace": {"display"} | BASE | {"files", "residency", "units"},
    "run": {"display"} | BASE | {"files", "trace", "transcript", "units"},
    "uses": {"display"} | {"values", "errors", "run", "trace", "units"},
    "routing": {"errors", "options", "paging"},
    "reference": {"events", "paging", "routing"},
    "decoding": BASE | {"interrupt", "memory", "paging", "reference", "run", "trace", "transcript"},
    "scoring": {
        "engine",
        "errors",
        "events",
        "interrupt",
        "options",
        "paging",
        "prompts",
        "reference",
    },
    "studies": {
        "display",
        "engine",
        "errors",
        "files",
        "loading",
        "options",
        "paging",
        "progress",
        "prompts",
        "residency",
        "run",
        "scoring",
        "trace",
        "units",
        "uses",
        "values",
    },
    "engine": BASE
    | {
        "async_run",
        "budget",
        "checkpoint",
        "chunking",
        "closing",
        "decoding",
        "interrupt",
        "kv_caches",
        "listeners",
        "machine",
        "memory",
        "paging",
        "prompts",
        "reference",
        "routing",
        "run",
        "status",
        "trace",
        "transcript",
        "turns",
        "units",
        "vocabulary",
    },
    "kernels": BASE,
    "native": BASE | {"kernels", "large_pages", "progress"},
    "loading": BASE
    | {
        "budget",
        "checkpoint",
        "chunking",
        "engine",
        "hub",
        "interrupt",
        "machine",
        "memory",
        "model_folder",
        "native",
        "opening",
        "paging",
        "progress",
        "provenance",
        "reads",
        "residency",
        "trace",
        "units",
    },
    "reads": {"checkpoint", "errors", "interrupt", "options", "paging"},
    "bench": BASE
    | {
        "checkpoint",
        "engine",
        "kernels",
        "large_pages",
        "loading",
        "machine",
        "provenance",  # a speed is told with its processor
        "repacking",
        "trace",
        "units",
    },
    "repacking": {
        "checkpoint",
        "errors",
        "hub",
        "model_folder",
        "opening",
        "progress",
        "reads",
        "units",
        "values",
    },
    "planning": {
        "budget",
        "display",
        "engine",
        "errors",
        "hub",
        "loading",
        "machine",
        "model_folder",
        "opening",
        "options",
        "paging",
        "prompts",
        "units",
        "values",
    },
    "notebook": BASE
    | {
        "attended",
        "bench",
        "display",
        "engine",
        "files",
        "loading",
        "machine",
        "paging",
        "planning",
        "prompts",
        "repacking",
        "residency",
        "run",
        "status",
        "studies",
        "templates",
        "trace",
        "units",
        "uses",
    },
    "testing": BASE | {"checkpoint", "hub"},
}
"""Room → the rooms it may import. `__init__` is the door, which imports late."""

WITH_MLX = {
    "bench",
    "decoding",
    "engine",
    "kv_caches",
    "loading",
    "memory",
    "native",
    "opening",
    "paging",
    "reference",
    "scoring",
    "testing",
    "vocabulary",
}
ONLY_IN = {
    "mlx": WITH_MLX,
    "mlx_lm": WITH_MLX,
    "numba": {"bench", "kernels", "residency"},
    "llvmlite": {"kernels"},
    "IPython": {"notebook"},
    "anywidget": {"notebook"},
    "traitlets": {"notebook"},
    "plotly": {"notebook"},
    "huggingface_hub": {"hub"},
    "platformdirs": {"bench", "reads"},
    "psutil": {"machine"},
    "mmap": {"checkpoint", "large_pages"},
    "scipy": {"studies", "trace"},
    "fcntl": {"checkpoint"},
}
LATE = {"display": {"notebook"}, "run": {"uses"}}
"""`display` is the one way from a record to its pictures, made when somebody looks; a run asks what
it used of tables that pandas makes."""


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
    "error", "held_nbytes", "routed", "ask", "drop", "victims", "order", "scatter", "straight",
    "changed",
}  # fmt: skip
"""Methods whose docstring stands in a protocol or a base class."""


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
    "bench/geometry.py",  # models of the benchmark, made anew where not whole
    "checkpoint/repack.py",  # has a journal of its own
    "files.py",
    "hub.py",  # headers in a temporary folder
    "model_folder.py",  # a temporary folder
    "testing.py",  # models for tests
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_of_the_user_s_are_written_in_one_place(path):
    """All or nothing, by `files.write`; who writes by itself is named above, with the reason."""
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
    """Outside of the notebook's room, its modules are named in one table and at the doors."""
    naming = {
        str(path.relative_to(ROOT))
        for path in FILES
        if room(path) != "notebook"
        and re.search(r"import_module|from \.+notebook", path.read_text())
    }
    assert naming == {"__init__.py", "__main__.py", "display.py"}
