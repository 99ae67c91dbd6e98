"""The widget's Python half: what it sends, when, and how it processes messages."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pytest

from outlier_jupyter.notebook.live import widget as live
from outlier_jupyter.notebook.live.frames import STEP, Frame, Totals, decode
from outlier_jupyter.notebook.live.merge_frames import as_snapshot, merge
from outlier_jupyter.notebook.live.widget import LiveView

STATIC = Path(live.__file__).parents[1] / "static"


class FakeComm:
    """Counts and keeps what is sent; `receive` plays the front end."""

    kernel = "a kernel"
    comm_id = "fake"

    def __init__(self) -> None:
        self.sent: list[tuple[dict[str, Any], list[bytes]]] = []
        self._on_msg: Any = None

    def send(self, data: Any = None, metadata: Any = None, buffers: Any = None) -> None:
        self.sent.append((data, [bytes(b) for b in buffers or []]))

    def on_msg(self, callback: Any) -> None:
        self._on_msg = callback

    def close(self, *args: Any, **kwargs: Any) -> None:
        pass

    def receive(self, content: dict[str, Any]) -> None:
        data = {"method": "custom", "content": content}
        self._on_msg({"content": {"data": data}, "buffers": []})

    def custom(self) -> list[tuple[Any, list[bytes]]]:
        return [(d["content"], b) for d, b in self.sent if d["method"] == "custom"]

    def updates(self) -> list[dict[str, Any]]:
        return [d for d, _ in self.sent if d["method"] == "update"]

    def saves(self) -> int:
        return sum(["snapshot"] in update["buffer_paths"] for update in self.updates())


def on_a_page(view: Any) -> Any:
    """The widget `view`, with a fake comm whose messages it handles."""
    view.comm = FakeComm()
    view.comm.on_msg(view._handle_msg)
    return view


class Seconds:
    """A clock that changes only when set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def view(seconds: Seconds) -> Iterator[LiveView]:
    """A view whose comm is a fake one."""
    made = LiveView(info={"model": "tiny"}, clock=seconds)
    yield on_a_page(made)
    made.comm = None


def frame(seq: int, text: str = "x", final: bool = False) -> Frame:
    """The `seq`th frame of a run that reads one token a frame."""
    one = np.array([seq % 4], np.uint32)
    return Frame(
        **{"run": 1, "seq": seq, "since": seq - 1, "first_step": seq - 1, "layers": 2},
        **{"experts": 2, "slots": 3, "prompt_tokens": 1, "text": text, "text_start": seq - 1},
        steps=np.zeros(1, STEP),
        count_index=one,
        count=one,
        change_index=one,
        change_state=np.ones(1, np.uint8),
        experts_of=np.zeros((1, 2, 1), np.uint16),
        hits_of=np.zeros((1, 2, 1), bool),
        move_step=np.zeros(0, np.uint32),
        move=np.zeros(0, np.uint32),
        totals=Totals(steps=seq),
        final=final,
    )


def test_each_frame_is_one_message_with_one_buffer(view: LiveView) -> None:
    """Pushing sends the frame and nothing else, but for the status when the first one comes."""
    for seq in range(1, 21):
        view.push(frame(seq))
    messages = view.comm.custom()
    assert [content for content, _ in messages] == [{"type": "frame"}] * 20
    assert [decode(*buffers).seq for _, buffers in messages] == list(range(1, 21))
    assert view.comm.updates() == [view.comm.updates()[0]]
    assert view.comm.updates()[0]["state"] == {"status": "running"}


def test_the_snapshot_is_written_now_and_then(view: LiveView, seconds: Seconds) -> None:
    """Every few seconds the trait stores all pushed frames, so that a reload can start from it."""
    for seq in range(1, 101):
        seconds.now += 0.1
        view.push(frame(seq))
    assert 1 <= view.comm.saves() <= 3
    saved = decode(view.snapshot)
    assert saved.snapshot and 40 <= saved.seq <= 100
    assert saved == as_snapshot(merge(*(frame(seq) for seq in range(1, saved.seq + 1))))


def test_a_large_snapshot_is_written_less_often(
    view: LiveView, seconds: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size sets the interval, so that it leaves bandwidth for frames."""
    monkeypatch.setattr(live, "SAVE_BYTES_PER_S", 20)
    for seq in range(1, 101):
        seconds.now += 0.1
        view.push(frame(seq))
    assert view.comm.saves() == 1


def test_finish_writes_snapshot_and_status_in_one_message(view: LiveView) -> None:
    """At the end one message carries the whole state and the reason."""
    view.push(frame(1))
    view.push(frame(2, final=True))
    before = len(view.comm.sent)
    view.finish("length")
    (update,) = view.comm.updates()[1:]
    assert len(view.comm.sent) == before + 1
    assert update["state"]["status"] == "length"
    assert decode(view.snapshot).final and decode(view.snapshot).text == "xx"


def test_finish_takes_the_feeds_own_snapshot(view: LiveView) -> None:
    """A snapshot given at the end replaces what was pushed."""
    view.push(frame(1))
    view.finish("error", as_snapshot(merge(frame(1), frame(2, "last words"))))
    assert view.status == "error" and decode(view.snapshot).text == "xlast words"


def test_resync_is_answered_with_one_snapshot_frame(view: LiveView) -> None:
    """A front end that lost frames gets the whole state, and what follows fits onto it."""
    view.comm.receive({"type": "resync"})
    assert view.comm.custom() == []  # nothing to tell yet
    for seq in range(1, 4):
        view.push(frame(seq))
    view.comm.receive({"type": "resync"})
    view.push(frame(4))
    answer, following = (decode(*buffers) for _, buffers in view.comm.custom()[-2:])
    assert answer.snapshot and answer.text == "xxx" and answer.seq == following.since


def test_stop_sets_the_flag_and_calls_back() -> None:
    """Stop only sets a flag and calls `on_stop`, which decides."""
    called = threading.Event()
    view = on_a_page(LiveView(on_stop=called.set))
    assert not view.stop_requested.is_set()
    view.comm.receive({"type": "stop"})
    assert view.stop_requested.is_set() and called.is_set()
    view.comm = None


@pytest.mark.parametrize("content", [None, "stop", 7, {}, {"type": "other"}, ["stop"]])
def test_unknown_messages_are_ignored(view: LiveView, content: Any) -> None:
    """A message unknown to this version does nothing."""
    view.comm.receive(content)
    assert not view.stop_requested.is_set() and view.comm.custom() == []


def test_it_works_without_a_kernel() -> None:
    """In plain Python nothing is sent, nothing fails, and the state can be read."""
    view = LiveView(info={"model": "tiny"})
    view.push(frame(1))
    view.finish("stop")
    assert decode(view.snapshot).text == "x" and view.kernel_id == ""
    view.close()
    view.push(frame(2))


def test_two_threads_keep_the_order(view: LiveView) -> None:
    """A resync answered on another thread never falls between a frame and its history."""
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            view.comm.receive({"type": "resync"})

    asking = threading.Thread(target=ask)
    asking.start()
    for seq in range(1, 200):
        view.push(frame(seq))
    done.set()
    asking.join()
    seen = 0
    for _, buffers in view.comm.custom():
        got = decode(*buffers)
        assert got.seq == seen if got.snapshot else got.since == seen
        seen = got.seq


def test_repr_is_plain() -> None:
    """It names its contents, without an address or the traits."""
    assert repr(LiveView(info={"model": "tiny"})) == "LiveView(model='tiny', status='waiting')"
    bundle = LiveView(info={"model": "tiny"})._repr_mimebundle_()
    text = bundle[0]["text/plain"]
    assert "LiveView" in text and "0x" not in text


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (
            "kernel-0d1e2f3a-0000-4444-8888-0123456789ab.json",
            "0d1e2f3a-0000-4444-8888-0123456789ab",
        ),
        ("kernel-v2-1234abcd.json", ""),
        ("kernel-4711.json", ""),
        ("", ""),
    ],
)
def test_the_kernel_knows_its_id(monkeypatch: pytest.MonkeyPatch, name: str, found: str) -> None:
    """Only a connection file with a Jupyter server's name has an id."""

    class App:
        connection_file = f"/run/user/{name}"

        @classmethod
        def initialized(cls) -> bool:
            return True

        @classmethod
        def instance(cls) -> type[App]:
            return cls

    module = type(sys)("ipykernel.kernelapp")
    module.IPKernelApp = App  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", module)
    assert live.kernel_id() == found


def test_view_ids_differ() -> None:
    """Each view has its own id: the front end keeps one state per id."""
    assert LiveView().view_id != LiveView().view_id


def test_the_built_files_are_small_and_ask_for_nothing() -> None:
    """One module of at most 120 kB, which imports nothing and names no server."""
    script = (STATIC / "live.js").read_text(encoding="utf-8")
    style = (STATIC / "live.css").read_text(encoding="utf-8")
    assert 10_000 < len(script.encode()) <= 120_000
    assert not re.search(r"\bimport\s*[({\"']|https?://", script)
    assert not re.search(r"@import|url\(|https?://", style)


def test_every_style_rule_is_prefixed() -> None:
    """A widget's style sheet is the whole page's: every selector is about our own root."""
    style = (STATIC / "live.css").read_text(encoding="utf-8")
    style = re.sub(r"@keyframes[^{]*\{(?:[^{}]*\{[^}]*\})*\}", "", style)
    for selectors in re.findall(r"(?:^|[{}])([^{}@]+)\{", style):
        for selector in re.sub(r":(is|where)\([^()]*\)", "", selectors).split(","):
            ours = selector.strip().startswith(".oj-root") or ":has(>.oj-root)" in selector
            assert ours, selector


def test_importing_the_view_does_not_import_a_kernel() -> None:
    """Without a kernel, looking for its id loads none of ipykernel."""
    code = (
        "import sys; from outlier_jupyter.notebook.live.widget import kernel_id;"
        "n = 'ipykernel.kernelapp'; had = n in sys.modules; kernel_id();"
        "print(had or n not in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "True"


def test_it_is_a_widget() -> None:
    """ipywidgets can lay it out with others."""
    assert isinstance(LiveView(), ipywidgets.DOMWidget)
    assert ipywidgets.VBox([LiveView()]).children
