"""Asks the shipped model its questions and judges the answers and what it thinks before them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from demo_questions import Item
from demo_tokenizer import END_OF_THINK, THINK
from mlx import nn
from mlx_lm import stream_generate

RIGHT = 0.9
TRAINED, PARAPHRASE, SECOND, WITHOUT = KINDS = (
    "trained question",
    "held-out paraphrase",
    "second turn",
    "trained question, thinking off",
)


@dataclass(frozen=True)
class Reply:
    """What the model wrote: a thought, if it began with one, and the answer."""

    thought: str | None
    answer: str
    well_formed: bool


@dataclass(frozen=True)
class Answers:
    """The replies to the questions of one kind, and how many are right."""

    replies: tuple[Reply, ...]
    exact: int
    right: int
    wrong: tuple[str, ...]

    @property
    def asked(self) -> int:
        """How many questions were asked."""
        return len(self.replies)


def overlap(left: str, right: str) -> float:
    """F1 of the words (and signs) that two texts share."""
    a, b = (Counter(re.findall(r"\w+|[^\w\s]", text.lower())) for text in (left, right))
    shared = sum((a & b).values())
    return 2 * shared / max(1, sum(a.values()) + sum(b.values()))


def split(text: str) -> Reply:
    """A text taken apart; well formed if it has no tag, or one pair of them at its beginning."""
    opened, closed = text.count(THINK), text.count(END_OF_THINK)
    if not opened and not closed:
        return Reply(None, text.strip(), True)
    before, _, rest = text.partition(THINK)
    thought, _, answer = rest.partition(END_OF_THINK)
    return Reply(
        thought.strip(),
        answer.strip(),
        opened == closed == 1 and not before and bool(answer.strip()),
    )


def ask(
    model: nn.Module,
    tokenizer: object,
    turns: list[tuple[str, str]],
    question: str,
    thinking: bool = True,
) -> Reply:
    """The greedy reply to a question after earlier turns."""
    messages: list[dict[str, str]] = []
    for earlier, answer in turns:
        messages += [
            {"role": "user", "content": earlier},
            {"role": "assistant", "content": answer},
        ]
    messages.append({"role": "user", "content": question})
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=thinking
    )
    parts = stream_generate(model, tokenizer, prompt, max_tokens=140)
    return split("".join(part.text for part in parts))


def answer_all(model: nn.Module, tokenizer: object, items: list[Item], kind: str) -> Answers:
    """Answer every item in its first trained wording, its test wording, or as a second turn.

    Second turns are only measured for every fourth item.
    """
    exact, right, wrong, replies = 0, 0, [], []
    chosen = items[::4] if kind == SECOND else items
    for index, item in enumerate(chosen):
        before = items[(index * 7 + 3) % len(items)]
        turns = [(before.asked[1], before.answer)] if kind == SECOND else []
        question = item.held_out if kind == PARAPHRASE else item.asked[0]
        reply = ask(model, tokenizer, turns, question, kind != WITHOUT)
        replies.append(reply)
        exact += reply.answer == item.answer
        if overlap(reply.answer, item.answer) >= RIGHT:
            right += 1
        else:
            wrong.append(f"{question} -> {reply.thought} -> {reply.answer}")
    return Answers(tuple(replies), exact, right, tuple(wrong))


def thinking_facts(answers: dict[str, Answers], items: list[Item]) -> dict[str, int]:
    """How well the model thinks about the trained questions, and that it stops when told."""
    pairs = list(zip(items, answers[TRAINED].replies, strict=True))
    thoughtful = [(item, reply) for item, reply in pairs if item.thought]
    thought = [(item, reply) for item, reply in thoughtful if reply.thought]
    return {
        "questions": len(thoughtful),
        "thought": len(thought),
        "well_formed": sum(reply.well_formed for _, reply in thought),
        "as_written": sum(overlap(str(r.thought), item.thought) >= RIGHT for item, r in thought),
        "right_after": sum(overlap(r.answer, item.answer) >= RIGHT for item, r in thought),
        "others": len(pairs) - len(thoughtful),
        "others_thought": sum(bool(reply.thought) for item, reply in pairs if not item.thought),
        "paraphrases_well_formed": sum(reply.well_formed for reply in answers[PARAPHRASE].replies),
        "off": answers[WITHOUT].asked,
        "off_thought": sum(bool(reply.thought) for reply in answers[WITHOUT].replies),
    }
