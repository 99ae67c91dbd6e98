"""The programs that show notebooks: real servers on loopback, each ended with the tests.

One Jupyter server serves JupyterLab, Notebook 7 and Voilà, which differ in their pages; marimo is
a server of its own for each document. `Host.show` is the same for all: it opens a document with
these cells and runs them. This module does not depend on what the cells contain or output.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import nbformat
from nbformat.sign import NotebookNotary
from playwright.sync_api import Page

START_S = 60


class Host(Protocol):
    """Where a document is shown."""

    def show(self, page: Page, name: str, *cells: str) -> None:
        """Open a document with these code cells in `page`, and run all of them."""


class Lab:
    """A Jupyter server in a folder of its own, and JupyterLab on it."""

    def __init__(self, home: Path) -> None:
        self.notebooks = home / "notebooks"
        self.notebooks.mkdir()
        config = home / "config" / "labconfig"
        config.mkdir(parents=True)
        # This extension shows a question about fetching news.
        news = {"@jupyterlab/apputils-extension:announcements": True}
        (config / "page_config.json").write_text(json.dumps({"disabledExtensions": news}))
        self.settings = home / "settings"
        self._runtime = home / "runtime"
        self._data = home / "data"
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                "--expose-app-in-browser", "--JupyterNotebookApp.expose_app_in_browser=True",
                "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
                "--IdentityProvider.token=", f"--ServerApp.root_dir={self.notebooks}",
                "--KernelManager.transport=ipc",
            ],
            env=os.environ | {
                "JUPYTER_CONFIG_DIR": str(home / "config"),
                "JUPYTER_DATA_DIR": str(self._data),
                "JUPYTER_RUNTIME_DIR": str(self._runtime),
                "JUPYTERLAB_SETTINGS_DIR": str(self.settings),
                "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
                "IPYTHONDIR": str(home / "ipython"),
            },
            stdout=(home / "lab.log").open("w"),
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.url = self._wait_for_url()

    def _wait_for_url(self) -> str:
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            for file in self._runtime.glob("jpserver-*.json"):
                with suppress(ValueError):  # the file exists before it is complete
                    found: str = json.loads(file.read_text())["url"]
                    return found
            time.sleep(0.1)
        raise RuntimeError("JupyterLab did not start; see lab.log beside its config")

    def add(self, name: str, *cells: str, **metadata: Any) -> None:
        """Write a notebook with these code cells."""
        metadata.setdefault("kernelspec", {"name": "python3", "display_name": "Python 3"})
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells], metadata=metadata
        )
        nbformat.write(notebook, self.notebooks / name)

    def trust(self, name: str) -> None:
        """Sign a notebook, as its owner does."""
        notary = NotebookNotary(data_dir=str(self._data))
        notary.sign(nbformat.read(self.notebooks / name, as_version=4))

    def show(self, page: Page, name: str, *cells: str) -> None:
        """As `Host.show`."""
        self.add(f"{name}.ipynb", *cells)
        open_notebook(page, self, f"{name}.ipynb")
        command(page, "notebook:run-all-cells")

    def theme(self, name: str) -> None:
        """Choose JupyterLab's theme, for pages opened from now on."""
        folder = self.settings / "@jupyterlab" / "apputils-extension"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "themes.jupyterlab-settings").write_text(json.dumps({"theme": name}))

    def close(self) -> None:
        """End the server, and with it its kernels; they must be idle.

        A server that is terminated while one of its kernels restarts fails to end.
        """
        self._process.terminate()
        self._process.wait(30)


class Notebook7:
    """Jupyter Notebook's own page, on the same server."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def show(self, page: Page, name: str, *cells: str) -> None:
        """As `Host.show`."""
        self._lab.add(f"{name}.ipynb", *cells)
        page.goto(f"{self._lab.url}notebooks/{name}.ipynb")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=START_S * 1000)
        page.wait_for_selector("text=Python 3", timeout=START_S * 1000)
        page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
            "?.connectionStatus === 'connected'",
            timeout=START_S * 1000,
        )
        command(page, "notebook:run-all-cells")


class Voila:
    """Voilà, on the same server: the cells run before there is a page."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def show(self, page: Page, name: str, *cells: str) -> None:
        """As `Host.show`."""
        self._lab.add(f"{name}.ipynb", *cells)
        page.goto(f"{self._lab.url}voila/render/{name}.ipynb", timeout=120_000)


class Marimo:
    """marimo: a server for each document. Its cells are functions, which pass names on."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._servers: list[subprocess.Popen[bytes]] = []

    def show(self, page: Page, name: str, *cells: str) -> None:
        """As `Host.show`; the last expression of each cell is what it shows."""
        home = self._home / name
        home.mkdir()
        (home / "app.py").write_text(marimo_app(cells))
        log = home / "log"
        server = subprocess.Popen(
            [
                sys.executable, "-m", "marimo", "--yes", "run", str(home / "app.py"), "--headless",
                "--no-token", "--host", "127.0.0.1", "--no-check", "--port", "0",
            ],
            env=os.environ | {
                "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home),
                "XDG_STATE_HOME": str(home), "MARIMO_SKIP_UPDATE_CHECK": "1",
            },
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._servers.append(server)
        page.goto(_url_in(log, server))

    def close(self) -> None:
        """End all servers, and with them their kernels."""
        for server in self._servers:
            server.terminate()
            server.wait(30)


def _url_in(log: Path, server: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        found = re.search(r"http://\S+:([1-9]\d+)", log.read_text())
        if found:
            return f"http://127.0.0.1:{found[1]}"
        time.sleep(0.1)
    raise RuntimeError(f"marimo did not start: {log.read_text()}")


def marimo_app(cells: tuple[str, ...]) -> str:
    """A marimo document: each cell takes all names of the cells before, and returns its own."""
    parts = ["import marimo", "app = marimo.App()"]
    known: list[str] = []
    for source in cells:
        nodes = list(ast.walk(ast.parse(source)))
        used = {node.id for node in nodes if isinstance(node, ast.Name)}
        named = {node.name for node in nodes if isinstance(node, ast.alias)}
        stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        takes = ", ".join(name for name in known if name in used)
        new = sorted((named | stored) - set(known))
        body = textwrap.indent(source, "    ")
        parts.append(
            f"@app.cell\ndef _({takes}):\n{body}\n    return ({''.join(n + ', ' for n in new)})"
        )
        known += new
    parts.append('if __name__ == "__main__":\n    app.run()')
    return "\n\n".join(parts) + "\n"


def open_notebook(page: Page, lab: Lab, name: str) -> None:
    """Open a notebook in JupyterLab and wait until its cells can be run."""
    page.goto(f"{lab.url}lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=START_S * 1000)
    page.wait_for_function("window.jupyterapp !== undefined")
    wait_until_idle(page)


def command(page: Page, name: str) -> None:
    """Execute one of the commands of JupyterLab or Notebook."""
    page.evaluate("name => { void window.jupyterapp.commands.execute(name); }", name)


def save(page: Page) -> None:
    """Save the notebook and wait for it: a page that reloads before the end has no outputs."""
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")


def wait_until_idle(page: Page) -> None:
    """Wait for an idle kernel. (Without a kernel Lab shows idle, too.)"""
    page.wait_for_function(
        """() => {
          const kernel = document.querySelector('.jp-Toolbar-kernelName');
          return kernel && kernel.textContent !== 'No Kernel';
        }""",
        timeout=START_S * 1000,
    )
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=120_000)
    # Between two cells a kernel is idle, too: no cell may be queued.
    page.wait_for_function(
        "![...document.querySelectorAll('.jp-InputPrompt')]"
        ".some((prompt) => prompt.textContent.includes('*'))",
        timeout=120_000,
    )
