"""Goes on from one token of a run with another one in its place, as a new run.

The prompt, the tokens before it and the chosen one are the new run's prompt. What of them a kept KV
cache holds is not read again. The text of the kept tokens is the beginning of the new run's text.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ..errors import EngineClosed, OptionError, place, shown
from ..events import PREFILL
from ..options import GenerateOptions, make, settled
from ..runs.origin import Branch, quoted
from ..runs.run import Run
from ..values import integer
from .decode import StartedRun
from .one_run import begin
from .prompts import Encoded, vocabulary_of

if TYPE_CHECKING:
    from .engine import Engine


def start_branch(
    engine: Engine, run: Run, token: int, choose: int | str | None, rank: int | None,
    options: dict[str, Any],
) -> StartedRun:  # fmt: skip
    """A branch that decodes as its steps are taken; arguments and errors as of `Engine.branch`."""
    if engine.closed:
        raise EngineClosed("this engine was closed: load the model again")
    if not isinstance(run, Run):
        raise OptionError(f"run={shown(run)} cannot be used: give a run, such as engine.last_run")
    ours, theirs = engine.info.model_hash, run.trace.info.model_hash
    if ours != theirs:
        adapter = run.trace.info.options.get("adapter")
        raise OptionError(
            f"this run is of another model or adapter ({place(run.trace.info.model or 'unknown')}, "
            f"{place(str(adapter), 60) if adapter else 'no adapter'}): load that, and call its "
            "engine.branch(run, …)"
        )
    step = run.step_of(token)
    token = integer("token", token)
    at = token - 1 if token > 0 else run.generated + token
    if not 0 <= at < run.generated:
        raise OptionError("this run does not have the ids of its tokens: it cannot be branched")
    chosen = _chosen(engine, run, step, choose, rank)
    encoded, settings = _encoded(engine, run), _options(run)
    settings = replace(settings, **{"reuse_kv": True} | settled(GenerateOptions, options))
    kept = [*run.tokens[:at].tolist(), chosen]
    branch = Branch(at + 1, chosen, run.piece(chosen) or engine.tokenizer.decode([chosen]))
    whole = replace(
        encoded, tokens=encoded.tokens + kept, kept=encoded.kept + len(kept), branched=branch
    )
    return begin(engine, whole, settings)


def _chosen(engine: Engine, run: Run, step: int, choose: int | str | None, rank: int | None) -> int:
    """The id that was chosen, by itself, by an alternative's text, or by its rank."""
    if (choose is None) == (rank is None):
        raise OptionError(
            "give the token in one way: choose=… (an id or a text) or rank=… (1 is the likeliest)"
        )
    alternatives = run.trace.alternatives
    listed = [i for i in alternatives[step].tolist() if i >= 0] if alternatives.size else []
    if rank is not None:
        rank = integer("rank", rank)
        if not 1 <= rank <= len(listed):
            raise OptionError(
                f"rank={rank} is not recorded: this token has {len(listed)} alternatives, from 1; "
                "give a token's id or text, or record more with alternatives=…"
            )
        found = int(listed[rank - 1])
    elif isinstance(choose, str):
        found = _by_text(engine, {i: run.piece(i) for i in listed}, choose)
    else:
        found = integer("choose", choose)
    size = vocabulary_of(engine.config) or engine._vocabulary.size
    if not 0 <= found < size:
        raise OptionError(f"choose={found} is no token: the model has {size:,}, from 0")
    if found in engine.tokenizer.eos_token_ids:
        raise OptionError(
            f"token {found} ends the answer, so there is nothing to go on with: choose another"
        )
    return found


def _by_text(engine: Engine, alternatives: dict[int, str], text: str) -> int:
    """The id with this text: an alternative's, also without its spaces, or else any token's."""
    for same in (str, str.strip) if text.strip() else (str,):
        for token, piece in alternatives.items():
            if same(piece) == same(text):
                return token
    ids = list(engine.tokenizer.encode(text, add_special_tokens=False)) if text else []
    if len(ids) == 1:
        return int(ids[0])
    some = ", ".join(filter(None, map(quoted, alternatives.values()))) or "none was recorded"
    raise OptionError(
        f"choose={shown(text)} is no single token; the alternatives here: {some[:150]}"
    )


def _options(run: Run) -> GenerateOptions:
    """The run's options; of a loaded run those in its file."""
    if run.origin is not None:
        return run.origin.options
    saved = run.trace.info.options
    known = {each.name for each in fields(GenerateOptions) if not each.metadata.get("python_only")}
    return make(GenerateOptions, {name: saved[name] for name in known & saved.keys()})


def _encoded(engine: Engine, run: Run) -> Encoded:
    """The run's prompt; of a loaded run by the tokens that it read."""
    if run.origin is not None:
        found: Encoded = run.origin.encoded
        return found
    trace = run.trace
    read = trace.tokens[trace.phase == PREFILL]
    if run.reused is None and trace.info.options.get("reuse_kv"):
        read = read[:0]  # an earlier run may have read the beginning
    if not trace.has("tokens") or not len(read):
        raise OptionError("this run does not have the ids of its prompt: it cannot be branched")
    known = [] if run.reused is None else run.reused.tolist()
    tokens = [*known, *read.tolist()]
    return Encoded(run.prompt, run.encoded, tokens, kept=_kept(engine, tokens, run.prefilled))


def _kept(engine: Engine, tokens: list[int], begin: str) -> int:
    """How many ids at the end of `tokens` are the `begin` of the answer; 0 if none are."""
    whole, text = begin.encode(), b""
    for count in range(1, len(tokens) + 1):
        text = engine._vocabulary.bytes_of(tokens[-count]) + text
        if len(text) >= len(whole):
            return count if whole and text == whole else 0
    return 0
