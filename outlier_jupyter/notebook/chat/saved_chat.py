"""What a saved notebook shows of a chat, with no kernel and no script: HTML, Markdown and text.

A widget whose kernel is gone shows nothing, and no front end falls back to another form of the
same output. So the chat has a second output beside its widget, which is kept up to date and which
the widget hides for as long as it lives. Pure: conversations go in, a bundle comes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from html import escape

from ...formatting import percent, three
from ..render.static.page import ROOT, STYLE
from .conversations import ASSISTANT, RUNNING, Conversation, Conversations, Message
from .view_state import newest

KEPT_CHARS = 100_000
"""Characters kept of all conversations: they are in the file three times."""

ENDED = {
    RUNNING: "being written when this was saved",
    "length": "cut off at the token limit",
    "interrupted": "stopped",
    "error": "failed",
}

PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
"""What Markdown may take for markup; each may be escaped."""
SPACES = re.compile(r"\s+")

# Where JupyterLab trusts the notebook: a dead widget's place has no elements, only a sentence.
# (Within `:has` there may be no other: browsers drop such a rule.)
HIDE_DEAD = (
    ".jp-OutputArea:has(.oj-transcript) "
    '[data-mime-type="application/vnd.jupyter.widget-view+json"]:not(:has(*)){display:none}'
)


@dataclass(frozen=True)
class Shown:
    """One conversation as far as it is shown: the end of the path that is read, and its head."""

    book: Conversation
    messages: list[Message]

    @property
    def notes(self) -> list[str]:
        """How much it is, and what of it is missing."""
        whole = len(self.book.path())
        left_out, others = whole - len(self.messages), len(self.book.messages) - whole
        out = [_counted(whole, "message")]
        out += [f"the first {left_out:,} are not shown"] if left_out else []
        out += [f"{_counted(others, 'message')} of other versions not shown"] if others else []
        return out


def bundle(model: str, books: Conversations, name: str) -> dict[str, str]:
    """All conversations, the current one first, as text/html, text/markdown and text/plain.

    The newest messages of the current one are kept, and of the others what still has room.

    Args:
        model: the model's name.
        name: a class of the HTML's root, by which the live widget finds and hides it.
    """
    made = _bundle(model, books, name)
    made["text/html"] += f"<!-- {stamp_of(made)} -->"
    return made


def stamp_of(made: dict[str, str]) -> str:
    """Words that stand in the HTML of this bundle alone, before or after they were put there."""
    html = made["text/html"].partition("<!-- oj-")[0]
    return f"oj-{sha256(html.encode('utf-8', 'replace')).hexdigest()[:16]}"


def _bundle(model: str, books: Conversations, name: str) -> dict[str, str]:
    shown = _kept(books)
    if not shown:
        return {"text/html": f'<div class="oj-transcript {name}"></div>', "text/plain": ""}
    left_out = sum(bool(book.messages) for book in books.by_id.values()) - len(shown)
    notes = ["chat"]
    notes += [_counted(len(shown), "conversation")] if len(shown) > 1 else shown[0].notes
    notes += [f"{_counted(left_out, 'more conversation')} not shown"] if left_out else []
    return {
        "text/html": _html(model, notes, shown, name),
        "text/markdown": _markdown(model, notes, shown),
        "text/plain": "\n\n".join(_plain(shown)),
    }


def _kept(books: Conversations) -> list[Shown]:
    others = [each for each in reversed(books.by_id.values()) if each is not books.current]
    left, out = KEPT_CHARS, []
    for book in (books.current, *others):
        path = book.path()
        if not path or (book is not books.current and len(path[-1].text) > left):
            continue
        messages = newest(path, max(left, 0))
        left -= sum(len(message.text) for message in messages)
        out.append(Shown(book, messages))
    return out


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _how_to_go_on(model: str) -> str:
    return (
        f"To go on, run the cell that loads {model}, then this cell: it makes a new chat, and "
        "chat.load(path) adds what chat.save(path) or Export has saved."
    )


def _who(message: Message) -> str:
    return "Answer" if message.role == ASSISTANT else "You"


def _aside(message: Message, form: str, write: Callable[[str], str] = str) -> str:
    """What the numbers say of an answer, in `form`, and its note as `write` has it."""
    numbers, said = message.numbers, []
    if "generated" in numbers:
        said.append(f"{numbers['generated']:,.0f} tokens")
    if "tokens_per_second" in numbers:
        said.append(f"{three(numbers['tokens_per_second'])} tokens/s")
    said += [
        f"hit rate in {phase} {percent(numbers[name])}"
        for phase in ("decode", "prefill")
        if (name := f"{phase}_hit_rate") in numbers
    ]
    said += [ENDED[message.ended]] if message.ended in ENDED else []
    said += [write(message.note)] if message.note else []
    return form.format(" · ".join(said)) if said else ""


def _html(model: str, notes: list[str], shown: list[Shown], name: str) -> str:
    head = " · ".join(notes)
    parts = [
        f'<div class="{ROOT} oj-transcript {name}"><style>{STYLE}{HIDE_DEAD}</style>',
        f'<p class="oj-head"><strong>{escape(model)}</strong> '
        f'<span class="oj-soft">{escape(head)}</span></p>',
    ]
    for index, each in enumerate(shown):
        blocks = [_block("System prompt", each.book.system)] if each.book.system else []
        for message in each.messages:
            label = _who(message) + escape(_aside(message, " · {}"))
            blocks.append(_block(label, message.text or "(no text)"))
        if len(shown) > 1:
            title = " · ".join([each.book.label, *each.notes])
            opened = "" if index else " open"
            blocks = [
                f"<details{opened}><summary>{escape(title)}</summary>", *blocks, "</details>",
            ]  # fmt: skip
        parts += blocks
    parts.append(f'<p class="oj-soft">{escape(_how_to_go_on(model))}</p>')
    return "\n".join([*parts, "</div>"])


def _block(label: str, text: str) -> str:
    # The attribute is for hosts that drop <style> and keep this.
    pre = f'<pre style="white-space:pre-wrap">{escape(text)}</pre>'
    return f'<span class="oj-label">{label}</span>{pre}'


def _markdown(model: str, notes: list[str], shown: list[Shown]) -> str:
    parts = [f"**{_words(model)}** · {' · '.join(notes)}"]
    for each in shown:
        if len(shown) > 1:
            parts.append(f"**{_words(each.book.label)}** · {' · '.join(each.notes)}")
        if each.book.system:
            parts.append(f"*System prompt*\n\n{_verbatim(each.book.system)}")
        parts += [
            f"**{_who(message)}**{_aside(message, ' · {}', _words)}\n\n{_verbatim(message.text)}"
            for message in each.messages
        ]
    return "\n\n".join([*parts, _words(_how_to_go_on(model))])


def _plain(shown: list[Shown]) -> Iterator[str]:
    for each in shown:
        if len(shown) > 1:
            yield f"{each.book.label} ({', '.join(each.notes)})"
        for message in each.messages:
            yield f"{_who(message)}: {message.text}{_aside(message, ' [{}]')}"


def _words(text: str) -> str:
    """One line that no renderer takes for anything but words: no tag, link, image or formula."""
    return PUNCTUATION.sub(r"\\\g<0>", SPACES.sub(" ", text))


def _verbatim(text: str) -> str:
    """As a block of code, which is shown as it is: as inert as the HTML form.

    The fence is longer than any run of its own character in the text, so nothing in it can be its
    end. Every line break any renderer knows is a plain one.
    """
    lines = text.splitlines() or ["(no text)"]
    runs = {mark: max((len(r) for r in re.findall(f"{mark}+", text)), default=0) for mark in "`~"}
    mark = min("`~", key=lambda each: runs[each])
    fence = mark * max(3, runs[mark] + 1)
    return "\n".join([f"{fence}text", *lines, fence])
