"""A rank: loads its share of a model's experts, and computes them when it is sent a layer's input.

It takes the commands of `RankWorker.COMMANDS` and no code. It loads the experts alone: attention,
routers and the rest of the model stay in the driving process, as do the prompt and the tokens.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from ..distributed import layer_report
from ..distributed.launch import LOST_RING
from ..distributed.messages import Message, Payload
from ..errors import CheckpointChanged, OptionError, OutlierError, brief
from ..events import Event, PagedIn, Waited
from ..paging.elsewhere import inputs_of, to_words
from ..system.files import write
from ..system.memory_info import process_nbytes
from .expert_share import ExpertShare

Answer = Callable[..., None]
Words = npt.NDArray[np.uint32]


class RankWorker:
    """One rank. `answer` sends a message, and its attribute `doing` is what pings report."""

    COMMANDS = ("load", "join", "compute", "why", "resize", "resident")

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._undo = ExitStack()
        self._share: ExpertShare | None = None
        self._group: Any = None
        self._events: list[Event] = []
        self._failure: OutlierError | None = None
        self._ranks = self._rank = 0

    def take(self, message: Message, payload: bytes) -> None:
        """Do one command, and answer it; an error of ours is an answer, too."""
        name, call = message.get("do"), message.get("call")
        try:
            if name not in self.COMMANDS:
                raise OptionError(f"{name!r} is no command of a rank")
            found = getattr(self, f"_{name}")(message, payload)
            if found is not None:
                answer, data = found
                self._answer({"call": call} | answer, data)
        except OutlierError as error:
            self._answer({"call": call} | _as_answer(error))
        self._answer.doing = ""

    def _load(self, message: Message, payload: bytes) -> tuple[Message, Payload]:
        self._answer.doing = "loads"
        self._rank, self._ranks = message["rank"], message["ranks"]
        earlier = None
        if payload:
            earlier = np.frombuffer(payload, np.int16).reshape(message["earlier"])
        share = self._share = ExpertShare.load(
            message["model"], message["options"],
            [np.array(each) == self._rank for each in message["placement"]],
            earlier, message["beside"], self._undo,
        )  # fmt: skip
        for pager in share.installed.pagers:
            pager.sink = self._events.append
        return share.words(), b""

    def _join(self, message: Message, payload: bytes) -> tuple[Message, Payload]:
        """Join the ring of all ranks; the ring listens on this rank's address alone."""
        self._answer.doing = "joins the ring"
        folder = self._undo.enter_context(tempfile.TemporaryDirectory())
        hosts = json.dumps([[address] for address in message["addresses"]])
        file = write(Path(folder) / "hosts.json", hosts, OutlierError, "the ring's hosts")
        os.environ |= {"MLX_HOSTFILE": str(file), "MLX_RANK": str(self._rank)}
        try:
            self._group = mx.distributed.init(strict=True, backend="ring")
            self._sum(np.ones(1, np.uint32))
        except RuntimeError as error:
            raise OptionError(
                f"the ring of {', '.join(message['addresses'])} cannot be joined ({brief(error)}): "
                "check that the ports are free and no firewall closes them"
            ) from error
        return {"joined": self._group.size()}, b""

    def _compute(self, message: Message, payload: bytes) -> tuple[Message, Payload] | None:
        """Compute this rank's experts of a layer, and take part in the sum of all."""
        assert self._share is not None
        start, layer = time.perf_counter_ns(), message["layer"]
        self._answer.doing = f"computes layer {layer}"
        self._events.clear()
        self._failure = None
        shape = message["ids"]
        nbytes = 4 * int(np.prod(shape))
        ids = np.frombuffer(payload, np.int32, nbytes // 4).reshape(shape).astype(np.int64)
        x = memoryview(payload)[nbytes:]
        experts = np.unique(ids).tolist()
        inputs = inputs_of(message, x, ids)
        try:
            if layer == 0 and (reason := self._share.reader.changed()):
                raise CheckpointChanged(f"{reason}: load the model again")
            output = self._share.compute(layer, inputs)
        except OutlierError as error:
            self._failure = error
            output = self._share.nothing(layer, inputs)
        words, dtype = to_words(output)
        report = self._report(message, ids, experts, start)
        self._answer.doing = "sums"
        total = self._sum(np.concatenate([words, report]))
        if self._rank:
            return None
        described = {"nbytes": output.nbytes, "dtype": dtype, "shape": list(output.shape)}
        return described, total.tobytes()

    def _report(
        self, message: Message, ids: npt.NDArray[Any], experts: Sequence[int], start: int
    ) -> Words:
        waits = [event for event in self._events if isinstance(event, Waited)]
        own = [
            layer_report.check_word(message["call"], message["layer"], experts),
            int(self._failure is not None),
            (time.perf_counter_ns() - start) // 1000,
            sum(each.ns for each in waits) // 1000,
            sum(each.install_ns for each in waits) // 1000,
            sum(isinstance(event, PagedIn) for event in self._events),
        ]
        return layer_report.written(self._ranks, self._rank, own, experts, self._events, start)

    def _sum(self, words: Words) -> Words:
        """The sum over all ranks; this process ends if a neighbour is lost."""
        try:
            total = mx.distributed.all_sum(mx.array(words), group=self._group, stream=mx.cpu)
            mx.eval(total)
        except RuntimeError:
            os._exit(LOST_RING)
        return np.array(total)

    def _why(self, message: Message, payload: bytes) -> tuple[Message, Payload]:
        """Why the newest computation failed here."""
        failure = self._failure or OutlierError("nothing failed")
        return _as_answer(failure), b""

    def _resize(self, message: Message, payload: bytes) -> tuple[Message, Payload]:
        assert self._share is not None
        self._answer.doing = "resizes its cache"
        self._share.resize(message["cache_gb"], message["cache_experts"])
        return self._share.words(), b""

    def _resident(self, message: Message, payload: bytes) -> tuple[Message, Payload]:
        assert self._share is not None
        return {"resident": self._share.resident(), "process_nbytes": process_nbytes()}, b""


def serve(next_command: Callable[[], tuple[Message, bytes]], answer: Any) -> None:
    """Do the commands as they come, on this thread, which MLX's arrays belong to."""
    worker = RankWorker(answer)
    answer.doing = ""
    while True:
        worker.take(*next_command())


def _as_answer(error: OutlierError) -> Message:
    """An error as a message: the nearest of our classes, and its text."""
    return {"error": str(error), "kind": type(error).__name__}


__all__ = ["RankWorker", "serve"]
