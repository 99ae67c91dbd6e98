"""Runs axe-core, an accessibility checker, on a part of the page."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.browser.conftest import ROOT

AXE = ROOT / "js" / "node_modules" / "axe-core" / "axe.min.js"
CHECK = """async (selector) => {
  const { passes, violations } = await axe.run(selector);
  return [passes.length, violations.flatMap(({ id, help, nodes }) =>
    nodes.map((node) => `${id}: ${help}: ${node.html.slice(0, 300)}: ${node.failureSummary}`))];
}"""


def assert_accessible(page: Page, selector: str) -> None:
    """Assert that axe checks something in what `selector` finds, and reports no violation."""
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(path=AXE)
    passed, problems = page.evaluate(CHECK, selector)
    assert passed > 5 and not problems, "\n".join(problems)
