"""The live view's header has the numbers and words of the static view."""

from __future__ import annotations

from outlier_jupyter.notebook.live.frames import decode
from tests.browser.scenes import live_traits, show


def test_the_header_says_what_the_static_view_says(page):
    """Both name both phases' hit rates, in the same digits; total hits and misses agree."""
    show(page, "live", "light", 1100)
    pairs = page.evaluate(
        "[...document.querySelectorAll('.oj-number')].map(one => ["
        "one.querySelector('.oj-name').textContent, one.querySelector('.oj-value').textContent])"
    )
    shown = {name: value.replace("\u202f", " ") for name, value in pairs}
    totals = decode(live_traits()["snapshot"]).totals
    prefill = (totals.hits - totals.decode_hits) / (totals.lookups - totals.decode_lookups)
    decode_rate = totals.decode_hits / totals.decode_lookups
    assert shown["hit rate (decode)"] == f"{decode_rate:.1%}".replace("%", " %")
    assert shown["hit rate (prefill)"] == f"{prefill:.1%}".replace("%", " %")
    assert shown["MB read"] == "2,436" == f"{totals.nbytes / 1e6:,.0f}"
    assert shown["tokens"] == "121"


def test_the_time_panel_has_the_parts_and_sums_of_the_trace(page):
    """Each token's parts, by the names that Python sent, add up to its time in the table."""
    show(page, "live", "light", 1100)
    page.click(".oj-time .oj-as-table")
    page.wait_for_selector(".oj-time table td")
    head, *rows = page.evaluate(
        "[...document.querySelectorAll('.oj-time tr')].map(row =>"
        "[...row.children].map(cell => cell.textContent))"
    )
    names = [part["name"] for part in live_traits()["info"]["parts"]]
    assert head == ["Token", "ms", *names]
    for _, whole, *parts in rows:
        assert abs(sum(map(float, parts)) - float(whole)) < 0.1
