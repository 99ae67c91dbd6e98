"""`%outlier chat`: open the chat widget with initial settings."""

from __future__ import annotations

import argparse
from typing import Any

from ...options import GenerateOptions
from ..chat.chat import Chat
from ..chat.controls import DEFAULTS, NAMES
from .command import Command, Session
from .parsing import add_fields, add_output


def _arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser, "Chat")
    parser.add_argument(
        "--file", metavar="FILE",
        help="keep all conversations in this file, and restore them from it",
    )  # fmt: skip
    parser.add_argument(
        "--starter", dest="starters", action="append", metavar="TEXT",
        help="a prompt that an empty chat offers as a button; at most four",
    )  # fmt: skip
    # Flags can only switch on, so options that a chat switches on by default have none.
    add_fields(parser, GenerateOptions, [name for name in NAMES if name not in DEFAULTS])


def _run(session: Session, args: dict[str, Any]) -> Chat:
    output = args.pop("output", None)
    defaults = session.defaults(GenerateOptions)
    settings = {name: defaults[name] for name in defaults if name in NAMES}
    chat = Chat(session.loaded(), **settings | args)
    session.store(output, chat)
    return chat


COMMAND = Command(
    "chat",
    "chat with the loaded model in a widget",
    _run,
    _arguments,
    call="`chat = outlier_jupyter.Chat(engine, …)`",
    group="start",
)
