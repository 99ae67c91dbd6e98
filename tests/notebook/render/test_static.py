"""The saved view needs no kernel, script or network, and escapes its input."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from outlier_jupyter.events import DECODE
from outlier_jupyter.formatting import percent, size_words, three
from outlier_jupyter.notebook.render.figures.run import Figures
from outlier_jupyter.notebook.render.static import SavedView, mimebundle
from outlier_jupyter.notebook.render.static import charts as charts_of
from outlier_jupyter.notebook.render.static.report_charts import time_parts
from outlier_jupyter.notebook.render.static.scene import Box, Picture, Scene, Text, log_ticks, ticks
from outlier_jupyter.notebook.render.static.text import TEXT_LIMIT, texts, token_words
from outlier_jupyter.trace import Trace
from outlier_jupyter.trace.measures import (
    first_token,
    frequency,
    hits_per_step,
    residency,
    timeline,
)
from outlier_jupyter.trace.segments import ANSWER, THINKING

MakeTrace = Callable[..., Trace]
SVG = "{http://www.w3.org/2000/svg}"
TAGS = {"div", "style", "p", "strong", "span", "b", "pre", "img", "details", "summary"}
TAGS |= {"table", "tbody", "tr", "th", "td"}
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>\n```\n</pre>| & "quotes"'


class Page(HTMLParser):
    """Every tag with its attributes, and all text outside of styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag != "img":
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words += data

    @property
    def svgs(self) -> list[str]:
        """The charts, decoded."""
        sources = [a["src"] for tag, a in self.tags if tag == "img"]
        head = "data:image/svg+xml;base64,"
        assert all(source.startswith(head) for source in sources)
        return [base64.b64decode(source.removeprefix(head)).decode() for source in sources]


def view(trace: Trace, text: str = "some text", finish_reason: str = "stop") -> SavedView:
    """A view of `trace` with a short prompt."""
    return SavedView(text=text, trace=trace, finish_reason=finish_reason, prompt="a prompt")


def png_of(bundle: dict[str, str]) -> Image.Image:
    """The bundle's PNG, decoded."""
    return Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))


@pytest.fixture(scope="module")
def large(make_trace: MakeTrace) -> dict[str, str]:
    """The bundle of a long run of a large model."""
    trace = make_trace(steps=1000, layers=60, experts=512, k=8, slots=9000, prompt=100)
    return mimebundle(view(trace, "word " * 1000))


def test_html_holds_no_script_and_fetches_nothing(make_trace: MakeTrace) -> None:
    """No script, handler, link or address, neither in the page nor in the charts within it."""
    page = Page(mimebundle(view(make_trace(model=EVIL, reader=EVIL), EVIL))["text/html"])
    assert {tag for tag, _ in page.tags} <= TAGS
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "href"]
    assert len(page.svgs) == 4
    for svg in page.svgs:
        bare = svg.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|<script|\son\w+=|@import|url\(", bare)


def test_no_address_in_the_page(make_trace: MakeTrace) -> None:
    """The page's own markup and style name no host."""
    html = mimebundle(view(make_trace()))["text/html"]
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r'src="[^"]*"', "", html))


def test_model_text_stays_text(make_trace: MakeTrace) -> None:
    """The page shows markup in prompt, text and names as plain letters."""
    trace = make_trace(model=EVIL, changed_output=EVIL)
    html = mimebundle(SavedView(EVIL, trace, EVIL, EVIL))["text/html"]
    assert "<script" not in html and "onerror=alert(1)>" not in html
    page = Page(html)
    assert page.words.count(EVIL) >= 4


def test_markdown_cannot_be_broken_out_of(make_trace: MakeTrace) -> None:
    """Text that contains a fence gets a longer fence, and table cells contain no markup."""
    made = mimebundle(SavedView(EVIL, make_trace(model=EVIL), "stop", "hi"))["text/markdown"]
    assert f"````text\n{EVIL}\n````" in made
    assert "| Model | &lt;script&gt;" in made


def test_every_style_rule_is_scoped(make_trace: MakeTrace) -> None:
    """Every selector names `.oj-static`, so that the rest of the notebook looks as before."""
    html = mimebundle(view(make_trace()))["text/html"]
    style = re.sub(r"@media\([^)]*\)", "", html.split("<style>")[1].split("</style>")[0])
    selectors = ",".join(re.findall(r"([^{}]+)\{", style)).split(",")
    assert all(".oj-static" in one for one in selectors if one.strip())


def test_charts_are_valid_and_speak(make_trace: MakeTrace) -> None:
    """Each chart parses as XML, has a title, units in its text, and a spoken form with numbers."""
    page = Page(mimebundle(view(make_trace()))["text/html"])
    words = []
    for svg in page.svgs:
        root = ElementTree.fromstring(svg)
        words.append(" ".join(node.text or "" for node in root.iter(f"{SVG}text")))
        assert re.search(r"\d", root.findtext(f"{SVG}title") or "")
    for wanted, found in zip(("times chosen", "in RAM (24)", "lookups", "ms"), words, strict=True):
        assert wanted in found
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["role"] == "img"
            assert attributes["alt"] == attributes["aria-label"] != ""


def test_charts_show_the_measures(make_trace: MakeTrace) -> None:
    """Heatmap cells and bar heights are those of the measures."""
    trace = make_trace()
    routing, resident, lookups, _ = charts_of.all_charts(trace)

    def cells(scene: Scene) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        return next(m.cells for m in scene.marks if isinstance(m, Picture) and m.x == 54)

    np.testing.assert_array_equal(cells(routing) == 1, frequency(trace) == 0)
    order = np.argsort(frequency(trace), axis=None, kind="stable")
    assert (np.diff(cells(routing).ravel()[order].astype(int)) >= 0).all()
    key = next(m for m in routing.marks if isinstance(m, Picture) and m.x != 54)
    heat = next(m for m in routing.marks if isinstance(m, Picture) and m.x == 54)
    ends = heat.colours[[heat.cells[heat.cells > 1].min(), heat.cells.max()]]
    assert (key.colours[[0, -1]] == ends).all()
    np.testing.assert_array_equal(cells(resident) == 2, residency(trace))
    bars = [m for m in lookups.marks if isinstance(m, Box) and len(m.rects) == trace.steps]
    hits, misses = hits_per_step(trace)
    both, lower = (mark.rects[:, 3] for mark in bars)
    np.testing.assert_allclose(lower / both, hits / (hits + misses))


def test_size_of_a_large_run(large: dict[str, str]) -> None:
    """60 × 512 experts over 1,000 steps stay within 300 kB of HTML and 150 kB of PNG."""
    assert len(large["text/html"].encode()) < 300_000
    assert len(base64.b64decode(large["image/png"])) < 150_000


def test_png_shows_something(large: dict[str, str], make_trace: MakeTrace) -> None:
    """The PNG decodes, is twice the layout's size, and has many colours on white."""
    for bundle in (large, mimebundle(view(make_trace()))):
        image = png_of(bundle)
        assert image.width == 2 * (2 * 400 + 3 * 12)
        colours = image.convert("RGB").getcolors() or []
        assert len(colours) > 60
        white = sum(count for count, colour in colours if colour == (255, 255, 255))
        assert 0.2 < white / (image.width * image.height) < 0.9


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"steps": 5, "layers": 0, "experts": 0, "k": 0}, "a dense model has no expert layers"),
        ({"steps": 0, "prompt": 0}, "the run has no tokens"),
        ({"steps": 1, "prompt": 1}, None),
    ],
)
def test_small_and_empty_runs(
    make_trace: MakeTrace, shape: dict[str, int], reason: str | None
) -> None:
    """A dense model and runs of no or one step are shown, with the reason for what is missing."""
    bundle = mimebundle(view(make_trace(**shape), text=""))
    charts = "".join(Page(bundle["text/html"]).svgs)
    assert ("no data" in charts) is (reason is not None)
    assert (reason or "") in charts
    assert "nan" not in "".join(bundle.values()).lower().replace(bundle["image/png"].lower(), "")
    assert png_of(bundle).width


def test_a_run_without_reads(make_trace: MakeTrace) -> None:
    """Without reads the latency chart has the reason: all resident, or mmap."""
    trace = make_trace(steps=6, prompt=2)
    trace.hits[:] = True
    bare = {name: getattr(trace, name) for name in trace.__dataclass_fields__}
    warm = Trace(**(bare | {"reads": trace.reads[:0]}))
    assert "was already in RAM" in charts_of.latency(warm, timeline(warm)).spoken
    mapped = Trace(**(bare | {"reads": trace.reads[:0], "info": make_trace(reader="mmap").info}))
    assert "operating system" in charts_of.latency(mapped, timeline(mapped)).spoken


@pytest.mark.parametrize("form", ["text/html", "text/markdown", "text/plain"])
def test_interrupted_and_changed_runs_say_so(make_trace: MakeTrace, form: str) -> None:
    """Every text form labels an interrupted run and a changed output."""
    trace = make_trace(changed_output="top_k=1 instead of 2")
    message = mimebundle(view(trace, finish_reason="interrupted"))[form].replace("\\", "")
    assert "Stopped early" in message and "top_k=1 instead of 2" in message
    plain = mimebundle(view(make_trace()))[form]
    assert "Stopped early" not in plain and "own output" not in plain


def test_summary_is_in_every_form(make_trace: MakeTrace) -> None:
    """Speed, hit rate, bytes, time to first token, reader and cache are in every text form."""
    bundle = mimebundle(view(make_trace(reader="direct")))
    for form in ("text/html", "text/markdown", "text/plain"):
        for wanted in (
            "tokens/s",
            "%",
            "MB",
            "first token",
            "reads past the page cache (direct)",
        ):
            assert wanted in bundle[form]
    assert "24 expert slots · 48 MB in RAM" in bundle["text/html"]


def test_a_name_of_any_length_is_drawn_at_once(make_trace: MakeTrace) -> None:
    """The picture's heading has a name from a file, and is cut at the page's width."""
    trace = make_trace()
    long = replace(trace, info=replace(trace.info, model="x" * 100_000))
    assert mimebundle(view(long))["image/png"]


def test_long_text_is_shortened(make_trace: MakeTrace) -> None:
    """A text of a megabyte does not make a notebook of megabytes; omitted text is counted."""
    bundle = mimebundle(SavedView("x" * 10**6, make_trace(), "length", "y" * 10**5))
    assert all(len(form) < 150_000 for form in bundle.values())
    assert "980,000 more characters; see run.text" in bundle["text/html"]


def test_the_same_run_gives_the_same_bytes(make_trace: MakeTrace) -> None:
    """The output does not depend on time, chance or order, so that notebooks diff cleanly."""
    assert mimebundle(view(make_trace())) == mimebundle(view(make_trace()))


def test_numbers_in_words() -> None:
    """Sizes, shares and plain numbers keep three digits and never round to all or nothing."""
    assert [size_words(n) for n in (0, 999, 1_234_567, 24e9)] == [
        "0 B",
        "999 B",
        "1.23 MB",
        "24 GB",
    ]
    assert [percent(s) for s in (0, 1, 0.99999, 0.5, float("nan"))] == [
        "0 %",
        "100 %",
        "99.999 %",
        "50 %",
        "–",
    ]
    assert [three(v) for v in (0.01234, 1.234, 1234.5, 0)] == ["0.0123", "1.23", "1,234", "0"]


def test_ticks_are_round() -> None:
    """Ticks fall on 1, 2 and 5 times powers of ten, on integers if requested."""
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(0, 3, 6, whole=True) == [0, 1, 2, 3]
    assert ticks(0, 0, whole=True) == [0]
    assert log_ticks(0.3, 40) == [0.5, 1, 2, 5, 10, 20]


def test_the_report_s_times_stand_at_the_live_view_s_numbers(make_trace: MakeTrace) -> None:
    """The bar of a token covers the place of its number on the axis."""
    trace = make_trace(steps=30, prompt=6)
    marks = time_parts(trace).marks
    decode = int(np.flatnonzero(trace.phase == DECODE)[0])
    first = float(decode - first_token(trace) + 1)
    labels = {
        m.words: m.x for m in marks if isinstance(m, Text) and m.words.isdigit() and m.y > 230
    }
    bars = next(m.rects for m in marks if isinstance(m, Box) and len(m.rects) > 20)
    for words, x in labels.items():
        left, _, width, _ = bars[int(float(words) - first)]
        assert left < x < left + width, words
    assert len(labels) >= 2


def test_thinking_and_answer_stand_apart_under_their_names(make_trace) -> None:
    """Without tags, in HTML and Markdown; a text that is only an answer is one block as before."""
    text = "<think>I <b>wonder</b></think>It is so."
    spans = ((THINKING, 7, 22), (ANSWER, 30, len(text)))
    made = mimebundle(SavedView(text, make_trace(), "stop", "hi", spans))
    for form in ("text/html", "text/markdown"):
        assert made[form].index("Thinking") < made[form].index("Answer")
        assert "Generated text" not in made[form] and "&lt;/think" not in made[form]
    assert "I &lt;b&gt;wonder&lt;/b&gt;</pre>" in made["text/html"]
    plain = SavedView(text, make_trace(), "stop", "hi", ((ANSWER, 0, len(text)),))
    assert "Generated text" in mimebundle(plain)["text/html"]


def test_the_parts_of_a_long_text_share_its_limit(make_trace) -> None:
    """A notebook stays small however much a model thinks."""
    text = "x" * 10**5
    view = SavedView(
        text, make_trace(), "stop", "hi", ((THINKING, 0, 60_000), (ANSWER, 60_000, 10**5))
    )
    assert sum(len(part) for _, part in texts(view)) < TEXT_LIMIT + 200


def test_tokens_are_counted_as_read_and_as_generated(make_trace):
    """A figure's description and a run's table name both, and do not add them up."""
    produced = np.r_[np.full(9, -1), np.arange(31)].astype(np.int32)
    trace = replace(make_trace(steps=40, prompt=10), produced=produced)
    assert token_words(trace) == "10 tokens of the prompt and 31 generated"
    assert "10 tokens of the prompt and 31 generated" in Figures(trace).routing().layout.title.text
    bare = replace(trace, produced=np.full(40, -1, np.int32))
    assert token_words(bare) == "10 tokens of the prompt and 30 generated"
