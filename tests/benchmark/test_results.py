"""Result rows: files that gain columns, and pages made from the newest rows."""

from __future__ import annotations

import pytest

from benchmarks import cgroups, report, results, small_tables
from outlier_jupyter.cpu.kernels.processor import VECTORS, cpu_name

HERE = ("A", "AVX2", "Linux-x86_64-2cores")


def test_rows_with_new_columns_join_the_old(tmp_path, monkeypatch):
    """A later column is empty in earlier rows; every row has its commit."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.append("made", [{"subject": "a", "tokens_per_s": 1}])
    file = results.append("made", [{"subject": "b", "hit_rate": 0.5}])
    first, second = results.read(file)
    assert (first["subject"], first["hit_rate"], second["hit_rate"]) == ("a", "", "0.5")
    assert first["commit"] and second["machine"] == results.machine()
    assert (second["processor"], second["vectors"]) == results.processor()
    assert cpu_name() in second["processor"] and second["vectors"] == VECTORS


def test_the_report_takes_each_part_s_last_run():
    """Rows of an older commit are left out; within a commit the last row of each subject counts."""
    rows = [
        {"part": "sizes", "commit": commit, "subject": subject, "n": n}
        for n, (commit, subject) in enumerate([("1", "a"), ("2", "a"), ("2", "b"), ("2", "a")])
    ]
    assert [row["n"] for row in report.newest(rows, "sizes")] == [3, 2]
    assert report.newest(rows, "features") == []


def test_a_busy_machine_is_marked(monkeypatch):
    """A speed that was measured beside other work has the mark, and the notes explain it."""
    row = {
        "part": "sizes", "commit": "1", "subject": "paged, half", "share": "0.5", "busy": "yes",
        "tokens_per_s": "2.5", "slowest": "2", "fastest": "3", "hit_rate": "0.75",
        "read_mb_per_s": "900", "disk_mb_per_s": "1000", "times_limit": "1.2", "limit_s": "0.3",
    }  # fmt: skip
    monkeypatch.setattr(report, "collect", lambda: {HERE: {"sizes": [row]}})
    text = report.report()
    assert "| Qwen3-30B-A3B, half (50 %) | 2.50 (2–3)¹ | 75 % | 900 | 1,000 | 1.20 |" in text
    assert "¹ Other processes" in text
    row["busy"] = "no"
    assert "¹" not in report.report()


def rows_of(processor, vectors, commit, speed):
    """A row of a part that is in the tables."""
    return {
        "date": "2026-11-26", "commit": commit, "machine": "Linux-x86_64-2cores", "part": "sizes",
        "processor": processor, "vectors": vectors, "subject": "paged, all", "share": "1",
        "tokens_per_s": speed, "slowest": speed, "fastest": speed, "limit_s": "1",
    }  # fmt: skip


def test_each_processor_has_tables_of_its_own(tmp_path, monkeypatch):
    """Its name is above each table, in the figure and below; an unknown processor has no table."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    unknown = rows_of("not recorded", "not recorded", "1", "1.11")
    results.write(tmp_path / "decode-old.csv", [unknown, rows_of("A", "AVX2", "2", "2.22")])
    results.write(tmp_path / "decode-new.csv", [rows_of("B", "AVX-512", "3", "3.33")])
    text = report.report()
    assert "1.11" not in text
    sections = {part.partition(",")[0]: part for part in text.split("### ")[1:]}
    assert set(sections) == {"A", "B"}
    assert (
        "2.22" in sections["A"] and "3.33" not in sections["A"] and "AVX-512" not in sections["A"]
    )
    assert sections["B"].count("B, kernels with AVX-512; Linux x86_64, 2 cores") == 4
    (here, parts), _ = report.collect().items()
    assert report.named(here) in report.figure(parts, here, dark=True).layout.title.text
    assert len({report.picture_of(here, "dark") for here in report.collect()}) == 2


def test_every_row_that_is_kept_names_its_processor():
    """Or the row says that it was not recorded; and a file has rows of one machine."""
    files = sorted(results.RESULTS.glob("*.csv"))
    assert files
    for file in files:
        rows = results.read(file)
        assert all(row["processor"] and row["vectors"] for row in rows), file
        assert {file.stem.partition("-")[2]} == {row["machine"] for row in rows}, file
        known = {report.where(row) for row in rows if row["processor"] != results.UNKNOWN}
        assert len(known) <= 1, file


@pytest.mark.parametrize("page, made", [("docs/benchmarks.md", "report"), ("README.md", "brief")])
def test_what_stands_between_the_marks_is_made_from_the_rows_that_are_kept(page, made):
    """The benchmark's page and the README's table: `python -m benchmarks.report` renews them."""
    text = (results.ROOT / page).read_text()
    between = text.split(report.BEGIN)[1].split(report.END)[0]
    assert between.strip() == getattr(report, made)().strip()


def test_the_small_tables_are_made_from_the_rows_that_are_kept():
    """Of each processor's last commit; a table without rows is left out."""
    begin, end = report.SMALL
    text = (results.ROOT / "docs" / "benchmarks.md").read_text()
    assert text.split(begin)[1].split(end)[0].strip() == small_tables.text().strip()
    rows = [
        {"machine": "a", "commit": commit, "date": "2026-11-30", "n": n}
        for n, commit in enumerate(("1", "2", "2"))
    ]
    assert [[row["n"] for row in group] for group in small_tables.last(rows)] == [[1, 2]]


def test_the_pictures_of_the_benchmark_are_there():
    """Light and dark, for each processor that has rows to draw."""
    for here, parts in report.collect().items():
        for shade in ("light", "dark") if report.drawn(parts) else ():
            assert (results.ROOT / "docs" / report.picture_of(here, shade)).exists()


def test_the_demo_table_is_that_of_its_rows():
    """Speeds, first tokens, hit rates and megabytes are the last rows', and so is the processor."""
    rows = results.read(results.RESULTS / "demo-Linux-x86_64-2cores.csv")
    last = {row["subject"]: row for row in rows if row["commit"] == rows[-1]["commit"]}
    text = (results.ROOT / "docs" / "benchmarks.md").read_text()
    head, _, *lines = text.split("\n\n| demo model")[1].split("\n\n")[0].splitlines()
    assert {row["vectors"] for row in last.values()} == {head.split("; ")[1].partition(" |")[0]}
    ways = ("direct", "pread", "mmap")
    subjects = [["mlx-lm, all in RAM"], ["resident"]]
    subjects += [[f"paged, {slots} slots, {way}" for way in ways] for slots in (96, 48, 24, 12)]
    for line, names in zip(lines, subjects, strict=True):
        _, speeds, first, *_ = line.removeprefix("| ").split(" | ")
        mine = [last[name] for name in names]
        assert speeds == " / ".join(f"{float(row['tokens_per_s']):.0f}" for row in mine)
        times = [float(value) for value in first.split(" / ")]
        assert times == [round(float(row["time_to_first_token_s"]), 2) for row in mine]
        if mine[0]["decode_hit_rate"]:
            rate, megabytes = (float(cell.strip("| %")) for cell in line.split(" | ")[3:5])
            assert rate == pytest.approx(100 * float(mine[0]["decode_hit_rate"]))
            assert f"{megabytes:g}" == f"{float(mine[0]['mb_read']):.2g}"


def test_a_memory_limit_is_written_where_the_system_reads_it(tmp_path):
    """Control groups of version 2 and version 1; the group's folder is removed afterwards."""
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
            (folder / name).unlink()  # a real group's files are removed with it
        assert not folder.exists()


def test_without_groups_nothing_is_limited(tmp_path):
    """Where no group can be made, the command has no prefix."""
    with cgroups.limited(1 << 30, tmp_path / "absent") as prefix:
        assert prefix is None


def test_memory_columns_go_from_the_most_to_the_least():
    """The order does not depend on the measuring; of llama.cpp's variants the fastest counts."""
    rows = [
        {"limit_gib": limit, "subject": subject, "tokens_per_s": speed}
        for limit in ("8.0", "", "12.0")
        for subject, speed in (
            ("ours", "5"),
            ("llama.cpp, mmap", "3"),
            ("llama.cpp, repacked", "4"),
            (report.EDGE, "9"),
        )
    ]
    found = report.by_memory(rows)
    assert [memory for memory, *_ in found] == ["all in RAM", "12 GiB", "8 GiB"]
    assert {best["subject"] for *_, best, _ in found} == {"llama.cpp, repacked"}
    assert {edge["subject"] for *_, edge in found} == {report.EDGE}
    without = report.by_memory([row for row in rows if row["subject"] != report.EDGE])
    assert [edge for *_, edge in without] == [None, None, None]
    assert report.by_memory([row for row in rows if row["subject"] == "ours"]) == []
