"""A grid of several runs: what each cell says, and how often it is drawn."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from outlier_jupyter.notebook.live.grid import Grid, map_html, with_choices
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
    assert "3 tokens · 2 tokens/s · hit rate in decode 75\u00a0%" in html
    assert "1 token · stop<" in html and "waits" in html  # its only call read the prompt
    assert html.count("<svg") == 1, "of the run that decoded a token"
    assert html.count("<rect") == 2 and 'height="4.5"' in html  # a bar for each decoded token
    assert len(drawn) == 4  # the fake draw does not note its time


def test_a_cell_has_a_map_of_what_its_run_chose():
    """A pixel for each layer and expert: the more often chosen the brighter, never is faint."""
    counts = np.zeros((0, 0), np.int64)
    for chosen in ([[0, 2], [1, -1]], [[2, 0], [1, -1]], [[2, 4], [0, -1]]):
        counts = with_choices(counts, np.array(chosen, np.int16))
    assert counts.tolist() == [[2, 0, 3, 0, 1], [1, 2, 0, 0, 0]]
    html = map_html(counts)
    picture = Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0])))
    pixels = np.asarray(picture.convert("RGBA")).astype(int)
    assert pixels.shape == (2, 5, 4)
    assert (pixels[..., 3] == 255).tolist() == (counts > 0).tolist()
    bright = pixels[..., :3].sum(axis=2)
    assert bright[0, 2] > bright[0, 0] > bright[0, 4]
    assert "each of 2 layers" in html
    assert map_html(np.zeros((0, 0), np.int64)) == ""
