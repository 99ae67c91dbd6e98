"""A rank does what is on its list, and nothing else that it is sent."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from outlier_jupyter.engine.rank_worker import RankWorker

OTHERS = ["exec", "eval", "__init__", "take", "serve", "LOAD", "load ", "", None, 7, ["load"],
          {"load": 1}]  # fmt: skip


class Answer(SimpleNamespace):
    """Keeps what a rank answers."""

    def __call__(self, message, payload=b""):
        self.sent.append(message)


@pytest.mark.parametrize("name", OTHERS, ids=repr)
def test_what_is_no_command_is_refused(name):
    """Methods and code that are named are not called; the answer is one sentence."""
    answer = Answer(sent=[], doing="")
    RankWorker(answer).take({"do": name, "call": 3, "code": "raise SystemExit"}, b"")
    [message] = answer.sent
    assert message["call"] == 3 and "is no command of a rank" in message["error"]
