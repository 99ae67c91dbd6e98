"""A built wheel installs in a clean environment and works from there."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from outlier_jupyter.notebook.page_modules import MODULES

ROOT = Path(__file__).parent.parent

SESSION = """
import importlib, pkgutil
from IPython.core.interactiveshell import InteractiveShell
import outlier_jupyter
assert "site-packages" in outlier_jupyter.__file__, outlier_jupyter.__file__
for module in pkgutil.walk_packages(outlier_jupyter.__path__, "outlier_jupyter."):
    importlib.import_module(module.name)
ip = InteractiveShell.instance()
ip.run_line_magic("load_ext", "outlier_jupyter")
ip.run_line_magic("outlier", "load demo --cache-gb 0.002 --kernels mlx")
run = ip.run_cell_magic("outlier", "--max-tokens 3", "Hello")
assert run.generated >= 1
from outlier_jupyter.notebook.live.widget import LiveView
assert len(str(LiveView()._esm)) > 10_000
"""
"""Every module can be imported. What is compiled here would be compiled for this test alone, so the
run is MLX's."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", str(ROOT), "--no-deps", "--wheel-dir", str(folder))
    (found,) = folder.glob("outlier_jupyter-*.whl")
    return found


def pip(*words: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *words], capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_wheel_holds_the_model_and_the_widget(wheel):
    """Weights, tokenizer, card and built JavaScript are inside; sources of neither are."""
    names = zipfile.ZipFile(wheel).namelist()
    static = ("live.js", "live.css", "chat.js", "chat.css", "LICENSES.txt",
              *(f"{name}.js" for name in MODULES))  # fmt: skip
    for name in ("demo/model.safetensors", "demo/tokenizer.json", "demo/README.md", "py.typed",
                 "demo/generation_config.json",
                 *(f"notebook/static/{name}" for name in static)):  # fmt: skip
        assert f"outlier_jupyter/{name}" in names
    assert not any(name.startswith(("js/", "tools/", "tests/")) for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_works_in_a_clean_environment(wheel, tmp_path):
    """Installed with the extra of this platform, the magic runs the demo model from the wheel."""
    venv.create(tmp_path / "clean")
    python = str(tmp_path / "clean" / "bin" / "python")
    extra = "" if sys.platform == "darwin" else "[cpu]"
    pip("--python", python, "install", "--no-compile", f"{wheel}{extra}", cwd=tmp_path)
    done = subprocess.run(
        [python, "-c", SESSION], capture_output=True, text=True, cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
