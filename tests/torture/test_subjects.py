"""The quick form of every subject of `make torture`."""

from __future__ import annotations

import pytest

from tests.torture import corpus, fuzzing
from tests.torture.counts import Skipped
from tests.torture.subjects import subjects

SLOW = {"decode-mlx", "sweep", "places", "notebook", "groups", "limits", "stalls"}
"""Units whose quick form is in other tests: of interrupts line by line, of sweeps, in a browser, of
limits of memory and of the system's reports."""
UNITS = [(subject, unit) for subject in subjects() for unit in subject.units if unit not in SLOW]


@pytest.mark.parametrize(
    ("subject", "unit"), UNITS, ids=[f"{s.name}-{u}" if u else s.name for s, u in UNITS]
)
def test_for_a_moment_nothing_breaks(subject, unit, tmp_path):
    """A second or two of each, with the same seed every time."""
    try:
        counts = subject.run(unit, subject.quick_s, 0, tmp_path)
    except Skipped as why:
        pytest.skip(str(why))
    assert counts.failures == [] and counts.times > 0


def test_the_kept_inputs_are_few_and_small():
    """Fuzzing begins with them each time; those of a target are different, the smallest first."""
    assert sum(file.stat().st_size for file in corpus.CORPUS.iterdir()) < 200_000
    for unit in fuzzing.UNITS:
        found = corpus.kept(unit)
        assert found == sorted(set(found), key=lambda each: (len(each), each))
