"""A name has one colour in all figures, tables and widgets of a notebook."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter import Run, atlas, compare
from outlier_jupyter.notebook.render.class_colours import COLOURS, class_numbers
from outlier_jupyter.notebook.render.figures import Figures
from outlier_jupyter.notebook.render.figures.routing import SIGNS
from outlier_jupyter.notebook.render.palette import DARK, EITHER, LIGHT, PART_ROLES
from outlier_jupyter.notebook.render.static.report_charts import time_parts
from outlier_jupyter.trace.schema import LAYER_PARTS
from outlier_jupyter.trace.time_parts import PARTS, part_name
from tests.inspection import forget_colours
from tests.notebook.render.test_figures import contrast
from tests.trace.test_divergence import sticky
from tests.trace.test_routing_measures import routed

JS = Path(__file__).parents[3] / "js" / "src"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Only the token classes have colours."""
    forget_colours(monkeypatch)


@given(
    st.lists(st.permutations("abcdef").flatmap(lambda p: st.integers(1, 6).map(lambda n: p[:n])))
)
def test_a_name_looks_the_same_whatever_stands_beside_it(figures) -> None:
    """In every figure of up to six names, in any order; and no two of one figure look alike."""
    seen: dict[str, int] = {}
    for names in figures:
        looks = class_numbers(names)
        assert len(set(looks.values())) == len(names)
        for name, number in looks.items():
            assert seen.setdefault(name, number) == number


def test_of_many_names_no_two_of_a_figure_look_alike() -> None:
    """Names that collide take the next look; beyond all looks they share."""
    class_numbers(f"run {number}" for number in range(20))
    pair = class_numbers(["run 1", "run 7"])
    assert len(set(pair.values())) == 2
    assert len(set(class_numbers((f"run {n}" for n in range(42)), 42).values())) == 42
    assert len(class_numbers(f"run {number}" for number in range(50))) == 50


def colours_of(figure) -> dict[str, tuple[str, str]]:
    """Of each class in an atlas its colour and sign."""
    return {part.name.split(" (")[0]: (part.marker.color, part.marker.symbol)
            for part in figure.data}  # fmt: skip


def test_runs_keep_their_colours_from_figure_to_figure() -> None:
    """In the map of differences, the texts side by side and the atlas, in any order of the runs."""
    prose, code, verse = sticky(1), sticky(3, liking=5), sticky(2)
    found = compare({"prose": prose, "code": code, "verse": verse}, permutations=9)
    wanted = {name: COLOURS[number] for name, number in class_numbers(found.names).items()}
    assert len(set(wanted.values())) == 3
    for i, j in found.pairs:
        scale = found.experts_figure(i, j).data[0].colorscale
        assert (scale[2][1], scale[0][1]) == (wanted[found.names[i]], wanted[found.names[j]])
        assert (
            f"in {found.names[i]} minus" in found.experts_figure(i, j).data[0].colorbar.title.text
        )
    back = compare({"code": code, "prose": prose}, permutations=9).experts_figure().data[0]
    assert (back.colorscale[2][1], back.colorscale[0][1]) == (wanted["code"], wanted["prose"])
    for names in (["prose", "code"], ["code", "prose"], ["verse", "prose", "code"]):
        runs = {name: {"prose": prose, "code": code, "verse": verse}[name] for name in names}
        shown = colours_of(atlas(runs).figure())
        assert {name: shown[name][0] for name in names} == {name: wanted[name] for name in names}


def test_texts_side_by_side_have_the_colours_of_their_runs() -> None:
    """The marks in the HTML of a comparison are those of the runs, in either order."""
    one = Run("Say one", "", "The answer is one.", np.zeros(0, np.int32), "stop", sticky(1))
    two = replace(one, prompt="Say two", text="The answer is two.", trace=sticky(2))
    pages = [
        compare(runs, permutations=9)._repr_html_()
        for runs in ({"one": one, "two": two}, {"two": two, "one": one})
    ]
    classes = [dict(re.findall(r'class="oj-own(?:-2)? (oj-class-\d)"> (one|two)<', page))
               for page in pages]  # fmt: skip
    assert classes[0] == classes[1] and len(classes[0]) == 2
    number = class_numbers(["one", "two"])["one"]
    assert f".oj-class-{number}{{border-color:{COLOURS[number]}" in pages[0]


def test_a_class_that_fires_nothing_moves_no_other() -> None:
    """Every token class keeps its look in any set of classes; those without units are listed."""
    rng = np.random.default_rng(0)
    words = ["digit" if rng.random() < 0.4 else "word" for _ in range(240)]
    chosen = np.array([rng.permutation(4)[:2] + 4 * (word == "word") for word in words])
    experts = np.repeat(chosen[:, None], 3, axis=1)
    run = Figures(routed(experts, (8,) * 3))
    both = colours_of(run.atlas(words))
    more = colours_of(run.atlas([*words[:-1], "code sign"]))
    assert both == {"word": (COLOURS[0], SIGNS[0]), "digit": (COLOURS[1], SIGNS[1])}
    assert more | both == more and more["code sign"] == (COLOURS[3], SIGNS[3])


def test_a_part_of_time_has_one_colour_in_every_view(make_trace) -> None:
    """Report, timeline of a token and live view: the roles of the parts and their colours."""
    assert set(PART_ROLES) == set(PARTS)
    parts = (JS / "live" / "time-parts.ts").read_text().split("ROLES:")[1]
    assert dict(re.findall(r"(\w+): \"(\w+)\"", parts)) == PART_ROLES
    light, dark = (JS / "widget" / "root.css").read_text().split('[data-oj-theme="dark"]')
    roles = {*PART_ROLES.values(), "hit", "miss", "p50", "p95"}
    for theme, sheet in ((LIGHT, light), (DARK, dark)):
        colours = dict(re.findall(r"--oj-(\w+): (#\w+);", sheet))
        assert {role: colours[role] for role in roles} == {r: getattr(theme, r) for r in roles}
    for role in roles:
        for ground in ("#ffffff", "#111111", "#1f1f1f"):
            assert contrast(getattr(EITHER, role), ground) >= 3, (role, ground)


@pytest.mark.parametrize("kernels", ["cpu", "mlx"])
def test_a_token_s_timeline_has_the_colours_of_its_parts(kernels, make_trace) -> None:
    """Layer by layer, where layers were timed, and over all of them where they were not."""
    bare = make_trace(kernels=kernels)
    bare.calls["read_wait_ns"], bare.calls["route_ns"] = 4_000_000, 3_000_000
    us = np.full((len(bare.calls), bare.layers, len(LAYER_PARTS)), 500, np.int32)
    by_name = {part_name(part): getattr(EITHER, role) for part, role in PART_ROLES.items()}
    for trace in (bare, replace(bare, layer_us=us)):
        shown = {part.name.split(":")[0]: part.marker.color
                 for part in Run.of(trace).explain(-1).figure().data if part.type == "bar"
                 and part.name != "after the last layer"}  # fmt: skip
        assert len(shown) > 1 and shown == {name: by_name[name] for name in shown}


def test_the_report_s_bars_have_the_colours_of_their_parts(make_trace) -> None:
    """The four largest parts, and one grey for the rest."""
    trace = make_trace()
    trace.calls["read_wait_ns"], trace.calls["route_ns"] = 4_000_000, 3_000_000
    trace.calls["sample_ns"] = 2_000_000
    scene = time_parts(trace)
    swatches = [mark.role for mark in scene.marks[-10::2]]
    names = [mark.words for mark in scene.marks[-9::2]]
    assert names[-1] == "the rest" and swatches[-1] == "frame"
    by_name = {part_name(part): role for part, role in PART_ROLES.items()}
    assert swatches[:-1] == [by_name[name] for name in names[:-1]]
