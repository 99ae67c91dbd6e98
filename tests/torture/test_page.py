"""docs/torture.md says what the log says, and every fault that was found has its test."""

from __future__ import annotations

from pathlib import Path

from tests.torture.counts import Counts
from tests.torture.log import COLUMNS, FIND_COLUMNS, FINDS, LOG, append, newest, read
from tests.torture.page import PAGE, render
from tests.torture.subjects import subjects

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_of_the_log():
    """`python -m tests.torture --report` writes it again."""
    assert PAGE.read_text(encoding="utf-8") == render()


def test_the_log_names_subjects_that_exist():
    """Every row has all columns; a subject that is renamed is renamed in the log, too."""
    known = {subject.name for subject in subjects()}
    for row in read(LOG):
        assert set(row) == set(COLUMNS) and row["subject"] in known


def test_every_fault_that_was_found_has_its_test():
    """The list of finds names a file and a test in it."""
    for row in read(FINDS):
        assert set(row) == set(FIND_COLUMNS)
        file, _, name = row["test"].partition("::")
        text = (ROOT / file).read_text()
        assert f"def {name}(" in text or f'test("{name}"' in text, row


def test_the_last_run_of_a_subject_counts(tmp_path):
    """A later run replaces the rows of an earlier one, of the same unit only."""
    log = tmp_path / "log.csv"
    for seed, failed in ((1, "it broke"), (2, "")):
        counts = Counts()
        counts.add("a try", 3)
        counts.add("a try", failed=failed)
        append("soak", "", seed, 1.6, counts, log)
    rows = newest(read(log))
    assert [(row["seed"], row["times"], row["failed"], row["seconds"]) for row in rows] == [
        ("2", "4", "0", "2")
    ]
    assert read(log)[0]["note"] == "it broke"
