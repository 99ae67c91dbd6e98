"""The chat in a real ipykernel: messages from the page, text as it comes, Stop, and interrupts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.jupyter_kernel.conftest import WAIT, Kernel, kinds


@pytest.fixture(scope="module")
def chatting(kernel: Kernel, tiny: Path) -> Kernel:
    """A kernel with an engine whose answers never reach an end-of-turn token, and a chat."""
    kernel.run("%load_ext outlier_jupyter")
    kernel.run(f"%outlier load {tiny} --cache-experts 5 -o engine")
    kernel.run("engine.tokenizer.eos_token_ids = set()")
    sent = kernel.run("%outlier chat --max-tokens 100000 -o chat")
    shown, saved = kinds(sent, "display_data")
    assert "application/vnd.jupyter.widget-view+json" in shown["data"]
    assert not any("widget" in mime for mime in saved["data"])
    assert not kinds(sent, "error")
    return kernel


def page(kernel: Kernel, model: str, **content: Any) -> None:
    """Send a message as the page does: on the shell channel, as cells."""
    data = {"method": "custom", "content": content}
    comm_message = kernel.client.session.msg("comm_msg", {"comm_id": model, "data": data})
    kernel.client.shell_channel.send(comm_message)


def from_chat(kernel: Kernel, model: str) -> Iterator[dict[str, Any]]:
    """What the chat sends to the page, as it comes: custom messages, and updates of traits."""
    while True:
        message = kernel.client.get_iopub_msg(timeout=WAIT)
        if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == model:
            data = message["content"]["data"]
            yield data["content"] if data["method"] == "custom" else data


def test_stop_from_the_page_ends_the_answer(chatting: Kernel) -> None:
    """The cell has returned, so the message arrives while the answer is written."""
    kernel = chatting
    model = kernel.value("chat.model_id").strip("'")
    page(kernel, model, type="send", text="Go on", request="r1")
    seen: list[str] = []
    for comm_message in from_chat(kernel, model):
        seen.append(str(comm_message.get("type")))
        # Again about once a second, as the page does until it has an answer.
        if seen.count("text") % 20 == 3 and comm_message.get("type") == "text":
            page(kernel, model, type="stop")
        if comm_message.get("state", {}).get("status") == "idle":
            break
    assert "accepted" in seen and seen.count("text") >= 3
    assert kernel.value("chat.messages[-1].ended, len(chat.messages)") == "('interrupted', 2)"
    assert kernel.value("0 < chat.runs[-1].generated < 100000") == "True"


def test_what_is_saved_is_kept_up_to_date_from_the_chats_thread(chatting: Kernel) -> None:
    """An answer to the page, with no cell running, updates the second output."""
    kernel = chatting
    model = kernel.value("chat.model_id").strip("'")
    name = kernel.value("chat.view_id").strip("'")
    page(kernel, model, type="set", name="max_tokens", value=3)
    page(kernel, model, type="send", text="Is this saved?", request="r2")
    while True:
        message = kernel.client.get_iopub_msg(timeout=WAIT)
        if message["msg_type"] == "update_display_data":
            content = message["content"]
            assert content["transient"]["display_id"] == name
            if "cut off at the token limit" in content["data"]["text/plain"]:
                break
    assert "Is this saved?" in content["data"]["text/html"]
    kernel.run("chat.max_tokens = 100000")


def test_the_page_resizes_the_cache(chatting: Kernel) -> None:
    """It happens between answers, on the chat's thread; other threads can still use the cache."""
    kernel = chatting
    model = kernel.value("chat.model_id").strip("'")
    page(kernel, model, type="resize", cache_experts=9, request="r3")
    for comm_message in from_chat(kernel, model):
        if comm_message.get("type") in ("accepted", "refused"):
            break
    assert comm_message == {"type": "accepted", "request": "r3"}
    assert kernel.value("engine.status().slots, chat.info['slots']") == "(9, 9)"
    assert kernel.value("engine.generate('Hello', max_tokens=3).generated") == "3"
    kernel.value("engine.resize(cache_experts=5).slots")


def test_an_interrupt_of_send_keeps_the_run_and_the_chat(chatting: Kernel) -> None:
    """`chat.send` blocks its cell; SIGINT ends it with the partial run, and the chat goes on."""
    kernel = chatting
    model = kernel.value("chat.model_id").strip("'")
    request = kernel.start("chat.send('Go on')")
    for comm_message in from_chat(kernel, model):
        if comm_message.get("type") == "text":
            break
    kernel.manager.interrupt_kernel()
    (error,) = kinds(list(kernel.messages(request)), "error")
    assert error["ename"] == "Interrupted" and "the partial run is kept" in error["evalue"]
    assert kernel.value("chat.messages[-1].ended, chat.blocking") == "('interrupted', False)"
    assert kernel.value("chat.send('again', max_tokens=2).generated") == "2"
    (gone,) = kinds(kernel.run("chat.close()"), "update_display_data")[-1:]
    assert gone["data"] == {"text/plain": ""} and gone["transient"]["display_id"].endswith(
        "-widget"
    )
    assert kernel.value("chat.status") == "'closed'"
