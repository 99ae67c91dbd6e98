"""What a saved notebook shows of a chat, with no kernel and no script: HTML, Markdown and text.

A widget whose kernel is gone shows nothing, and no front end falls back to another form of the
same output. So the chat has a second output beside its widget, which is kept up to date and which
the widget hides for as long as it lives. Pure: conversations go in, a bundle comes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from ..units import percent, three
from .conversation import ASSISTANT, RUNNING, Conversations, Message
from .outline import newest
from .static_view.page import STYLE

KEPT_CHARS = 100_000
"""Text kept of the conversation that is read: it is in the file three times."""

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
HIDE_DEAD = (
    ".jp-OutputArea:has(.oj-transcript)>.jp-OutputArea-child:has(>"
    '[data-mime-type="application/vnd.jupyter.widget-view+json"]:not(:has(*))){display:none}'
)


def bundle(model: str, books: Conversations, name: str) -> dict[str, str]:
    """The current conversation as text/html, text/markdown and text/plain.

    Args:
        model: the model's name.
        name: a class of the HTML's root, by which the live widget finds and hides it.
    """
    path = books.current.path()
    shown = newest(path, KEPT_CHARS)
    if not shown:
        return {"text/html": f'<div class="oj-transcript {name}"></div>', "text/plain": ""}
    others = len(books.by_id) - 1
    left_out = len(path) - len(shown)
    notes = [f"chat, {len(path)} messages"]
    notes += [f"the first {left_out} are not shown"] if left_out else []
    notes += [f"{others} more conversation{'s' * (others > 1)} not shown"] if others else []
    return {
        "text/html": _html(model, notes, shown, name, books.current.system),
        "text/markdown": _markdown(model, notes, shown, books.current.system),
        "text/plain": "\n\n".join(
            f"{_who(message)}: {message.text}{_aside(message, ' [{}]')}" for message in shown
        ),
    }


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


def _html(model: str, notes: list[str], shown: list[Message], name: str, system: str) -> str:
    parts = [
        f'<div class="oj-static oj-transcript {name}"><style>{STYLE}{HIDE_DEAD}</style>',
        f'<p class="oj-head"><strong>{escape(model)}</strong> '
        f'<span class="oj-soft">{escape(" · ".join(notes))}</span></p>',
    ]
    if system:
        parts.append(_block("System prompt", system))
    for message in shown:
        label = _who(message) + escape(_aside(message, " · {}"))
        parts.append(_block(label, message.text or "(no text)"))
    return "\n".join([*parts, "</div>"])


def _block(label: str, text: str) -> str:
    # The attribute is for hosts that drop <style> and keep this.
    pre = f'<pre style="white-space:pre-wrap">{escape(text)}</pre>'
    return f'<span class="oj-label">{label}</span>{pre}'


def _markdown(model: str, notes: list[str], shown: list[Message], system: str) -> str:
    parts = [f"**{_words(model)}** · {' · '.join(notes)}"]
    if system:
        parts.append(f"*System prompt*\n\n{_verbatim(system)}")
    parts += [
        f"**{_who(message)}**{_aside(message, ' · {}', _words)}\n\n{_verbatim(message.text)}"
        for message in shown
    ]
    return "\n\n".join(parts)


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
