"""A grid of several runs: what each cell says, and how often it is drawn."""

from __future__ import annotations

from outlier_jupyter.notebook.live.grid import Grid
from outlier_jupyter.runs.step import Step


def test_each_cell_has_its_text_speed_and_hit_rate(monkeypatch):
    """Texts are escaped; a run that waits, one under way, and one that ended."""
    now = [0.0]
    grid = Grid(["<a>", "b", "c"], lambda: now[0])
    drawn = []
    monkeypatch.setattr(grid, "draw", lambda: drawn.append(now[0]))
    for _ in range(3):
        grid(0, Step(1, "<x>", 500_000_000, 3, 1, 10))
    grid(1, Step(1, "end", 1, 0, 4, 10, "stop"))
    html = grid.html()
    assert "&lt;a&gt;" in html and "&lt;x&gt;" * 3 in html
    assert "3 tokens · 2 tokens/s · hit rate in decode 75 %" in html
    assert "1 token · stop<" in html and "waits" in html  # its only call read the prompt
    assert html.count("<rect") == 2 and 'height="4.5"' in html  # a bar for each decoded token
    assert len(drawn) == 4  # the fake draw does not note its time
