"""The table of variants with controls: it sorts, and opens one run at a time."""

from __future__ import annotations

from outlier_jupyter import variants


def test_it_sorts_the_table_and_opens_one_run(engine):
    """Choosing a column reorders the rows; choosing another run closes the view of the first."""
    options = {"max_tokens": 4, "raw": True}
    found = variants(engine, "Say {n}", {"n": ["one", "two"]}, **options)
    view = found.view()
    _, table, place = view.children
    assert table.value.index("0: n=one") < table.value.index("1: n=two")
    view.by.value, view.descending.value = "n", True
    assert table.value.index("0: n=two") < table.value.index("1: n=one")
    view.opened.value = 1
    (first,) = place.children
    assert first.finished_run is found[1]
    view.opened.value = 0
    assert first.comm is None and place.children[0].finished_run is found[0]
    view.opened.value = -1
    assert place.children == ()
