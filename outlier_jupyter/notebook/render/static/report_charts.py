"""The two charts of a report, as scenes: parts of time, and hit rates of other caches."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....events import DECODE
from ....formatting import percent, three
from ....residency.policies import DEFAULT, POLICIES
from ....trace.measures import first_token
from ....trace.time_parts import part_name, parts_of_tokens
from ....trace.trace import Trace
from ..palette import PART_ROLES
from . import scene as s

BINS = 160
SHOWN = 4
"""The largest parts of time drawn separately; the others are summed."""


def time_parts(trace: Trace) -> s.Scene:
    """The parts of each decoded token's time: stacked bars, means of bins in a long run."""
    decode = np.flatnonzero(trace.phase == DECODE)
    parts = {name: np.nan_to_num(v[decode]) for name, v in parts_of_tokens(trace).items()}
    order = sorted(parts, key=lambda name: -float(parts[name].sum()))
    shown, rest = order[:SHOWN], order[SHOWN:]
    size = max(1, -(-len(decode) // BINS))
    first = np.arange(0, len(decode), size)
    steps = np.diff(np.append(first, len(decode)))
    rows = [np.add.reduceat(parts[name], first) / steps for name in shown]
    rows.append(np.add.reduceat(np.sum([parts[name] for name in rest], axis=0), first) / steps)
    names = [part_name(name) for name in shown] + ["the rest"]
    means = ", ".join(f"{name} {three(float((row * steps).sum() / len(decode)))} ms"
                      for name, row in zip(names, rows, strict=True))  # fmt: skip
    title = "Time of each token, by part"
    scene = s.Scene(title, f"{title}: stacked bars. Means: {means}.")
    roles = [PART_ROLES[name] for name in shown] + ["frame"]
    tops = np.cumsum(rows, axis=0)
    # A token is drawn around its number, which is that of the live view.
    before = float(decode[0]) - first_token(trace) + 0.5
    x = s.Scale(before, before + len(decode), s.LEFT, s.RIGHT)
    y = s.Scale(0, float(tops[-1].max()) * 1.04 or 1.0, s.BOTTOM, s.TOP)
    s.y_axis(scene, y, "ms", s.ticks(0, y.high, 4), lines=True)
    left, right = x(before + first), np.minimum(x(before + first + steps) + 0.3, s.RIGHT)
    for top, role in reversed(list(zip(tops, roles, strict=True))):
        rects = np.stack([left, y(top), right - left, s.BOTTOM - y(top)], axis=1)
        scene.marks.append(s.Box(rects, role))
    s.x_axis(scene, x, "token" if size == 1 else f"token (means of {size})")
    _two_rows(scene, [(role, name) for role, name in zip(roles, names, strict=True)])
    return scene


def _two_rows(scene: s.Scene, items: list[tuple[str, str]]) -> None:
    """A legend of swatches in one or two lines above the plot."""
    x, y = 16.0, 36.0
    for role, name in items:
        wide = 15 + s.text_width(name) + 14
        if x + wide > s.RIGHT and y == 36.0:
            x, y = 16.0, 49.0
        scene.marks.append(s.Box(np.array([[x, y, 9.0, 9.0]]), role))
        scene.marks.append(s.Text(x + 14, y + 9, name))
        x += wide


LINES: dict[str, tuple[str, s.Dash]] = {
    "lru": ("miss", "dash"), DEFAULT: ("hit", "solid"), "belady": ("top", "dot"),
}  # fmt: skip
ANOTHER: tuple[str, s.Dash] = ("ink", "dash")
"""The line of a policy added by another package."""


def caches(rows: list[dict[str, Any]], trace: Trace) -> s.Scene:
    """The hit rate in decode of each policy over the cache size."""
    title = "Hit rate in decode at other sizes"
    best = max(rows, key=lambda row: row["decode_hit_rate"])
    scene = s.Scene(
        title,
        f"{title}: lines for {', '.join(spec.label for spec in POLICIES.values())}; at most "
        f"{percent(best['decode_hit_rate'])} with {best['slots']:,} slots.",
    )
    x = s.Scale(0, max(row["slots"] for row in rows), s.LEFT, s.RIGHT)
    y = s.Scale(0, 100, s.BOTTOM, s.TOP)
    s.y_axis(scene, y, "hit rate (%)", [0, 25, 50, 75, 100], lines=True)
    s.x_axis(scene, x, "slots")
    for policy in POLICIES:
        role, dash = LINES.get(policy, ANOTHER)
        mine = sorted((row for row in rows if row["policy"] == policy), key=lambda r: r["slots"])
        line = [(float(x(row["slots"])), float(y(100 * np.nan_to_num(row["decode_hit_rate"]))))
                for row in mine]  # fmt: skip
        scene.marks.append(s.Line([np.array(line)], role, 1.8, dash))
    if trace.info.slots:
        at = float(x(trace.info.slots))
        scene.marks.append(s.Line([np.array([[at, s.TOP], [at, s.BOTTOM]])], "ink", 1, "dot"))
        scene.marks.append(s.Text(min(at + 4, s.RIGHT - 60), s.BOTTOM - 6, "this run's size"))
    lines = {name: LINES.get(name, ANOTHER) for name in POLICIES}
    s.legend(scene, [(role, name, dash) for name, (role, dash) in lines.items()])
    return scene
