"""A real JupyterLab on loopback and a real Chromium, both ended when the tests end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = subprocess.run(
    ["bash", str(ROOT / "tools" / "need.sh"), "chromium"],
    capture_output=True, text=True, check=True,
).stdout.strip()  # fmt: skip
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
START_S = 60
PICTURES = ROOT / "build" / "pictures"
"""What was seen, for people to look at; a page whose test failed is there too."""


class Lab:
    """A JupyterLab server in a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.notebooks = home / "notebooks"
        self.notebooks.mkdir()
        config = home / "config" / "labconfig"
        config.mkdir(parents=True)
        # It would ask whether news may be fetched.
        news = {"@jupyterlab/apputils-extension:announcements": True}
        (config / "page_config.json").write_text(json.dumps({"disabledExtensions": news}))
        self.settings = home / "settings"
        self._runtime = home / "runtime"
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
                "--IdentityProvider.token=", f"--ServerApp.root_dir={self.notebooks}",
                "--KernelManager.transport=ipc",
            ],
            env=os.environ | {
                "JUPYTER_CONFIG_DIR": str(home / "config"),
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

    def theme(self, name: str) -> None:
        """Choose JupyterLab's theme, for pages opened from now on."""
        folder = self.settings / "@jupyterlab" / "apputils-extension"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "themes.jupyterlab-settings").write_text(json.dumps({"theme": name}))

    def close(self) -> None:
        """End the server, and with it its kernels."""
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 1300})
    page = context.new_page()
    failed = request.session.testsfailed
    yield page
    if request.session.testsfailed > failed:
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"failed-{request.node.name}.png")
    context.close()


def open_notebook(page: Page, lab: Lab, name: str) -> None:
    """Open a notebook and wait until its cells can be run."""
    page.goto(f"{lab.url}lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=START_S * 1000)
    page.wait_for_function("window.jupyterapp !== undefined")
    wait_until_idle(page)


def command(page: Page, name: str) -> None:
    """Execute one of JupyterLab's commands."""
    page.evaluate("name => { void window.jupyterapp.commands.execute(name); }", name)


def wait_until_idle(page: Page) -> None:
    """Wait for a kernel that has nothing to do. (Without a kernel Lab says idle, too.)"""
    page.wait_for_function(
        """() => {
          const kernel = document.querySelector('.jp-Toolbar-kernelName');
          return kernel && kernel.textContent !== 'No Kernel';
        }""",
        timeout=START_S * 1000,
    )
    page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=120_000)
