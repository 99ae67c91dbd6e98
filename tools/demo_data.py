"""Batches: the text of each training step, determined by the seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from demo_corpus import CHAT_SHARE, DOMAINS, Document
from demo_questions import Item, conversation
from demo_tokenizer import END_OF_TEXT, END_OF_TURN, TURN
from tokenizers import Tokenizer

IGNORED = -100


def stream(tokenizer: Tokenizer, documents: list[Document]) -> np.ndarray:
    """All documents as one row of tokens, each closed by the end-of-text token."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    encodings = tokenizer.encode_batch_fast([document.text for document in documents])
    return np.concatenate([np.array([*e.ids, end], dtype=np.uint16) for e in encodings])


@dataclass
class Batches:
    """Draws rows of all domains and of conversations in fixed shares."""

    tokenizer: Tokenizer
    streams: dict[str, np.ndarray]
    items: list[Item]
    seed: int

    def _chat_row(self, length: int, rng: random.Random) -> tuple[list[int], list[int]]:
        """Whole conversations until the row is full; only answers count in the loss."""
        tokens: list[int] = []
        targets: list[int] = []

        def add(text: str, counts: bool) -> None:
            ids = self.tokenizer.encode(text).ids
            tokens.extend(ids)
            targets.extend(ids if counts else [IGNORED] * len(ids))

        while len(tokens) <= length:
            for question, answer in conversation(self.items, rng):
                add(f"{TURN}user\n{question}{END_OF_TURN}\n{TURN}assistant\n", counts=False)
                add(f"{answer}{END_OF_TURN}", counts=True)
                add("\n", counts=False)
            add(END_OF_TEXT, counts=False)
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
