"""Questions about finished runs: by magics, in the live view, and as a report on one page."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pandas
import pytest

import outlier_jupyter
from outlier_jupyter import Run
from outlier_jupyter.errors import OptionError, TraceError
from outlier_jupyter.formatting import size_words
from outlier_jupyter.notebook.live.answers import answer
from outlier_jupyter.notebook.live.widget import LiveView
from outlier_jupyter.system.memory_info import measure_memory, memory_rate
from outlier_jupyter.trace.explanation_text import sentences

from .test_widget import on_a_page


@pytest.fixture(scope="module")
def ip(shell, tiny):
    shell.run_line_magic("load_ext", "outlier_jupyter")
    shell.run_line_magic("outlier", f"load {tiny} --cache-experts 10")
    for name in ("one", "other"):
        shell.run_cell_magic("outlier", f"-q --max-tokens 9 --raw -o {name}", f"the {name}")
    yield shell
    shell.run_line_magic("unload_ext", "outlier_jupyter")
    for name in ("one", "other", "told"):
        shell.user_ns.pop(name, None)


def test_explain_is_what_the_run_says(ip):
    """It takes a number or the slowest token, of a named run or the last; `-o` stores it."""
    one, other = ip.user_ns["one"], ip.user_ns["other"]
    told = ip.run_line_magic("outlier", "explain 3 --run one -o told")
    assert str(told) == str(one.explain(3)) and ip.user_ns["told"] is told
    assert ip.run_line_magic("outlier", "explain 3").step == other.step_of(3)
    assert ip.run_line_magic("outlier", "explain").slower_than > 0.8
    assert ip.run_line_magic("outlier", "explain 3 --memory-rate 5e9").memory.rate == 5e9
    with pytest.raises(OptionError, match="did you mean other"):
        ip.run_line_magic("outlier", "explain 3 --run othr")


def test_expert_and_tokens_go_both_ways(ip):
    """`expert` covers all stored or named runs, `tokens` a span of one; as the calls do."""
    one, other = ip.user_ns["one"], ip.user_ns["other"]
    layer, expert = 1, int(other.trace.experts[-1, 1, 0])
    found = ip.run_line_magic("outlier", f"expert {layer}:{expert}")
    assert {"one", "other"} <= set(found.runs)
    named = ip.run_line_magic("outlier", f"expert {layer}:{expert} one")
    assert named.frame.drop(columns="run").equals(
        one.tokens_of(layer, expert).frame.drop(columns="run")
    )
    span = ip.run_line_magic("outlier", "tokens 2:4 --run one")
    assert span.frame.equals(one.experts_of(slice(2, 4)).frame)
    assert ip.run_line_magic("outlier", "tokens 2").steps.tolist() == [other.step_of(2)]
    for wrong, said in (("expert 12", "not LAYER:EXPERT"), ("tokens a:b", "not a token or FIRST")):
        with pytest.raises(OptionError, match=said):
            ip.run_line_magic("outlier", wrong)


def test_measures_are_a_table_or_a_figure(ip):
    """Rows are those of the call, of one or both phases; each figure has its name."""
    one = ip.user_ns["one"]
    for words, phase in (("", "decode"), ("--phase prefill ", "prefill"), ("--phase all ", None)):
        found = ip.run_line_magic("outlier", f"measures {words}--run one -o told")
        assert found.frame.equals(pandas.DataFrame(one.measures(phase).rows()))
        assert found["overlap"] is not None and list(found) == list(found.frame)
        assert ip.user_ns["told"] is found
    titles = {"layers": "Routing by layer", "time": "over the tokens", "atlas": "Atlas of experts"}
    for name, title in titles.items():
        figure = ip.run_line_magic("outlier", f"measures --figure {name} --run one")
        assert title in figure.layout.title.text
    for wrong, said in (("--figure pie", "choose layers"), ("--phase night", "choose 'prefill'")):
        with pytest.raises(OptionError, match=said):
            ip.run_line_magic("outlier", f"measures {wrong} --run one")


def test_an_atlas_is_of_all_runs_held_or_of_those_named(ip):
    """As the call: units of both runs, classed by run or by kind of token; phases apart."""
    one, other = ip.user_ns["one"], ip.user_ns["other"]
    both = outlier_jupyter.atlas({"one": one, "other": other})
    figure = ip.run_line_magic("outlier", "atlas one other -o told")
    assert ip.user_ns["told"] is figure and both.about in figure.layout.title.text
    assert sum(len(part.x) for part in figure.data) == len(both.layer)
    assert both.tokens == one.trace.steps + other.trace.steps
    assert set(both.label) <= {"one", "other", "no class more than chance"}
    kinds = outlier_jupyter.atlas([one, other], by="tokens", phase="decode")
    assert kinds.tokens == (one.trace.phase == 1).sum() + (other.trace.phase == 1).sum()
    for wrong, said in (
        ("--by colour", "choose runs, tokens, segments"),
        ("--phase night", "prefill"),
    ):
        with pytest.raises(OptionError, match=said):
            ip.run_line_magic("outlier", f"atlas one {wrong}")


def test_a_run_is_saved_and_opened(ip, tmp_path, capsys):
    """The file's path is printed; the opened run has the same summary and texts."""
    one, path = ip.user_ns["one"], tmp_path / "one.safetensors"
    ip.run_line_magic("outlier", f"save {path} --run one")
    assert capsys.readouterr().out == f"{path}\n"
    again = ip.run_line_magic("outlier", f"open {path} -o told")
    assert ip.user_ns["told"] is again and again.text == one.text
    assert str(again.explain(3)) == str(one.explain(3))
    with pytest.raises(TraceError, match="there is no file"):
        ip.run_line_magic("outlier", f"open {tmp_path / 'none'}")


def test_view_is_the_run_in_the_live_view(ip):
    """It shows a named run, or the last, as the call does."""
    view = ip.run_line_magic("outlier", "view --run one -o told")
    assert isinstance(view, LiveView) and ip.user_ns["told"] is view
    view.close()


def test_what_if_is_a_table_a_figure_or_a_number(ip):
    """The figure's lines are the table's columns; for a hit rate the number is its slots."""
    one, other = ip.user_ns["one"], ip.user_ns["other"]
    table = one.trace.what_if(slots=[6, 12, 24])
    sizes = "--slots 6 --slots 12 --slots 24"
    figure = ip.run_line_magic("outlier", f"what-if --figure {sizes} --run one")
    assert len(figure.data) == 6 and len({part.line.dash for part in figure.data}) == 3
    for part in figure.data:
        rows = table[table.policy == part.legendgroup]
        shown = 100 * rows.decode_hit_rate if part.showlegend else rows.tokens_per_second
        assert list(part.y) == pytest.approx(list(shown), nan_ok=True)
    rate = float(table.decode_hit_rate.max()) / 2
    found = ip.run_line_magic("outlier", f"what-if --hit-rate {rate} --policy lru --run one")
    assert found == one.trace.slots_for(rate, "lru")
    after = ip.run_line_magic("outlier", "what-if --slots 6 --after one --run other")
    assert after.frame.equals(other.trace.what_if(slots=[6], after=[one.trace]))
    frame = ip.run_line_magic("outlier", "what-if --slots 6 --frame --run one")
    assert isinstance(frame, pandas.DataFrame)


def test_the_figure_of_what_if_tells_all_of_a_size(ip):
    """A point's hover has the table's row; the old flag `--slider` gives the same figure."""
    one = ip.user_ns["one"]
    found = ip.run_line_magic("outlier", "what-if --slots 6 --slots 12 --policy lru --run one")
    wanted = one.trace.what_if(slots=[6, 12], policies=["lru"])
    assert found.frame.equals(wanted) and found.equals(wanted)
    figure = ip.run_line_magic(
        "outlier", "what-if --slots 6 --slots 12 --policy lru --figure --run one"
    )
    told = [[row.gb, row.share, size_words(row.decode_bytes)] for row in wanted.itertuples()]
    for part in figure.data:
        assert [list(row) for row in part.customdata] == told
        assert all(f"customdata[{place}]" in part.hovertemplate for place in range(3))
    assert ip.run_line_magic("outlier", "what-if --slider --run one") == one.trace.sizing()
    assert one.trace.sizing() == one.figures.what_if()


def test_a_report_is_one_page_that_fetches_nothing(ip, tmp_path, capsys):
    """Text, charts, tables and origin; no text is script; the same by magic and by call."""
    run = replace(ip.user_ns["one"], text="<script>alert(1)</script> answer")
    page = run.report(tmp_path / "by call.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert not re.search(r"(src|href)=.?(https?:)?//", page.split("</main>")[0])
    for said in ("Where the time went", "The slowest tokens", "waiting for reads",
                 "Settings and origin", "cache experts", run.trace.info.model_hash,
                 "computed completely by", "Routing frequency"):  # fmt: skip
        assert said in page, said
    assert page.count("data:image/svg+xml") == 6 and len(page) < 400_000
    path = tmp_path / "magic.html"
    ip.run_line_magic("outlier", f"report '{path}' --run one")
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text() == ip.user_ns["one"].report(tmp_path / "again.html").read_text()
    with pytest.raises(TraceError, match="give a path that can be"):
        run.report(tmp_path / "no such folder" / "x.html")


def test_a_report_says_what_was_lossy_and_what_is_missing(ip, tmp_path):
    """A changed output is at the top; a trace of a few arrays still has all sections."""
    trace = ip.user_ns["one"].trace
    lossy = replace(trace, info=replace(trace.info, changed_output="top-k 1 in place of 2"))
    page = Run.of(lossy).report(tmp_path / "lossy.html").read_text()
    said = "This is not the model&#x27;s own output: top-k 1 in place of 2"
    assert said in page[: page.index('<p class="oj-head">')]
    absent = ("calls", "hits", "reads", "evictions", "weights", "tokens", "produced", "phase")
    bare = replace(trace, info=replace(trace.info, absent=absent), reads=trace.reads[:0])
    page = Run.of(bare).report(tmp_path / "bare.html").read_text()
    assert "No times of decode were recorded" in page and "this trace has no times" in page


def test_the_live_view_is_answered_when_a_run_is_over(ip, monkeypatch):
    """A pinned token gets its explanation, an expert its tokens, anything else an empty text."""
    run = ip.user_ns["one"]
    view = on_a_page(LiveView.of(run))
    sent = []
    monkeypatch.setattr(view, "send", lambda content, buffers=None: sent.append(content))
    abouts = [{"step": run.step_of(3)}, {"layer": 1, "expert": 2}, {"layer": 9, "expert": 2}, "x"]
    for about in abouts:
        view.comm.receive({"type": "ask", "about": about})
    assert [each["about"] for each in sent] == abouts
    words = [each["words"] for each in sent]
    assert words[0] == str(run.explain(3)) and words[1] == str(run.tokens_of(1, 2))
    assert "has no expert 9:2" in words[2] and words[3] == ""
    assert [sorted(each) for each in sent[1:]] == [["about", "type", "words"]] * 3
    bare = on_a_page(LiveView())
    monkeypatch.setattr(bare, "send", lambda content, buffers=None: sent.append(content))
    bare.comm.receive({"type": "ask", "about": abouts[0]})
    assert sent[-1]["words"] == ""


def test_an_answer_about_a_token_has_its_timeline(ip):
    """Sentences, and each read and wait with its layer, in ms within the call; plain JSON."""
    run = ip.user_ns["one"]
    seen = 0
    for token in range(1, run.generated + 1):
        found = run.explain(token)
        told = answer(run, {"step": found.step})["token"]
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert told["sentences"] == sentences(found) and told["ms"] == pytest.approx(found.ms, 1e-3)
        assert [tuple(read[:2]) for read in told["reads"]] == [
            (miss.layer, miss.expert)
            for miss in sorted(found.misses, key=lambda each: each.start_ms)
        ]
        assert all(0 <= begin < end <= found.ms for *_, begin, end, _ in told["reads"])
        assert sum(end - begin for _, begin, end in told["waits"]) == pytest.approx(
            sum(layer.parts["read_wait"] for layer in found.layers), abs=0.01
        )
        for layer, begin, end in told["waits"]:
            reads = [read for read in told["reads"] if read[0] == layer]
            # A layer waits only while one of its own reads has not ended.
            assert begin - 0.1 <= max(read[3] for read in reads) <= end + 1
        seen += len(told["waits"])
        rows = {layer: text for layer, _, text in told["layers"]}
        assert all(str(miss.expert) in rows[str(miss.layer)] for miss in found.misses)
    assert seen


def test_a_measured_memory_is_known_to_later_runs(tiny):
    """`bench --memory` measures a rate, and explanations of later runs use it."""
    assert measure_memory(8_000_000) == memory_rate() > 0
    with outlier_jupyter.load(tiny, cache_experts=4) as engine:
        run = engine.generate("after", max_tokens=3)
    assert run.trace.info.memory_rate == memory_rate()
    assert "(measured)" in str(run.explain(2))
