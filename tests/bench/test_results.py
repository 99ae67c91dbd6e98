"""Rows of results: files that gain columns, and the README's part made of the newest rows."""

from __future__ import annotations

from benchmarks import cgroups, report, results


def test_rows_with_new_columns_join_the_old(tmp_path, monkeypatch):
    """A column that came later is empty in the rows before; every row has its commit."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.append("made", [{"subject": "a", "tokens_per_s": 1}])
    file = results.append("made", [{"subject": "b", "hit_rate": 0.5}])
    first, second = results.read(file)
    assert (first["subject"], first["hit_rate"], second["hit_rate"]) == ("a", "", "0.5")
    assert first["commit"] and second["machine"] == results.machine()


def test_the_report_takes_each_part_s_last_run():
    """Rows of an older commit are left out, and of one commit the last of each subject counts."""
    rows = [
        {"part": "sizes", "commit": commit, "subject": subject, "n": n}
        for n, (commit, subject) in enumerate([("1", "a"), ("2", "a"), ("2", "b"), ("2", "a")])
    ]
    assert [row["n"] for row in report.newest(rows, "sizes")] == [3, 2]
    assert report.newest(rows, "features") == []


def test_a_busy_machine_is_marked(monkeypatch):
    """A speed that was measured beside others' work carries the mark, and the notes explain it."""
    row = {
        "part": "sizes", "commit": "1", "subject": "paged, half", "share": "0.5", "busy": "yes",
        "tokens_per_s": "2.5", "slowest": "2", "fastest": "3", "hit_rate": "0.75",
        "read_mb_per_s": "900", "disk_mb_per_s": "1000", "times_limit": "1.2", "limit_s": "0.3",
    }  # fmt: skip
    monkeypatch.setattr(report, "collect", lambda: {"sizes": [row]})
    text = report.report()
    assert "| Qwen3-30B-A3B, half (50 %) | 2.50 (2–3)¹ | 75 % | 900 | 1,000 | 1.20 |" in text
    assert "¹ Other processes" in text
    row["busy"] = "no"
    assert "¹" not in report.report()


def test_a_memory_limit_is_written_where_the_system_reads_it(tmp_path):
    """Version 2 and version 1 of control groups; the group's folder goes away again."""
    for made, name in (("cgroup.controllers", "memory.max"), ("", "memory.limit_in_bytes")):
        root = tmp_path / name
        (root / "memory").mkdir(parents=True)
        if made:
            (root / made).touch()
        folder, file = cgroups.group_file(root)
        assert file == name
        with cgroups.limited(1 << 30, root) as prefix:
            assert (folder / name).read_text() == str(1 << 30)
            assert prefix is not None and prefix[-1] == str(folder / "cgroup.procs")
            (folder / name).unlink()  # a real group's files go with it
        assert not folder.exists()


def test_without_groups_nothing_is_limited(tmp_path):
    """Where none can be made there is nothing to put before a command."""
    with cgroups.limited(1 << 30, tmp_path / "absent") as prefix:
        assert prefix is None


def test_memories_are_told_from_the_most_to_the_least():
    """Whatever order they were measured in; of llama.cpp's ways the fastest counts."""
    rows = [
        {"limit_gib": limit, "subject": subject, "tokens_per_s": speed}
        for limit in ("8.0", "", "12.0")
        for subject, speed in (
            ("ours", "5"),
            ("llama.cpp, mmap", "3"),
            ("llama.cpp, repacked", "4"),
        )
    ]
    found = report.by_memory(rows)
    assert [memory for memory, *_ in found] == ["all in RAM", "12 GiB", "8 GiB"]
    assert {best["subject"] for *_, best in found} == {"llama.cpp, repacked"}
    assert report.by_memory([row for row in rows if row["subject"] == "ours"]) == []
