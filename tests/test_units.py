"""Numbers as people read them."""

from __future__ import annotations

import pytest

from outlier_jupyter.units import percent, size_words, three


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
    ("share", "text"), [(0, "0 %"), (1, "100 %"), (0.99999, "99.9 %"), (1e-9, "0.1 %"),
                        (float("nan"), "–")]
)  # fmt: skip
def test_a_share_is_never_rounded_to_all_or_none(share, text):
    """100 % means all, 0 % means none."""
    assert percent(share) == text
