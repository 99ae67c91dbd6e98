"""Hostile text in everything that is shown, opened in Chromium: script elements, handlers, links,
frames, SVG and MathML, style sheets, ends of strings in JSON and JavaScript, Markdown, formulas,
what Plotly reads as markup, file names, control characters and directions of writing
(`tests/torture/attacks.json`). Each stands in a run's prompt, answer, tokens, names and settings, a
chat's titles, messages, thinking, tools and their results, and what else a stranger may write. The
static view, the report (without its content security policy), the live view, the chat, answers,
Plotly figures, exported and trusted notebooks are opened, moved over and unfolded. No script may
run, no dialog, page or frame open, nothing be requested or navigated to, no handler or address of
the text's be in the document, and no element that could have one but those of a harmless text.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import nbformat
from playwright.sync_api import Browser, Error, Page, Route, sync_playwright

from outlier_jupyter.notebook.page_modules import MODULES, STATIC
from tests.browser import scenes
from tests.browser.conftest import CHROMIUM, QUIET
from tests.browser.hosts import Lab

from .counts import Counts, deadline
from .places import PLACES, PLOTLY, Shown, notebook_of

TITLE = "Hostile text in a browser"
GROUP = 3.0
QUICK_S = 1.0
LONG_S = 7200.0
UNITS = ("places", "notebook")

ATTACKS: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "attacks.json").read_text(encoding="utf-8")
)
"""Texts by kind. Those that compute call `hit()`; those that request, name the host `evil`."""
HARMLESS = "a harmless text"
PACKAGE_FILES = {
    f"/{name}.{kind}": STATIC / f"{name}.{kind}"
    for name in ("live", "chat", "compare", *MODULES)
    for kind in ("js", "css")
}

EVERYTHING = """
const everything = (root) => [...root.querySelectorAll("*")].flatMap(
  (each) => [each, ...(each.shadowRoot ? everything(each.shadowRoot) : [])]);
"""
TOUCH = (
    "async () => {"
    + EVERYTHING
    + """
  for (const each of everything(document)) {
    if (each.tagName === "DETAILS") each.open = true;
    for (const kind of ["pointerover", "mouseover", "focusin"])
      each.dispatchEvent(new MouseEvent(kind, { bubbles: true }));
  }
  for (const plot of document.querySelectorAll(".js-plotly-plot"))
    try { Plotly.Fx.hover(plot, [{ curveNumber: 0, pointNumber: 0 }]); } catch { /* a map */ }
}"""
)
AUDIT = (
    "() => {"
    + EVERYTHING
    + r"""
  const tags = {}, wrong = [];
  const kinds = new RegExp("^(script|iframe|frame|frameset|object|embed|portal|base|link|meta|"
    + "style|form|img|image|video|audio|source|input|select|area|template|marquee|use|animate|set|"
    + "foreignobject)$");
  const address = new RegExp("^(href|xlink:href|src|srcset|data|action|formaction|poster|"
    + "background|srcdoc)$", "i");
  const live = /^(javascript|vbscript|data:text|data:image\/svg).*hit\(/;
  for (const each of everything(document)) {
    const name = each.tagName.toLowerCase();
    if (kinds.test(name)) tags[name] = (tags[name] ?? 0) + 1;
    for (const { name: attribute, value } of each.attributes) {
      const plain = value.replace(/[\x00-\x20]/g, "").toLowerCase();
      const words = `${value.slice(0, 60)} at <${name}>`;
      if (/^on/i.test(attribute)) wrong.push(`a handler ${attribute} at <${name}>`);
      if (address.test(attribute) && (live.test(plain) || (name !== "a" && plain.includes("evil"))))
        wrong.push(`an address ${words}`);
      if (attribute === "style" && /evil|z-index:99999/.test(plain)) wrong.push(`a style ${words}`);
    }
  }
  return { tags, wrong };
}"""
)


class Watched:
    """A page, and what happens on it that must not.

    Attributes:
        seen: sentences.
        requested: the addresses of its requests.
    """

    def __init__(self, browser: Browser) -> None:
        self.seen: list[str] = []
        self.requested: set[str] = set()
        self.document = ""
        self.context = browser.new_context(viewport={"width": 1200, "height": 900})
        self.context.set_default_timeout(120_000)
        self.context.expose_binding("hit", lambda source, *_: self.seen.append("a script ran"))
        self.page = self.context.new_page()
        self.context.on("page", lambda page: self.seen.append("another page opened"))
        self.page.on("dialog", self._dialog)
        self.page.on("pageerror", lambda error: self.seen.append(f"an error: {error}"))

    def _dialog(self, dialog: object) -> None:
        self.seen.append("a dialog opened")
        dialog.dismiss()  # type: ignore[attr-defined]

    def _answer(self, route: Route) -> None:
        address = route.request.url
        file = address.removeprefix(scenes.ORIGIN)
        self.requested.add(address)
        if file == "/":
            route.fulfill(body=self.document, content_type="text/html; charset=utf-8")
        elif file in PACKAGE_FILES:
            route.fulfill(path=PACKAGE_FILES[file])
        elif file == PLOTLY:
            route.fulfill(path=plotly_script())
        else:
            route.abort()

    def open(self, shown: Shown) -> Found:
        """Open a document, touch everything on it, and return what is there."""
        self.seen, self.requested, self.document = [], set(), shown.document
        self.page.unroute_all()
        self.page.route("**/*", self._answer)
        self.page.goto(scenes.ORIGIN + "/")
        if shown.widget:
            self.page.wait_for_selector(".oj-root")
        self.page.wait_for_timeout(50)
        self.page.evaluate(TOUCH)
        self.page.wait_for_timeout(100)
        found = self.page.evaluate(AUDIT)
        wrong = [*self.seen, *found["wrong"]]
        if self.page.url != scenes.ORIGIN + "/":
            wrong.append(f"it went to {self.page.url}")
        return Found(Counter(found["tags"]), set(self.requested), len(self.page.frames), wrong)


class Found:
    """What a page has: elements that could compute or request, its requests, and faults."""

    def __init__(self, tags: Counter[str], requested: set[str], frames: int, wrong: list[str]):
        self.tags, self.requested, self.frames, self.wrong = tags, requested, frames, wrong

    def fault(self, harmless: Found) -> str:
        """What it has and does that a harmless text's page does not; "" for nothing."""
        wrong = list(dict.fromkeys(self.wrong))
        wrong += [f"{count} <{tag}> in place of {harmless.tags[tag]}"
                  for tag, count in self.tags.items() if count > harmless.tags[tag]]  # fmt: skip
        wrong += [
            f"it requested {each[:80]}" for each in sorted(self.requested - harmless.requested)
        ]
        wrong += ["a frame was opened"] * (self.frames > harmless.frames)
        return "; ".join(wrong)


def plotly_script() -> Path:
    """The script of the installed Plotly."""
    import plotly

    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def all_at_once() -> str:
    """All attacks in one text."""
    return "\n".join(text for texts in ATTACKS.values() for text in texts)


def places(browser: Browser, seconds: float, seed: int) -> Counts:
    """Each attack in each place; with little time all of them at once, in each place."""
    counts, more, rng = Counts(), deadline(seconds), Random(seed)
    watched = Watched(browser)
    harmless = {}
    for place, make in PLACES.items():
        harmless[place] = watched.open(make(HARMLESS))
        found = watched.open(make(all_at_once())).fault(harmless[place])
        counts.add(f"all at once in {place}", failed=found)
    crossed = [(kind, text, place) for kind, texts in ATTACKS.items() for text in texts
               for place in PLACES]  # fmt: skip
    rng.shuffle(crossed)
    for kind, text, place in crossed:
        if not more():
            break
        fault = watched.open(PLACES[place](text)).fault(harmless[place])
        counts.add(f"one of {len(ATTACKS)} kinds in {place}",
                   failed=f"{kind}, {text[:60]!r}: {fault}" if fault else "")  # fmt: skip
    watched.context.close()
    return counts


def notebook(browser: Browser, scratch: Path) -> Counts:
    """A notebook with all attacks in its outputs, signed by its owner, in JupyterLab."""
    counts, lab = Counts(), Lab(scratch)
    try:
        for kind, texts in ATTACKS.items():
            name = f"{kind.replace(' ', '-')}.ipynb"
            nbformat.write(notebook_of(*texts), lab.notebooks / name)  # type: ignore[no-untyped-call]
            lab.trust(name)
            watched = Watched(browser)
            watched.page.on(
                "request", lambda request, seen=watched.seen: "evil." in request.url
                and seen.append(f"it requested {request.url[:80]}"),
            )  # fmt: skip
            outputs = scrolled(watched.page, f"{lab.url}doc/tree/{name}", len(texts))
            found = watched.page.evaluate(AUDIT)["wrong"]
            wrong = [each for each in [*watched.seen, *found] if not each.startswith("an error")]
            fault = f"{kind}: {'; '.join(dict.fromkeys(wrong))}" if wrong else ""
            counts.add("attacks in a trusted notebook", len(texts), failed=fault)
            counts.add("outputs of a trusted notebook that were drawn", outputs)
            watched.context.close()
    finally:
        lab.close()
    return counts


def scrolled(page: Page, address: str, cells: int) -> int:
    """Open a notebook and look at every cell; how many outputs it showed."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    shown = 0
    for number in range(cells):
        cell = page.locator(f".jp-Cell[data-windowed-list-index='{number}'], .jp-Cell").nth(number)
        try:
            cell.scroll_into_view_if_needed(timeout=10_000)
        except Error:
            continue
        page.evaluate(TOUCH)
        shown += cell.locator(".jp-OutputArea-output").count()
    return shown


def torture(seconds: float, seed: int, scratch: Path, unit: str) -> Counts:
    """Open all of it in a browser of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        found = places(browser, seconds, seed) if unit == "places" else notebook(browser, scratch)
        browser.close()
    return found
