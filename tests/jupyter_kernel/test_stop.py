"""Stop in a real ipykernel of each version: from the page, by interrupt, and how soon it acts.

How soon is counted, not timed: a token that ends after the request to stop must be the one that
was under way, so there is at most one. Nothing waits for longer than a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.jupyter_kernel.conftest import Kernel, kinds

COUNT = """
from tests.inspection import stop_requested
late = []
def count(event):
    if type(event).__name__ == "StepDone":
        late.append(stop_requested(engine))
engine.subscribe(count)
"""
ENDLESS = "max_tokens=1_000_000"


@pytest.fixture(scope="module")
def counting(kernel: Kernel, tiny: Path) -> Kernel:
    """A kernel with an engine whose runs do not end, and a count of tokens after a stop."""
    kernel.run("%load_ext outlier_jupyter")
    kernel.run(f"import outlier_jupyter\n%outlier load {tiny} --cache-experts 5 -o engine")
    kernel.run("engine.tokenizer.eos_token_ids = set()")
    assert not kinds(kernel.run(COUNT), "error")
    return kernel


@pytest.fixture(autouse=True)
def at_most_one_token_after_the_stop(counting: Kernel) -> Any:
    """Check after each test here that at most one token follows the stop."""
    counting.run("late.clear()")
    yield
    assert counting.value("len(late) > 0") == "True"
    assert counting.value("sum(late) <= 1") == "True", counting.value("late[-9:]")


def after_frames(kernel: Kernel, request: str, act: Callable[[str], object]) -> list[dict]:
    """The messages of a cell; `act` is called once, with the comm's id, after nine frames."""
    sent, frames = [], 0
    for message in kernel.messages(request):
        sent.append(message)
        frames += message["msg_type"] == "comm_msg" and bool(message["buffers"])
        if frames == 9:
            frames += 1
            act(message["content"]["comm_id"])
    return sent


def press_stop(kernel: Kernel, model: str, subshell: str | None = None) -> None:
    """Send the message of the view's button to the shell, as cells, or to a subshell."""
    data = {"method": "custom", "content": {"type": "stop"}}
    comm_message = kernel.client.session.msg("comm_msg", {"comm_id": model, "data": data})
    comm_message["header"]["subshell_id"] = subshell
    kernel.client.shell_channel.send(comm_message)


def subshell(kernel: Kernel, act: str, **content: str | None) -> str | None:
    """Create or delete a subshell as a page does; the id of one that was created."""
    client = kernel.client
    comm_message = client.session.msg(f"{act}_subshell_request", content)
    client.control_channel.send(comm_message)
    while True:
        reply = client.get_control_msg(timeout=60)
        if reply["parent_header"]["msg_id"] == comm_message["header"]["msg_id"]:
            return reply["content"].get("subshell_id")


def test_an_interrupt_stops_a_blocking_cell(counting: Kernel) -> None:
    """The page lets the server interrupt while a cell runs and no message is read."""
    request = counting.start("%%outlier --max-tokens 1000000\nGo on")
    sent = after_frames(counting, request, lambda _: counting.manager.interrupt_kernel())
    assert kinds(sent, "error")[0]["ename"] == "Interrupted"
    assert counting.value("engine.last_run.finish_reason") == "'interrupted'"


def test_a_message_stops_a_watched_run(counting: Kernel) -> None:
    """The cell has returned, so the message is read; the static view is saved from the thread."""
    sent = counting.run(f"view = outlier_jupyter.watch(engine, 'Go on', {ENDLESS})\nview")
    shown, saved = kinds(sent, "display_data")
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]
    while True:
        message = counting.client.get_iopub_msg(timeout=60)
        if message["msg_type"] == "comm_msg" and counting.value("len(late) > 5") == "True":
            break
    model, received = counting.value("view.model_id").strip("'"), 0
    while message["msg_type"] != "update_display_data":
        if received % 20 == 0:  # about once a second, as the page does until it has an answer
            press_stop(counting, model)
        assert received < 20 * 40, "no stop was heard"
        received += 1
        message = counting.client.get_iopub_msg(timeout=60)
    assert message["content"]["transient"] == saved["transient"]
    assert "Stopped early. Partial output is below." in message["content"]["data"]["text/html"]
    assert not any("widget" in mime for mime in message["content"]["data"])
    assert counting.value("view.status, view.run.generated > 0") == "('interrupted', True)"


def test_a_message_stops_a_run_after_another_subshell_is_gone(counting: Kernel) -> None:
    """As after a reload: the page requests its widgets over a subshell, and then deletes it."""
    counting.run(f"view = outlier_jupyter.watch(engine, 'Go on', {ENDLESS})")
    model, own = counting.value("view.model_id").strip("'"), None
    if counting.value("hasattr(get_ipython().kernel, 'shell_channel_thread')") == "True":
        passing, own = subshell(counting, "create"), subshell(counting, "create")
        info_request = counting.client.session.msg("comm_info_request", {})
        info_request["header"]["subshell_id"] = passing
        counting.client.shell_channel.send(info_request)
        parent = info_request["header"]["msg_id"]
        sent = until(counting, lambda each: each["msg_type"] == "comm_msg" and bool(each["buffers"])
                     and each["parent_header"]["msg_id"] == parent)  # fmt: skip
        assert sent, "what the run sends now has that request for its parent"
        subshell(counting, "delete", subshell_id=passing)
    # No cell may run before the stop arrives: it would replace that subshell's as the last request.
    left = 20
    while left and not until(counting, lambda each: "'interrupted'" in repr(each), most=20):
        press_stop(counting, model, own)
        left -= 1
    assert left, "no stop was heard"


def until(kernel: Kernel, found: Callable[[dict], bool], most: int = 10_000) -> bool:
    """Read messages until one is `found`; whether one of the first `most` is."""
    return any(found(kernel.client.get_iopub_msg(timeout=60)) for _ in range(most))


def test_an_interrupt_stops_a_cell_that_waits_for_a_watched_run(counting: Kernel) -> None:
    """`wait` blocks the main thread while another thread decodes; the error ends "Run All"."""
    request = counting.start(
        f"view = outlier_jupyter.watch(engine, 'Go on', {ENDLESS})\ndisplay(view)\nview.wait()"
    )
    sent = after_frames(counting, request, lambda _: counting.manager.interrupt_kernel())
    assert kinds(sent, "error")[0]["ename"] == "Interrupted"
    assert counting.value("view.status, engine.last_run is view.run") == "('interrupted', True)"


def test_a_cell_that_is_run_again_stops_its_run(counting: Kernel) -> None:
    """The front end names the cell; a run of another cell is waited for instead."""
    begin = "view = outlier_jupyter.watch(engine, 'Go on', max_tokens={})"
    in_cell(counting, "a", begin.format("1_000_000") + "\nfirst = view")
    counting.run("import time\nwhile len(late) < 4: time.sleep(0.01)")
    in_cell(counting, "b", begin.format(2) + "\nother = view")
    in_cell(counting, "a", begin.format(2) + "\nsecond = view")
    assert counting.value("second.wait().generated, other.wait().generated") == "(2, 2)"
    assert counting.value("first.status") == "'interrupted'"


def in_cell(kernel: Kernel, cell: str, code: str) -> None:
    """Run code as JupyterLab does, which names the cell."""
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {},
               "allow_stdin": False, "stop_on_error": True}  # fmt: skip
    message = kernel.client.session.msg("execute_request", content, metadata={"cellId": cell})
    kernel.client.shell_channel.send(message)
    assert not kinds(list(kernel.messages(message["header"]["msg_id"])), "error")
