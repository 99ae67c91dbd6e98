"""The user's files are written completely or not at all."""

from __future__ import annotations

import os
import stat

import pytest

import outlier_jupyter
from outlier_jupyter import Chat
from outlier_jupyter.errors import OptionError, TraceError
from outlier_jupyter.system import files
from tests.full_disk import files_of_at_most


@pytest.fixture(scope="module")
def engine():
    with outlier_jupyter.load("demo", cache_gb=0.002, quiet=True) as engine:
        engine.generate("What is an expert?", max_tokens=4)
        yield engine


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (lambda engine, to: Chat(engine).save(to), OptionError),
        (lambda engine, to: engine.last_run.report(to), TraceError),
        (lambda engine, to: engine.last_run.save(to), TraceError),
        (lambda engine, to: engine.last_run.trace.save(to), TraceError),
    ],
)
def test_a_failed_write_leaves_the_old_file(engine, tmp_path, write, kind):
    """Chat, report, run and trace: one sentence, the old file, and no other file beside it."""
    to = tmp_path / "kept"
    to.write_bytes(b"what was there")
    with files_of_at_most(16), pytest.raises(kind, match="could not be written") as caught:
        write(engine, to)
    assert "larger than a file may be here" in str(caught.value)
    assert [f.name for f in tmp_path.iterdir()] == ["kept"]
    assert to.read_bytes() == b"what was there"
    write(engine, to)
    assert to.stat().st_size > 16


def test_a_file_keeps_its_permissions_and_a_link_its_target(tmp_path):
    """A new file has the usual permissions."""
    target, link, new = tmp_path / "target", tmp_path / "link", tmp_path / "new"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    files.write(link, "new", OptionError, "it")
    assert link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    files.write(new, "x", OptionError, "it")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_written_to(tmp_path, make):
    """Writing to a pipe would wait for a reader."""
    make(tmp_path / "other")
    with pytest.raises(OptionError, match="not a file"):
        files.write(tmp_path / "other", "x", OptionError, "it")
