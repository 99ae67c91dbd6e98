"""The magics in a real ipykernel: what reaches the front end, and the state after an interrupt."""

from __future__ import annotations

import pytest

from tests.jupyter_kernel.conftest import WAIT, kinds


@pytest.fixture(scope="module")
def loaded(kernel, tiny):
    kernel.run("%load_ext outlier_jupyter")
    assert not kinds(kernel.run(f"%outlier load {tiny} --cache-experts 5 -o engine"), "error")
    # No end of turn: a random model's runs must be as long as the tests need.
    kernel.run("engine.tokenizer.eos_token_ids = set()")
    return kernel


def test_a_run_streams_frames_and_leaves_a_static_view(loaded):
    """First the widget, with binary frames; beside it, at the end, HTML with no widget in it."""
    sent = loaded.run("%%outlier --max-tokens 40 -o run\nHello there")
    widget, saved = kinds(sent, "display_data")
    assert "application/vnd.jupyter.widget-view+json" in widget["data"]
    assert widget["data"]["text/plain"] == "" and "oj-static" not in saved["data"]["text/html"]
    frames = [m for m in sent if m["msg_type"] == "comm_msg" and m["buffers"]]
    assert frames and not kinds(sent, "comm_close")
    (final,) = kinds(sent, "update_display_data")
    assert final["transient"] == saved["transient"] != widget["transient"]
    assert {"text/html", "image/png", "text/markdown", "text/plain"} <= final["data"].keys()
    assert not any("widget" in mime for mime in final["data"])
    (result,) = kinds(sent, "execute_result")
    assert set(result["data"]) == {"text/plain", "text/html"}
    assert "40 tokens" in result["data"]["text/plain"]


def test_an_interrupt_stops_the_cell_keeps_the_run_and_frees_the_kernel(loaded):
    """SIGINT in a blocking cell: one line of error, the partial run stored, the next cell works."""
    request = loaded.start("%%outlier --max-tokens 100000 -o run\nGo on")
    sent = []
    for message in loaded.messages(request):
        sent.append(message)
        if message["msg_type"] == "comm_msg" and len(kinds(sent, "comm_msg")) == 5:
            loaded.manager.interrupt_kernel()
    (error,) = kinds(sent, "error")
    assert error["ename"] == "Interrupted" and "the partial run is kept" in error["evalue"]
    assert error["traceback"] == [f"Interrupted: {error['evalue']}"]
    (final,) = kinds(sent, "update_display_data")
    assert "Stopped early. Partial output is below." in final["data"]["text/html"]
    assert loaded.value("(run.finish_reason, 0 < run.generated < 100000)") == (
        "('interrupted', True)"
    )
    assert loaded.value("engine.generate('again', max_tokens=2).generated") == "2"


def test_an_interrupt_of_a_plain_call_keeps_the_run_too(loaded):
    """`engine.generate` in a cell behaves the same: the run is in `last_run`."""
    request = loaded.start(
        "engine.subscribe(lambda e: type(e).__name__ == 'StepDone' and print('.', end='', flush=1))"
        "\nengine.generate('Go on', max_tokens=100000)"
    )
    interrupted = False
    sent = []
    for message in loaded.messages(request):
        sent.append(message)
        if message["msg_type"] == "stream" and not interrupted:
            interrupted = True
            loaded.manager.interrupt_kernel()
    assert kinds(sent, "error")[0]["ename"] == "Interrupted"
    assert loaded.value("engine.last_run.finish_reason") == "'interrupted'"


def test_bad_input_is_one_line_and_an_error(loaded):
    """A wrong flag shows one line and fails the cell, so that Run All stops."""
    (error,) = kinds(loaded.run("%%outlier --max-token 3\nHello"), "error")
    assert error["traceback"] == [f"OptionError: {error['evalue']}"]
    assert "did you mean --max-tokens?" in error["evalue"]


def test_bad_options_are_refused_before_anything_is_shown(loaded):
    """A run that never began shows no empty view."""
    sent = loaded.run("%%outlier --max-tokens 0\nHello")
    assert kinds(sent, "error") and not kinds(sent, "display_data")


def test_the_magic_answers_a_question_mark(loaded):
    """`%outlier?` shows the help in the pager."""
    request = loaded.client.execute("%outlier?")
    list(loaded.messages(request))
    while True:
        reply = loaded.client.get_shell_msg(timeout=WAIT)
        if reply["parent_header"].get("msg_id") == request:
            break
    assert "%outlier load" in reply["content"]["payload"][0]["data"]["text/plain"]


@pytest.mark.parametrize(
    ("code", "offered"),
    [("%outlier sta", "status"), ("%%outlier --max-t", "--max-tokens"),
     ("%outlier load demo --reader di", "direct")],
)  # fmt: skip
def test_tab_completes_in_the_kernel(loaded, code, offered):
    """The front end's Tab offers commands, flags and values."""
    request = loaded.client.complete(code)
    while True:
        reply = loaded.client.get_shell_msg(timeout=WAIT)
        if reply["parent_header"].get("msg_id") == request:
            break
    assert offered in reply["content"]["matches"]


def test_without_the_widget_only_the_static_view_is_shown(loaded):
    """`--no-widget` opens no comm and shows only the static view."""
    sent = loaded.run("%%outlier --no-widget --max-tokens 3\nHello")
    (shown,) = kinds(sent, "display_data")
    assert "text/html" in shown["data"] and not any("widget" in mime for mime in shown["data"])
    assert not kinds(sent, "comm_open")


def test_a_pace_reaches_the_page(loaded):
    """The live view of `%%outlier --pace 8` is sent the pace; without the flag it is sent none."""

    def paces(line: str) -> list[object]:
        opened = kinds(loaded.run(f"%%outlier {line} --max-tokens 3\nHello"), "comm_open")
        infos = [each["data"]["state"].get("info") for each in opened]
        return [info.get("pace") for info in infos if info]

    assert paces("--pace 8") == [8] and paces("") == [None]


def test_a_run_within_an_output_widget_is_shown_in_a_box(loaded):
    """No page updates displays there: when the view is closed, the box changes its contents."""
    loaded.run("import ipywidgets; out = ipywidgets.Output()")
    sent = loaded.run(
        "with out:\n    get_ipython().run_cell_magic('outlier', '--max-tokens 3', 'Hello there')"
    )
    (shown,) = kinds(sent, "display_data")
    box = shown["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert not kinds(sent, "update_display_data") and not kinds(sent, "comm_close")
    code = "from outlier_jupyter.notebook.live import open_views; open_views.views()[-1].close()"
    sent = loaded.run(code)
    states = [each["data"]["state"] for each in kinds(sent, "comm_open")]
    (html,) = [state["value"] for state in states if state["_model_name"] == "HTMLModel"]
    assert "Hello there" in html and "oj-static" in html
    changed = [each["data"]["state"] for each in kinds(sent, "comm_msg")
               if each["comm_id"] == box]  # fmt: skip
    assert len(changed) == 1 and len(changed[0]["children"]) == 1
