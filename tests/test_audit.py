"""`tools/audit.py` finds nothing in the package; it finds what is put into a file."""

from __future__ import annotations

import json
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from tests.torture.child import run_child

ROOT = Path(__file__).parent.parent
SPEC = spec_from_file_location("audit", ROOT / "tools" / "audit.py")
audit = module_from_spec(SPEC)
SPEC.loader.exec_module(audit)


def test_the_package_passes():
    """What it does, what it requires, and all licences."""
    assert audit.findings() == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from yaml import load", "import urllib.request", "import httpx",
        "import subprocess as s", "eval('1')", "run = exec", "os.system('ls')", "os.popen('ls')",
        "np.load(file, allow_pickle=True)", "call('ls', shell=True)", "s.listen(1)",
        "asyncio.start_server(f)", "pandas.read_pickle(file)", "f(trust_remote_code=True)",
    ],
)  # fmt: skip
def test_code_that_runs_code_or_reaches_out_is_found(tmp_path, monkeypatch, line):
    """Unpickling, evaluating, other programs, the network, listening, and what allows them."""
    monkeypatch.setattr(audit, "PACKAGE", tmp_path)
    file = tmp_path / "module.py"
    file.write_text(f"{line}\n")
    (found,) = audit.code(file)
    assert found.startswith("module.py:1 ")


@pytest.mark.parametrize(
    "line",
    [
        "import re\nre.compile('x')", "import mlx.core as mx\nmx.eval(a)", "platform.system()",
        "'pickle and eval are not used'", "f(trust_remote_code=trusted)",
    ],
)  # fmt: skip
def test_code_that_only_looks_like_it_passes(tmp_path, monkeypatch, line):
    """Other functions of the same name, texts, and values that the user chooses."""
    monkeypatch.setattr(audit, "PACKAGE", tmp_path)
    file = tmp_path / "module.py"
    file.write_text(f"{line}\n")
    assert list(audit.code(file)) == []


def project(**changed):
    """The content of pyproject.toml with other dependencies."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    content["project"] = content["project"] | changed
    return content


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "numpy<3", "numpy>=2,!=3"])
def test_a_dependency_without_both_bounds_is_found(line):
    """A new major version comes when we have tried it."""
    (found,) = audit.ranges(project(dependencies=[line, "mlx>=0.1,<9"]))
    assert "numpy has no range" in found


def test_an_installed_version_outside_of_its_range_is_found():
    """The tests prove what is installed, so it must be what users get."""
    (found,) = audit.ranges(project(dependencies=["numpy>=0.1,<0.2", "mlx>=0.1,<9"]))
    assert "numpy" in found and "is installed" in found


def test_a_licence_that_is_not_listed_is_found(monkeypatch):
    """By a distribution's metadata, of a dependency's dependency, too."""
    monkeypatch.setattr(audit, "LICENCES", audit.LICENCES - {"MPL-2.0"})
    found = list(audit.licences(project()))
    assert any(line.startswith("tqdm ") for line in found)


@pytest.mark.parametrize(
    "change",
    [
        lambda package, lock: package["devDependencies"].update(marked="^18.0.0"),
        lambda package, lock: package["devDependencies"].pop("marked"),
        lambda package, lock: lock["packages"]["node_modules/marked"].pop("integrity"),
        lambda package, lock: lock["packages"]["node_modules/marked"].update(version="1.0.0"),
        lambda package, lock: lock["packages"]["node_modules/marked"].update(license="GPL-3.0"),
        lambda package, lock: lock["packages"]["node_modules/marked"].update(hasInstallScript=True),
    ],
)
def test_what_is_not_pinned_in_the_browser_s_libraries_is_found(change):
    """Versions, checksums, scripts that run when they are installed, and licences."""
    js = [json.loads((ROOT / "js" / name).read_text())
          for name in ("package.json", "package-lock.json")]  # fmt: skip
    assert list(audit.browser(*js)) == []
    change(*js)
    assert list(audit.browser(*js))


SESSION = """
import sys, tempfile
from pathlib import Path
seen = set()
kinds = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")
sys.addaudithook(lambda event, _: seen.add(event) if event.startswith(kinds) else None)
import outlier_jupyter
with outlier_jupyter.load("demo", cache_gb=0.002, quiet=True, kernels="mlx") as engine:
    run = engine.generate("Hello", max_tokens=4)
    with tempfile.TemporaryDirectory() as folder:
        outlier_jupyter.Run.load(run.save(Path(folder) / "run.safetensors")).explain(2)
        run.report(Path(folder) / "report.html")
    print(outlier_jupyter.plan("demo") is None, sorted(seen))
"""


def test_a_run_opens_no_socket_and_starts_no_program():
    """Python's own audit events of a process that loads, runs, saves, opens and reports."""
    ended = run_child(code=SESSION, timeout_s=300)
    assert ended.failure("False []") == ""
