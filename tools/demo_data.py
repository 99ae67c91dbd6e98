"""Batches: the text of each training step, determined by the seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from demo_corpus import CHAT_SHARE, DOMAINS, Document
from demo_questions import Item, Turn, conversation
from demo_tokenizer import END_OF_TEXT, END_OF_TURN, NO_THINKING, TURN, thinking
from tokenizers import Tokenizer

IGNORED = -100
NOT_THINKING, CUT_SHORT = 0.25, 0.06


def stream(tokenizer: Tokenizer, documents: list[Document]) -> np.ndarray:
    """All documents as one row of tokens, each closed by the end-of-text token."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    encodings = tokenizer.encode_batch_fast([document.text for document in documents])
    return np.concatenate([np.array([*e.ids, end], dtype=np.uint16) for e in encodings])


def reply(
    turn: Turn, last: bool, rng: random.Random, add: Callable[[str, int | None], None]
) -> None:
    """What the assistant's turn holds, as the chat template and the model write it together.

    In earlier turns the template has dropped the thinking: their answers are learnt, but not that
    the turn begins with them.  The last turn is sometimes one without thinking, where the template
    writes an empty block, and now and then one whose thinking was cut short from outside.
    """
    if not last:
        add(f"{turn.answer}{END_OF_TURN}", 1 if turn.thought else 0)
        return
    chance = rng.random()
    if chance < NOT_THINKING:
        add(NO_THINKING, None)
    elif turn.thought and chance < NOT_THINKING + CUT_SHORT:
        words = turn.thought.split(" ")
        add(thinking(" ".join(words[: rng.randrange(1, len(words))])), None)
    elif turn.thought:
        add(thinking(turn.thought), 0)
    add(f"{turn.answer}{END_OF_TURN}", 0)


@dataclass
class Batches:
    """Draws rows of all domains and of conversations in fixed shares."""

    tokenizer: Tokenizer
    streams: dict[str, np.ndarray]
    items: list[Item]
    seed: int

    def _chat_row(self, length: int, rng: random.Random) -> tuple[list[int], list[int]]:
        """Whole conversations until the row is full; only what the model writes counts."""
        tokens: list[int] = []
        targets: list[int] = []

        def add(text: str, silent: int | None) -> None:
            """``text``, of which the first ``silent`` tokens (None: all) do not count."""
            ids = self.tokenizer.encode(text).ids
            silent = len(ids) if silent is None else silent
            tokens.extend(ids)
            targets.extend([IGNORED] * silent + ids[silent:])

        while len(tokens) <= length:
            turns = conversation(self.items, rng)
            for number, turn in enumerate(turns, 1):
                add(f"{TURN}user\n{turn.question}{END_OF_TURN}\n{TURN}assistant\n", None)
                reply(turn, number == len(turns), rng, add)
                add("\n", None)
            add(END_OF_TEXT, None)
        return tokens[: length + 1], targets[: length + 1]

    def batch(
        self, step: int, rows: int, length: int, chat: float = CHAT_SHARE
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets ``[rows, length]``; ``chat`` is the share of conversations."""
        rng = random.Random(f"{self.seed}-{step}")
        names = [domain.name for domain in DOMAINS] + ["chat"]
        others = (1.0 - chat) / (1.0 - CHAT_SHARE)
        shares = [domain.share * others for domain in DOMAINS] + [chat]
        inputs = np.empty((rows, length), dtype=np.int64)
        targets = np.empty((rows, length), dtype=np.int64)
        for row, name in enumerate(rng.choices(names, shares, k=rows)):
            if name == "chat":
                tokens, wanted = self._chat_row(length, rng)
                inputs[row], targets[row] = tokens[:-1], wanted[1:]
            else:
                source = self.streams[name]
                start = rng.randrange(len(source) - length - 1)
                window = source[start : start + length + 1]
                inputs[row], targets[row] = window[:-1], window[1:]
        return inputs, targets
