"""How a model marks thinking and tool calls: tags or channels, and mlx-lm's machine for them.

mlx-lm infers a tokenizer's tags and makes a `TextStateMachine` of them, which finds them in text
however tokens split it. It knows neither the channels of gpt-oss, nor tags that are no tokens of
their own, nor DeepSeek's tool calls: those are added here, in the form that it takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlx_lm.generate import TextStateMachine, make_text_state_machine

from ..trace.segments import ANSWER, TEMPLATE, THINKING, TOOL_CALL

NORMAL, REASONING, TOOL, HEADER, BEGIN = "normal", "reasoning", "tool", "header", "begin"
"""States of mlx-lm's machine. `header` is what stands before a message in a channel; `begin` is
where the prompt ends within a header, after which a model may also just answer."""
KIND_OF_STATE = {NORMAL: ANSWER, BEGIN: ANSWER, REASONING: THINKING, TOOL: TOOL_CALL}
"""The kind of a state's text; that of all other states is template."""

Transitions = dict[str, list[tuple[str, str]]]

CHANNELS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
_ENDS = [(word, HEADER) for word in ("<|end|>", "<|call|>", "<|return|>", "<|start|>")]
_CALLS = [(f" to={name}", TOOL) for name in ("functions.", "browser.", "python", "container.")]
_HEADERS = [
    ("<|channel|>analysis", "analysis"),
    ("<|channel|>final", "final"),
    ("<|channel|>commentary", "commentary"),
    ("<|message|>", NORMAL),
    *_CALLS,
]
HARMONY: Transitions = {
    BEGIN: [*_HEADERS, *_ENDS],
    HEADER: _HEADERS,
    "analysis": [("<|message|>", REASONING), *_CALLS],
    "commentary": [("<|message|>", NORMAL), *_CALLS],
    "final": [("<|message|>", NORMAL)],
    REASONING: _ENDS,
    NORMAL: _ENDS,
    TOOL: _ENDS,
}
"""gpt-oss's channels. A call's text begins with its function's name, and holds the rest of its
header: `get_weather <|constrain|>json<|message|>{…}`."""

WRITTEN_TAGS = (
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<thinking>", "</thinking>"),
)
"""Tags that mlx-lm does not infer: of several tokens, or of models that it knows without them."""
WRITTEN_CALLS = (
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("<tool_call>", "</tool_call>"),
)
"""Tags of calls that mlx-lm has no parser for, or does not infer."""


@dataclass(frozen=True)
class Dialect:
    """A model's tags; the names are those that mlx-lm's `make_text_state_machine` reads.

    Attributes:
        initial: the state in which an answer begins, unless the prompt opens a block of thinking.
        opening, closing: texts that begin a block of thinking, and end it with the answer next.
        instead: a text after the prompt that begins the answer without thinking.
    """

    think_start: str | None = None
    think_end: str | None = None
    tool_call_start: str | None = None
    tool_call_end: str | None = None
    structural_markers: tuple[str, ...] = ()
    response_transitions: Transitions = field(default_factory=dict)
    initial: str = NORMAL
    opening: str = ""
    closing: str = ""
    instead: str = ""

    @property
    def has_thinking(self) -> bool:
        """Whether thinking has one tag at its begin and one at its end."""
        return self.think_start is not None

    @property
    def thinks(self) -> bool:
        """Whether the model marks its thinking, in tags or in a channel."""
        return bool(self.closing)

    @property
    def has_tool_calling(self) -> bool:
        """Whether tool calls have a tag."""
        return self.tool_call_start is not None

    def machine(self) -> TextStateMachine:
        """mlx-lm's machine for these tags."""
        return make_text_state_machine(self)


def kind_of(state: str | None) -> int:
    """The kind of text in a state of the machine."""
    return KIND_OF_STATE.get(state or "", TEMPLATE)


def dialect_of(tokenizer: Any) -> Dialect:
    """The dialect of mlx-lm's wrapper of a tokenizer; one without tags if it cannot be read."""
    try:
        return _dialect(tokenizer)
    except Exception:  # a tokenizer may be foreign code, and tags are no reason to fail
        return Dialect()


def _dialect(tokenizer: Any) -> Dialect:
    own = dict(tokenizer.response_transitions)
    if own:  # a format of several messages with headers
        to_user = "<|eom|><|start|>assistant to=user<|message|>"
        return Dialect(
            tool_call_start=tokenizer.tool_call_start,
            tool_call_end=tokenizer.tool_call_end,
            response_transitions=own,
            initial=tokenizer.response_initial_state or NORMAL,
            opening=" to=self<|message|>",
            closing=to_user,
            instead=" to=user<|message|>",
        )
    if all(_is_token(tokenizer, word) for word in CHANNELS):
        return Dialect(
            response_transitions=HARMONY,
            initial=BEGIN,
            opening="<|channel|>analysis<|message|>",
            closing="<|end|><|start|>assistant<|channel|>final<|message|>",
            instead="<|channel|>final<|message|>",
        )
    start, end = tokenizer.think_start, tokenizer.think_end
    if start is None:
        start, end = _written_tags(tokenizer)
    call, call_end = tokenizer.tool_call_start, tokenizer.tool_call_end
    if call is None:
        known = (pair for pair in WRITTEN_CALLS if _is_token(tokenizer, pair[0]))
        call, call_end = next(known, (None, None))
    return Dialect(
        think_start=start,
        think_end=end,
        tool_call_start=call,
        tool_call_end=call_end,
        structural_markers=tuple(tokenizer.structural_markers),
        opening=f"{start}\n" if start else "",
        closing=end or "",
        instead=f"{start}\n\n{end}\n\n" if start else "",
    )


def _is_token(tokenizer: Any, word: str) -> bool:
    """Whether a word is one token; `get_vocab` would make a dictionary of 200,000."""
    number = tokenizer.convert_tokens_to_ids(word)
    return number is not None and tokenizer.convert_ids_to_tokens(number) == word


def _written_tags(tokenizer: Any) -> tuple[str | None, str | None]:
    template = template_text(tokenizer)
    for start, end in WRITTEN_TAGS:
        if end in template or _is_token(tokenizer, end):
            return start, end
    return None, None


def template_text(tokenizer: Any) -> str:
    """The source of the chat template; "" if it is a function, or there is none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        return "\n".join(str(each) for each in template.values())
    return template if isinstance(template, str) else ""
