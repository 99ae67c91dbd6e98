"""Compares all views at four widths, light and dark, with pictures a person accepted.

`make accept-pictures` takes them anew; look at every one of them before it is committed.
"""

from __future__ import annotations

import os

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page

from tests.browser.access import assert_accessible
from tests.browser.comparing import difference, kept, save
from tests.browser.conftest import PICTURES, ROOT
from tests.browser.scenes import SCENES, THEMES, WIDTHS, show

ACCEPTED = ROOT / "tests" / "browser" / "accepted"
ACCEPT = os.environ.get("ACCEPT_PICTURES") == "1"
LATE_MS = 2000


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("widget", SCENES)
def test_a_widget_looks_as_it_was_accepted(page: Page, widget: str, theme: str) -> None:
    """At every width it matches the accepted picture, nothing overflows, and axe finds nothing."""
    problems = []
    for width in WIDTHS:
        root = show(page, widget, theme, width)
        assert root.evaluate("root => root.scrollWidth - root.clientWidth") <= 0, width
        image, name = kept(root.screenshot()), f"{widget}-{theme}-{width}.png"
        if ACCEPT:
            save(image, ACCEPTED / name)
        problem = difference(image, Image.open(ACCEPTED / name))
        if problem:  # a busy machine draws late
            page.wait_for_timeout(LATE_MS)
            image = kept(root.screenshot())
            problem = difference(image, Image.open(ACCEPTED / name))
        if problem:
            PICTURES.mkdir(parents=True, exist_ok=True)
            save(image, PICTURES / name)
            problems.append(f"{name}: {problem}; the new one is in build/pictures")
        assert_accessible(page, SCENES[widget].root)
    assert not problems, "\n".join(problems)


def test_large_differences_count_and_small_ones_do_not() -> None:
    """A panel moved by a few pixels or recoloured is a difference; softer letters are not."""
    page = Image.new("RGB", (900, 600), "white")
    draw = ImageDraw.Draw(page)
    for line in range(12):
        draw.text((40, 30 + 20 * line), "a line of text that is long enough to be seen", "black")
    softer = page.copy()
    softer.paste(page.resize((450, 300)).resize((900, 600)).crop((0, 0, 900, 280)))
    draw.rectangle((500, 300, 850, 550), fill="#3b76b4")
    ImageDraw.Draw(softer).rectangle((500, 300, 850, 550), fill="#3b76b4")
    assert not difference(softer, page)
    for x, y, colour in ((506, 300, "#3b76b4"), (500, 312, "#3b76b4"), (500, 300, "#b43b3b")):
        other = page.copy()
        pen = ImageDraw.Draw(other)
        pen.rectangle((500, 300, 850, 550), fill="white")
        pen.rectangle((x, y, x + 350, y + 250), fill=colour)
        assert difference(other, page), (x, y, colour)
    assert "pixels" in difference(page.crop((0, 0, 900, 500)), page)


def test_the_accepted_pictures_are_few_and_small() -> None:
    """One for each scene, theme and width; all of them together stay below 1.5 MB."""
    files = sorted(ACCEPTED.glob("*.png"))
    assert len(files) == len(SCENES) * len(THEMES) * len(WIDTHS)
    assert sum(file.stat().st_size for file in files) <= 1_500_000
