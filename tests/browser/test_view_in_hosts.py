"""What the run view can do, driven in JupyterLab and in Notebook 7: one document, one pass."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.access import assert_accessible
from tests.browser.conftest import PICTURES, Lab, wait_until_idle
from tests.browser.hosts import START_S, Host, save

TOKENS = 40
CELLS = (
    "%load_ext outlier_jupyter\n%outlier load demo --cache-gb 0.002 -o engine;\n"
    "engine.tokenizer.eos_token_ids = set()",
    f"%%outlier --raw --pace 4 --max-tokens {TOKENS} -o run\nOnce",
    "a, b = (engine.generate('Once upon', raw=True, max_tokens=24, temperature=0.9, seed=seed)\n"
    "        for seed in (1, 2))\n%outlier view a b",
    "run.report('{report}')",
)
TITLES = ("Text", "Routing frequency", "Residency", "Read latency", "Time")
MOMENT = ("text", "time", "routing", "latency", "residency")
"""The panels whose readouts name the token shown."""
BESIDE = ("text", "routing", "residency", "latency")
"""The panels that are in sight together."""
HEADINGS = "heading-order"
"""Depends on the headings that the host's page has above ours."""
OUT_OF_SIGHT = """(root, names) => names.filter((name) => {
  const panel = root.querySelector(`.oj-${name}`);
  const { left, top, right, bottom } = panel.getBoundingClientRect();
  const shown = (x, y) => panel.contains(document.elementFromPoint(x, y));
  return !shown(left + 2, top + 2) || !shown(right - 2, bottom - 2);
})"""
"""The names of panels of which a corner is outside the page, or behind a part of the host."""


@pytest.mark.parametrize("host", ["lab", "notebook"], indirect=True)
def test_the_view_does_all_of_it(
    host: Host, lab: Lab, page: Page, request: pytest.FixtureRequest
) -> None:
    """Pace, scrubbing, one moment, the first sight, residency, explanations, axes, words and
    experts, two runs, a report.
    """
    PICTURES.mkdir(parents=True, exist_ok=True)
    name = f"view-{request.node.callspec.id}"
    host.show(page, name, *(cell.replace("{report}", f"{name}.html") for cell in CELLS))
    view = page.locator(".oj-root:not(.oj-compare)")
    expect(view.locator(".oj-token").first).to_be_attached()
    assert_paced(view)
    assert_replayed(page, view)
    assert_named(view)
    assert_one_moment(page, view)
    assert_explained(page, view)
    assert_zoomed(page, view)
    assert_residency(page, view)
    assert_words_and_experts(page, view)
    assert_readable(page, view)
    page.set_viewport_size({"width": 1280, "height": 800})
    assert_seen_at_once(page, view)
    page.screenshot(path=PICTURES / f"view-{request.node.callspec.id}.png")
    page.set_viewport_size({"width": 1400, "height": 1300})
    assert_compared(page)
    assert_kept(page, view)
    assert_reported(page, lab, f"{name}.html")


def assert_paced(view: Locator) -> None:
    """The run is shown at the pace that was asked for, and says so; then the view stays."""
    view.scroll_into_view_if_needed()
    expect(view.locator(".oj-pace")).to_contain_text("shown at 4 tokens/s, computed at ")
    expect(view.locator(".oj-status")).to_have_text("Done, token limit reached")
    expect(view.locator(".oj-where")).to_have_text("the end")
    expect(view.locator(".oj-pace")).to_be_hidden()
    expect(view.locator(".oj-token")).to_have_count(TOKENS)
    expect(view.page.locator(".oj-static:visible")).to_have_count(0)


def assert_replayed(page: Page, view: Locator) -> None:
    """Play begins again at a chosen speed; the arrow keys go back and trigger no shortcut."""
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    view.get_by_label("Replay speed").select_option("0.125")
    view.get_by_role("button", name="Play").click()
    expect(view.locator(".oj-where")).to_have_text(re.compile(rf"^token \d+ of {TOKENS}$"))
    pause = view.get_by_role("button", name="Pause")
    if pause.is_visible():  # at an eighth of a fast run's speed it may have ended
        pause.click()
    slider = view.locator(".oj-slider")
    slider.press("End")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    expect(view.locator(".oj-where")).to_have_text(f"token {TOKENS - 10} of {TOKENS}")
    view.get_by_role("button", name="To the end").click()
    expect(view.locator(".oj-where")).to_have_text("the end")
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells


def assert_named(view: Locator) -> None:
    """All panels are there by their names."""
    for title in (*TITLES, "Explanation"):
        expect(view.locator("h3", has_text=re.compile(f"^{title}$"))).to_have_count(1)


def assert_one_moment(page: Page, view: Locator) -> None:
    """A hover is a preview; a click and arrow keys move all panels and the explanation."""
    token = view.locator(".oj-token").nth(5)
    token.hover()
    name = token_named(view)
    for panel in MOMENT:
        expect(view.locator(f".oj-{panel} .oj-readout")).to_contain_text(f"{name} ")
    expect(view.locator(".oj-where")).to_have_text("the end")
    expect(view.locator(".oj-token.oj-at")).to_have_count(0)
    expect(view.locator(".oj-explain h3")).to_have_text("Explanation")
    token.click()
    assert_moment(view, name)
    view.locator(".oj-time canvas").focus()
    page.keyboard.press("ArrowRight")
    after = f"token {int(name.split()[1]) + 1}"
    assert_moment(view, after)
    view.locator(".oj-token").nth(20).hover()
    expect(view.locator(".oj-text .oj-readout")).not_to_contain_text(f"{after} ")
    expect(view.locator(".oj-where")).to_have_text(f"{after} of {TOKENS}")
    expect(view.locator(".oj-explain h3")).to_contain_text(f"Why {after} took")
    page.keyboard.press("Escape")
    expect(view.locator(".oj-token.oj-at")).to_have_count(0)


def token_named(view: Locator) -> str:
    """The token that the text's readout names, such as "token 6"."""
    readout = view.locator(".oj-text .oj-readout")
    expect(readout).to_contain_text("token ")
    return readout.inner_text().split(" · ")[0]


def assert_moment(view: Locator, name: str) -> None:
    """The playhead is at this token, and everything shows it once the pointer is away."""
    view.locator(".oj-model").hover()
    expect(view.locator(".oj-where")).to_have_text(f"{name} of {TOKENS}")
    expect(view.locator(".oj-token.oj-at")).to_have_count(1)
    for panel in MOMENT:
        expect(view.locator(f".oj-{panel} .oj-readout")).to_contain_text(f"{name} ")
    expect(view.locator(".oj-explain h3")).to_contain_text(f"Why {name} took")


def assert_explained(page: Page, view: Locator) -> None:
    """By a click, the key E and the menu; the kernel's answer has sentences and its limits."""
    title, body = view.locator(".oj-explain h3"), view.locator(".oj-explain-body")
    slowest = view.locator(".oj-slowest button").first
    name = slowest.inner_text().split(" ·")[0]
    slowest.click()
    expect(title).to_contain_text(f"Why {name} took")
    expect(view.locator(".oj-time-bar")).to_be_visible()
    # Only Python knows how the token compares, and what the disk could do.
    expect(view.locator(".oj-explain-rest-text")).to_contain_text("× the run's median")
    for sentence in view.locator(".oj-sentences p").all():
        expect(sentence).to_contain_text(".")
    token = view.locator(".oj-token").nth(12)
    token.hover()
    expect(token).to_contain_class("oj-on")
    name = token_named(view)  # the text may move under the pointer when the explanation comes
    page.keyboard.press("e")
    expect(title).to_contain_text(f"Why {name} took")
    expect(body).to_be_focused()
    before = title.inner_text()
    view.locator(".oj-token").nth(16).click(button="right")
    page.get_by_role("menuitem", name="Explain this token").click()
    expect(title).not_to_have_text(before)
    expect(title).to_contain_text(re.compile(r"^Why token \d+ took"))
    expect(body).to_be_focused()
    page.keyboard.press("Escape")
    expect(title).to_have_text("Explanation")


def assert_zoomed(page: Page, view: Locator) -> None:
    """A logarithmic scale on demand; a drag over one plot zooms all, and a button ends that."""
    log = view.get_by_role("button", name="Time: Log")
    log.click()
    expect(log).to_have_attribute("aria-pressed", "true")
    expect(view.locator(".oj-time .oj-legend")).to_contain_text("parts: shares of the bar")
    log.click()
    expect(view.locator(".oj-time .oj-legend")).not_to_contain_text("shares of the bar")
    plot = view.locator(".oj-time .oj-canvas")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.3, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=5)
    page.mouse.up()
    buttons = view.get_by_role("button", name="show all tokens")
    expect(buttons).to_have_count(2)
    expect(view.locator(".oj-token.oj-at")).to_have_count(0)  # a drag is no click
    buttons.first.click()
    expect(buttons).to_have_count(0)


def assert_residency(page: Page, view: Locator) -> None:
    """The legend says what colours and marks mean, and names who leaves next; bands are a form."""
    panel = view.locator(".oj-residency")
    for words in ("stays longest", "next out", "on SSD", "hit", "miss", "arrived", "evicted"):
        expect(panel.locator(".oj-legend-item:visible", has_text=words).first).to_be_visible()
    expect(panel.locator(".oj-readout")).to_have_text(re.compile(r"next out: layer \d+ expert \d+"))
    panel.get_by_role("button", name="Bands").click()
    expect(panel.get_by_label("Layer of the bands")).to_be_visible()
    expect(panel.get_by_label("When each expert of a layer was in RAM")).to_be_visible()
    expect(panel.get_by_label("Which experts are in RAM")).to_be_hidden()
    panel.get_by_role("button", name="Map").click()
    expect(panel.get_by_label("Which experts are in RAM")).to_be_visible()
    panel.get_by_label("Which experts are in RAM").hover()
    expect(panel.locator(".oj-readout")).to_have_text(re.compile(r"layer \d+, expert \d+: (in|on)"))
    view.locator(".oj-model").hover()


def assert_words_and_experts(page: Page, view: Locator) -> None:
    """The text's colour can be switched; an expert leads to its tokens, and tokens to theirs."""
    colour, scale = view.locator(".oj-colour"), view.locator(".oj-scale")
    expect(scale).to_contain_text("%")
    colour.select_option("entropy")  # Python computes it
    expect(scale).to_have_text(re.compile(r"[\d.]+.bits \(p1\)[≥\s]*[\d.]+.bits"))
    view.locator(".oj-routing .oj-canvas").click()
    expect(view.locator(".oj-text .oj-readout")).to_have_text(
        re.compile(rf"\d+ of the run’s {TOKENS}.tokens? chose layer \d+ expert \d+|any of")
    )
    colour.select_option("weight")
    expect(scale).to_have_text(re.compile(r"^0[≥\s]*[\d.]+( \(p99\))?$"))
    page.keyboard.press("Escape")
    choose_tokens(page, view)
    colour.select_option(index=0)


def choose_tokens(page: Page, view: Locator) -> None:
    """Choose tokens with the keys, then with the mouse, and end the choice."""
    tokens, subtitle = view.locator(".oj-token"), view.locator(".oj-routing .oj-subtitle")
    tokens.nth(4).click()
    view.locator(".oj-log").focus()
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    expect(subtitle).to_have_text(re.compile(r"^of 4.chosen tokens$"))
    expect(view.locator(".oj-routing .oj-readout")).to_contain_text("chosen tokens share")
    page.keyboard.press("Escape")
    expect(subtitle).to_have_text("")
    boxes = [tokens.nth(n).bounding_box() for n in (1, 2)]
    assert boxes[0] is not None and boxes[1] is not None
    page.mouse.move(boxes[0]["x"] + 1, boxes[0]["y"] + boxes[0]["height"] / 2)
    page.mouse.down()
    page.mouse.move(
        boxes[1]["x"] + boxes[1]["width"] - 1, boxes[1]["y"] + boxes[1]["height"] / 2, steps=4
    )
    page.mouse.up()
    expect(view.locator(".oj-token.oj-chosen").first).to_be_visible()
    view.get_by_role("button", name="All tokens", exact=True).click()
    expect(view.locator(".oj-token.oj-chosen")).to_have_count(0)


def assert_seen_at_once(page: Page, view: Locator) -> None:
    """Text, maps and latency fit one screen beside the host's own panels; each number has its
    course.
    """
    if page.locator(".jp-LabShell").count():
        expect(page.locator(".jp-FileBrowser")).to_be_visible()
    view.locator(".oj-slider").focus()
    view.evaluate("(root) => root.scrollIntoView({ block: 'start' })")
    page.wait_for_timeout(500)  # the view follows its new width
    view.evaluate("(root) => root.scrollIntoView({ block: 'start' })")
    assert view.evaluate(OUT_OF_SIGHT, BESIDE) == []
    for name in ("tokens/s", "hit rate (decode)", "MB read", "time to first token"):
        tile = view.locator(".oj-numbers .oj-number", has_text=name)
        if name != "time to first token":  # one number has no course
            expect(tile.locator("canvas")).to_be_visible()
        expect(tile.locator(".oj-value")).to_have_text(re.compile(r"\d"))


def assert_readable(page: Page, view: Locator) -> None:
    """axe has nothing to report, also of the tables that panels can be shown as."""
    assert_accessible(page, ".oj-root", HEADINGS)
    tables = view.get_by_role("button", name="show as a table")
    for table in tables.all():
        table.click()
    expect(view.locator(".oj-table table")).to_have_count(len(TITLES))
    assert_accessible(page, ".oj-root", HEADINGS)
    for table in tables.all():
        table.click()


def assert_compared(page: Page) -> None:
    """Two runs have one playhead; the first token at which their texts part is named."""
    view = page.locator(".oj-compare")
    view.scroll_into_view_if_needed()
    parting = view.locator(".oj-parting")
    expect(parting).to_have_text(re.compile(r"The texts part at token \d+: a says .*, b says"))
    number = int((parting.text_content() or "").split("token ")[1].split(":")[0])
    view.get_by_role("button", name="Show it").click()
    expect(view.locator(".oj-where")).to_have_text(f"token {number} of 24")
    expect(view.locator(".oj-token.oj-at.oj-parts")).to_have_count(2)
    view.locator(".oj-slider").press("ArrowRight")
    expect(view.locator(".oj-where")).to_have_text(f"token {number + 1} of 24")
    expect(view.locator(".oj-token.oj-at")).to_have_count(2)
    assert_accessible(page, ".oj-compare", HEADINGS)
    view.screenshot(path=PICTURES / "two-runs.png")


def assert_kept(page: Page, view: Locator) -> None:
    """When the page is loaded again the same view is there, and its kernel answers."""
    wait_until_idle(page)
    save(page)
    page.reload()
    expect(view.locator(".oj-token")).to_have_count(TOKENS, timeout=START_S * 1000)
    expect(page.locator(".oj-static:visible")).to_have_count(0)
    view.locator(".oj-slowest button").first.click()
    expect(view.locator(".oj-explain-rest-text")).to_contain_text("× the run's median")


def assert_reported(page: Page, lab: Lab, name: str) -> None:
    """The report that a cell wrote opens from its file, and is scrubbed without a kernel."""
    wait_until_idle(page)
    page.goto((lab.notebooks / name).as_uri())
    view = page.locator(".oj-root")
    expect(view.locator(".oj-token")).to_have_count(TOKENS)
    view.locator(".oj-slider").press("End")
    page.keyboard.press("ArrowLeft")
    expect(view.locator(".oj-where")).to_have_text(f"token {TOKENS - 1} of {TOKENS}")
