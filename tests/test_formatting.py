"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.formatting import (
    answer_text,
    count,
    interval,
    p_text,
    percent,
    size_words,
    small,
    three,
)  # fmt: skip


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
def test_a_printed_share_is_the_share(counts):
    """Within half a tenth, 100 % only of all, 0 % only of none, and off by less than half of it."""
    part, whole = counts
    rounded = float(percent(part / whole).removesuffix(" %")) / 100
    assert rounded == pytest.approx(part / whole, abs=0.00051)
    assert (rounded == 0) == (part == 0) and (rounded == 1) == (part == whole)
    assert rounded == pytest.approx(part / whole, rel=0.51)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.2e-5, "< 0.001"), (-1.2e-5, "> -0.001"), (0.001, "0.00100"), (-2.5, "-2.50"),
     (float("nan"), "–")],
)  # fmt: skip
def test_numbers_near_zero_are_bounds(value, text):
    """Smaller than a thousandth is no number to read."""
    assert small(value) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(-0.0007, 0.2453, "-0.001 to 0.245"), (-0.0003, 0.2453, "0.000 to 0.245"),
     (-0.0474, 0.0851, "-0.0474 to 0.0851"), (-12.34, 1.2, "-12.3 to 1.2"), (0, 0, "0 to 0"),
     (float("nan"), float("nan"), "– to –")],
)  # fmt: skip
def test_the_ends_of_an_interval_have_the_same_decimals(low, high, text):
    """So none of them is a bound such as "> -0.001", and no false digits stand beside true ones."""
    assert interval(low, high) == text


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_no_number_has_a_power_of_ten(value):
    """Whatever it is, no exponent."""
    assert "e" not in small(value) and "e" not in three(value)


def test_p_values_and_counts():
    """p to three decimals; a noun follows its number."""
    assert p_text(0.0042) == "p = 0.004" and p_text(0.0002) == "p < 0.001" and p_text(1) == "p = 1"
    assert count(1, "token") == "1 token" and count(2000, "token") == "2,000 tokens"
    assert count(2, "expert differs", "experts differ") == "2 experts differ"


def test_an_answer_fits_eighty_columns():
    """Sentence and notes are wrapped, a table is aligned, its text to the left."""
    text = answer_text(
        "word " * 40, [[("a", "b", "c"), ("long", "1", "22")]], ["note " * 30], "more"
    )
    assert max(map(len, text.splitlines())) <= 80
    assert "a     b   c\nlong  1  22" in text and text.endswith("more")
