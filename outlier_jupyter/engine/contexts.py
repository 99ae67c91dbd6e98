"""Contexts on disk: the beginning of prompts, read once, with its tokens and its KV cache.

`save_context` writes one; a run with `context` goes on from it. A file may come from a stranger, so
`kv_check` looks at all of it before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.models.cache import load_prompt_cache

from ..errors import CheckpointError, OptionError, brief, place, shown
from ..formatting import count, size_words
from ..options import GenerateOptions
from ..paging.probe import KVPart
from ..system import files
from .kv_cache import KVCache
from .kv_check import check_file, check_parts
from .prompts import Prompt, as_prompt

if TYPE_CHECKING:
    from .engine import Engine

BREAK = "\n\n"
"""Stands between a context and the text that goes on with it in one message."""
SAME = (
    "raw", "kv_bits", "kv_group_size", "quantized_kv_start", "max_kv_size", "mask", "boost",
    "force", "top_k", "router_temperature",
)  # fmt: skip
"""Options that a KV cache depends on; a run that goes on has those of the context."""
SAME_ALWAYS = {*SAME} - {"kv_group_size", "quantized_kv_start"}
"""Those of them that every file has."""


@dataclass(frozen=True)
class Context:
    """A context in a file.

    Attributes:
        path: the file.
        prompt: what was read: a text, or messages.
        tokens: its ids.
        nbytes: the file's size.
        model_hash: of the model that read it.
        options: those that its KV cache depends on, and whose `kernels` made it.
    """

    path: Path
    prompt: Prompt
    tokens: list[int]
    nbytes: int
    model_hash: str
    options: dict[str, Any]

    def __repr__(self) -> str:
        return (
            f"Context({count(len(self.tokens), 'token')}, {size_words(self.nbytes)}, in "
            f"{place(self.path)}: go on from it with context={str(self.path)!r})"
        )

    def before(self, prompt: Prompt) -> Prompt:
        """`prompt` behind this context: in the same message, or as the next one."""
        raw = self.options["raw"]
        if raw and not isinstance(prompt, str):
            raise OptionError(
                f"the context in {place(self.path)} is plain text, and this prompt is messages: "
                "give a text"
            )
        return joined(self.prompt, prompt, "" if raw else BREAK)

    def load(self, parts: Sequence[KVPart]) -> KVCache:
        """The KV cache, for a model whose cache has these parts.

        Raises:
            OptionError: the file cannot be read, is damaged, or does not fit the model.
        """
        try:
            check_file(self.path)
            kv: KVCache = load_prompt_cache(str(self.path))
            check_parts(kv, parts, len(self.tokens))
            mx.eval([layer.state for layer in kv])
        except OptionError:
            raise
        except Exception as error:  # of a file's making
            raise _damaged(self.path, brief(error)) from error
        return kv


def joined(context: Prompt, prompt: Prompt, between: str) -> Prompt:
    """One prompt of both; a text goes on with a message of the user's."""
    if isinstance(context, str) and isinstance(prompt, str):
        return context + between + prompt
    first, rest = _messages(context), _messages(as_prompt(prompt))
    if first[-1].get("role") == "user" == rest[0].get("role"):
        texts = [each.get("content") for each in (first[-1], rest[0])]
        if all(isinstance(each, str) for each in texts):
            both = {**first[-1], "content": between.join(map(str, texts))}
            return [*first[:-1], both, *rest[1:]]
    return [*first, *rest]


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def kind_of(engine: Engine, settings: GenerateOptions) -> dict[str, Any]:
    """What a KV cache depends on besides the model and the tokens, as JSON would return it."""
    found = {name: getattr(settings, name) for name in SAME}
    found["top_k"] = settings.top_k or engine.options.top_k
    if settings.kv_bits is None:
        del found["kv_group_size"], found["quantized_kv_start"]
    known: dict[str, Any] = json.loads(json.dumps({**found, "kernels": engine.info.kernels}))
    return known


def open_context(path: str) -> Context:
    """A context from its file, without its KV cache.

    Raises:
        OptionError: the file is missing, or is no context.
    """
    at = Path(path)
    try:
        nbytes = files.regular(at).stat().st_size
        check_file(at)
        loaded: Any = mx.load(str(at), return_metadata=True)
        flat = loaded[1]
        found = {name[2:]: value for name, value in flat.items() if name.startswith("0.")}
        tokens, prompt = json.loads(found["tokens"]), json.loads(found["prompt"])
        options = json.loads(found["options"])
    except OSError as error:
        raise OptionError(
            f"{place(at)} cannot be read ({error.strerror or error}): give a file that "
            "engine.save_context wrote"
        ) from None
    except CheckpointError as error:
        raise _damaged(at, str(error)) from None
    except Exception as error:  # of a file's making
        raise _damaged(at, brief(error)) from error
    whole = isinstance(tokens, list) and all(type(each) is int and each >= 0 for each in tokens)
    if not (tokens and whole and isinstance(options, dict) and options.keys() >= SAME_ALWAYS):
        raise _damaged(at, "its tokens or options are missing")
    return Context(at, as_prompt(prompt), tokens, nbytes, found.get("model_hash", ""), options)


def context_for(engine: Engine, path: str, settings: GenerateOptions) -> Context:
    """The context of a file, for a run of `engine` with these options.

    Raises:
        OptionError: it is another model's, or was read with other options.
    """
    if settings.score_prompt:
        raise OptionError(
            "score_prompt reads the whole prompt, and context leaves its beginning out: leave one "
            "of them out"
        )
    if settings.system is not None:
        raise OptionError("system stands before the context, which was read already: leave it out")
    found = open_context(path)
    if found.model_hash != engine.info.model_hash:
        raise OptionError(
            f"the context in {place(found.path)} is of another model or adapter than "
            f"{place(engine.info.model)}: load that, or save the context again with this one"
        )
    wanted = kind_of(engine, settings)
    for name in sorted(wanted.keys() | found.options.keys()):
        here, there = wanted.get(name), found.options.get(name)
        if here != there:
            raise OptionError(
                f"the context in {place(found.path)} was read with {name}={shown(there)}, and this "
                f"run has {name}={shown(here)}: use the same, or save the context again"
            )
    return found


def _damaged(path: Path, reason: str) -> OptionError:
    return OptionError(
        f"{place(path)} is no context, or is damaged ({reason}): give a file that "
        "engine.save_context wrote"
    )
