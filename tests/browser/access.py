"""Runs axe-core, an accessibility checker, on a part of the page."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.browser.conftest import ROOT

AXE = ROOT / "js" / "node_modules" / "axe-core" / "axe.min.js"
CHECK = """async ([selector, ignored]) => {
  const rules = Object.fromEntries(ignored.map((rule) => [rule, { enabled: false }]));
  const { passes, violations } = await axe.run(selector, { rules });
  return [passes.length, violations.flatMap(({ id, help, nodes }) =>
    nodes.map((node) => `${id}: ${help}: ${node.html.slice(0, 300)}: ${node.failureSummary}`))];
}"""


def assert_accessible(page: Page, selector: str, *ignored: str) -> None:
    """Assert that axe checks something in what `selector` finds, and reports no violation.

    Rules that are `ignored` are about the page as a whole.
    """
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(path=AXE)
    passed, problems = page.evaluate(CHECK, [selector, ignored])
    assert passed > 5 and not problems, "\n".join(problems)
