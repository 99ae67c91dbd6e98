"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.formatting import percent, size_words, three


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (123.4, "123"), (1234.5, "1,234"),
     (float("nan"), "–")],
)  # fmt: skip
def test_three_digits(value, text):
    """About three digits, never in powers of ten."""
    assert three(value) == text


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (999, "999 B"), (1_234_567, "1.23 MB"), (8e9, "8 GB")]
)
def test_bytes_have_a_unit(nbytes, text):
    """Decimal units, as disks are sold."""
    assert size_words(nbytes) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.5, "50 %"), (1 / 3, "33.3 %"), (10, "1000 %"),
     (1.09e3 / 277e6, "0.0004 %"), (0.00096, "0.1 %"), (0.0996 / 100, "0.1 %"),
     (0.9998, "99.98 %"), (0.99904, "99.9 %"), (0.9995, "99.95 %"), (float("nan"), "–")],
)  # fmt: skip
def test_shares_are_percentages(share, text):
    """Tenths of a percent; shares nearer to 0 or 100 % have more digits."""
    assert percent(share) == text


@given(st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_share_that_is_told_is_the_share(counts):
    """Within half a tenth, 100 % only of all, 0 % only of none, and off by less than half of it."""
    part, whole = counts
    told = float(percent(part / whole).removesuffix(" %")) / 100
    assert told == pytest.approx(part / whole, abs=0.00051)
    assert (told == 0) == (part == 0) and (told == 1) == (part == whole)
    assert told == pytest.approx(part / whole, rel=0.51)
