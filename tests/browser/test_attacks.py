"""The quick form of hostile text in a browser: all attacks at once, wherever text is shown."""

from __future__ import annotations

from playwright.sync_api import Browser

from tests.torture.browser import ATTACKS, HARMLESS, Watched, places
from tests.torture.places import documents


def test_no_attack_is_more_than_text(browser: Browser) -> None:
    """No script runs, nothing is requested or opened, and no element is there but our own."""
    counts = places(browser, 0.0, 0)
    assert counts.failures == [] and counts.times >= 10


def test_a_page_without_care_is_noticed(browser: Browser) -> None:
    """Every way that is watched is seen where the same texts are not escaped."""
    watched = Watched(browser)
    harmless = watched.open(documents(HARMLESS))
    assert harmless.fault(harmless) == ""
    for text, sign in (
        (ATTACKS["script elements"][0], "a script ran"),
        (ATTACKS["handlers"][0], "a handler onerror"),
        (ATTACKS["links"][0], "an address javascript:hit()"),
        ("<img src=//evil.invalid/x.png>", "it requested http://evil.invalid/x.png"),
        ("<iframe srcdoc=x></iframe>", "a frame was opened"),
        ("<script>alert(1)</script>", "a dialog opened"),
    ):
        assert sign in watched.open(documents(text)).fault(harmless), text
    watched.context.close()
