"""Real hosts on loopback and a real Chromium, all ended when the tests end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.hosts import (
    START_S,
    Host,
    Lab,
    Marimo,
    Notebook7,
    Voila,
    command,
    open_notebook,
    save,
    wait_until_idle,
)

__all__ = [
    "PICTURES", "ROOT", "START_S", "Lab", "command", "open_notebook", "save", "wait_until_idle",
]  # fmt: skip

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = subprocess.run(
    ["bash", str(ROOT / "tools" / "need.sh"), "chromium"],
    capture_output=True, text=True, check=True,
).stdout.strip()  # fmt: skip
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 60_000
"""The longest wait of a test: a kernel that generates has taken 9 s to answer."""
PICTURES = ROOT / "build" / "pictures"
"""Screenshots for people to look at, also of the page of a failed test."""


expect.set_options(timeout=PATIENCE_MS)


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


@pytest.fixture(scope="session")
def marimo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Marimo]:
    marimo = Marimo(tmp_path_factory.mktemp("marimo"))
    yield marimo
    marimo.close()


@pytest.fixture
def host(request: pytest.FixtureRequest, lab: Lab, marimo: Marimo) -> Host:
    """The host that the test's parameter names."""
    hosts: dict[str, Host] = {
        "lab": lab, "notebook": Notebook7(lab), "marimo": marimo, "voila": Voila(lab),
    }  # fmt: skip
    return hosts[request.param]


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1400, "height": 1300})
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    failed = request.session.testsfailed
    yield page
    if request.session.testsfailed > failed:
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / f"failed-{request.node.name}.png", full_page=True)
        (PICTURES / f"failed-{request.node.name}.txt").write_text(page.inner_text("body"))
    context.close()
