"""A rank's program, `python -m outlier_jupyter.worker`: it takes commands from its standard input.

Pings are answered while the rank computes. When the input ends, because the driving process has
ended or closed the model, the rank ends at once.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from importlib import import_module
from queue import SimpleQueue
from typing import Any

from .distributed.messages import Message, Payload, packed, read_messages, write_all


class Answers:
    """Writes whole messages to the driving process, from any thread.

    Attributes:
        doing: what the rank does now, for pings.
    """

    def __init__(self, descriptor: int) -> None:
        self.doing = "starts"
        self._descriptor, self._lock = descriptor, threading.Lock()

    def __call__(self, message: Message, payload: Payload = b"") -> None:
        """Write one message."""
        with self._lock:
            write_all(self._descriptor, packed(message, payload))
            write_all(self._descriptor, payload)


def main() -> None:
    """Serve until the input ends."""
    output = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not get between the messages
    answers = Answers(output)
    commands: SimpleQueue[tuple[Message, bytes]] = SimpleQueue()
    threading.Thread(target=_receive, args=(answers, commands), daemon=True).start()
    serve: Any = import_module("outlier_jupyter.engine.rank_worker").serve
    serve(commands.get, answers)


def _receive(answers: Answers, commands: SimpleQueue[tuple[Message, bytes]]) -> None:
    """Answer pings, queue all else; end the process with the input, or with what is no message."""
    try:
        for message, payload in read_messages(0):
            if message.get("do") == "ping":
                answers({"pong": answers.doing})
            else:
                commands.put((message, payload))
    except Exception as error:
        # Over ssh, standard error is gone with the connection, as the output is.
        with suppress(OSError):
            sys.stderr.write(f"{error}\n")
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
