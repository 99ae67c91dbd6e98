"""The options of loading and of generating: two frozen dataclasses, one field per option.

The Python API, the magic's flags and the command line are made from these fields, so each name,
default, help text and check exists once. A flag is the field's name with dashes. This module knows
neither the parsers nor the code that follows the options.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, TypeVar

from .errors import OptionError, shown
from .residency import policies
from .values import boolean, integer, items, number, path, seed, text, texts, within

AUTO = "auto"
READERS = ("pread", "direct", "mmap")
KERNELS = ("auto", "mlx")
KV_BITS = (2, 3, 4, 5, 6, 8)
KV_GROUP_SIZES = (32, 64, 128)
SWEPT = ("top_k", "cache_gb", "cache_experts", "policy", "reader")
"""The loading options that `sweep` varies."""

Options = TypeVar("Options", "LoadOptions", "GenerateOptions")
Function = TypeVar("Function", bound=Callable[..., Any])


def option(default: Any, help: str | Callable[[], str], **rules: Any) -> Any:
    """A dataclass field with its help text and its rules.

    Args:
        help: a text, or a function that makes it, as the list of policies can grow.
        rules: bounds `low`, `above` and `high`; `choices`, values or a function that gives them;
            `words`, texts allowed beside the field's type; `spell`, a function that replaces the
            type's conversion in `CONVERTERS`; `escapes`, whether a flag takes backslash escapes.
    """
    return field(default=default, metadata={"help": help, **rules})


def help_of(spec: Field[Any]) -> str:
    """The help text of an option."""
    text = spec.metadata["help"]
    return str(text() if callable(text) else text)


def choices_of(spec: Field[Any]) -> tuple[Any, ...]:
    """The allowed values of an option; empty where any value of its type is allowed."""
    choices = spec.metadata.get("choices", ())
    return tuple(choices() if callable(choices) else choices)


def expert_texts(name: str, value: Any) -> tuple[str, ...]:
    """Experts as texts: "12:37" for a pair (12, 37), "12:37=2.0" for an item of a mapping.

    Texts pass unchanged and are checked against the model later.

    Raises:
        OptionError: `value` is no text, pair, list of them or mapping.
    """
    if value is None or isinstance(value, str):
        return texts(name, value)
    if isinstance(value, Mapping):
        return texts(name, [f"{_expert(name, k)}={number(name, v)!r}" for k, v in value.items()])
    wanted = "LAYER:EXPERT, such as 12:37, or several in a list"
    return texts(name, [_expert(name, item) for item in items(name, value, wanted)])


def _expert(name: str, item: Any) -> Any:
    if isinstance(item, tuple | list) and len(item) == 2:
        return ":".join(str(integer(name, part)) for part in item)
    return item


def policy_name(name: str, value: Any) -> str:
    """A policy's name; `default` is resolved to the default policy's."""
    return policies.canonical_name(text(name, value))


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; the fields are the keyword arguments of `load`."""

    cache_gb: float | str = option(
        8.0,
        "GB (10^9 bytes) of RAM for expert weights; attention, KV caches and the rest come on top; "
        "auto takes as much as fits, as `plan` advises",
        above=0,
        words=(AUTO,),
        high=1e9,
    )
    ram_gb: float | None = option(
        None,
        "GB of RAM for the whole process, KV caches and Python included; the cache gets the "
        "remainder, instead of --cache-gb",
        above=0,
        high=1e9,
    )
    cache_experts: int | None = option(
        None, "cache exactly this many experts, instead of --cache-gb", low=1
    )
    resident: bool = option(
        False, "read all experts into RAM at load and keep them; --cache-gb is ignored"
    )
    force: bool = option(
        False,
        "skip the checks of memory and of prompt length; the system may end a process that takes "
        "too much",
    )
    kept_kv_gb: float = option(
        1.0,
        "GB of RAM for KV caches kept between runs, for --reuse-kv and chats; the least recently "
        "used is evicted first",
        low=0,
        high=1e9,
    )
    top_k: int | None = option(
        None, "experts per token, instead of the model's own number; changes the output", low=1
    )
    reader: str = option(
        "auto",
        "how experts are read: pread, direct (bypasses the page cache) or mmap (for comparison); "
        "auto takes pread below 1 GB of experts, else what a probe of the disk finds faster",
        choices=("auto", *READERS),
    )
    policy: str = option(
        policies.DEFAULT,
        policies.policy_help,
        choices=policies.policy_names,
        spell=policy_name,
    )
    warm: str | None = option(
        None, "a saved trace; the experts that it used most are read at load", spell=path
    )
    pin: tuple[str, ...] = option(
        (),
        "LAYER:EXPERT to read at load and never evict; may be repeated",
        spell=expert_texts,
    )
    repacked: str = option(
        "auto",
        "where to look for repacked experts: a folder; auto, beside the model and in the cache "
        "folder; or off",
        spell=path,
    )
    kernels: str = option(
        "auto",
        "kernels for the experts: mlx uses MLX's own, bit for bit as mlx-lm; auto uses compiled "
        "CPU kernels where MLX has no GPU",
        choices=KERNELS,
    )
    overlap: str = option(
        "auto",
        "compute resident experts while the others are read: auto, with compiled kernels and "
        "experts large enough to gain; on, always; off, never",
        choices=("auto", "on", "off"),
    )
    lookahead: str = option(
        "off",
        "prefetch the experts that the next layer's router would choose from this layer's state: "
        "auto, with compiled kernels and large experts; on, always; off, never",
        choices=("off", "auto", "on"),
    )
    read_threads: int | None = option(
        None,
        "number of parallel reads; by default 4, or what the probe finds best",
        low=1,
        high=256,
    )
    revision: str | None = option(
        None, "branch, tag or commit of a Hugging Face repository, instead of its main branch"
    )
    trust_remote_code: bool = option(
        False, "allow the model folder's own Python code to run, if the model needs it"
    )
    quiet: bool = option(False, "show no progress bars while the model is downloaded or read")

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True)
class GenerateOptions:
    """How text is generated; the fields are the keyword arguments of `Engine.generate`."""

    max_tokens: int = option(256, "stop after this many generated tokens", low=1)
    temperature: float = option(0.0, "sampling temperature; 0 takes the likeliest token", low=0)
    top_p: float = option(
        1.0, "sample from the likeliest tokens of this total probability", low=0, high=1
    )
    min_p: float = option(
        0.0,
        "drop tokens whose probability is below this share of the likeliest one's",
        low=0,
        high=1,
    )
    sample_top_k: int = option(0, "sample from this many likeliest tokens; 0 means all", low=0)
    repetition_penalty: float = option(1.0, "divide the logits of recent tokens by this", above=0)
    repetition_context: int = option(20, "how many recent tokens are penalised", low=1)
    seed: int | None = option(None, "seed of the sampler", low=0, spell=seed)
    stop: tuple[str, ...] = option(
        (),
        "stop before this text; may be repeated. In a flag \\n is a line break, \\t a tab and "
        "\\\\ a backslash",
        escapes=True,
    )
    system: str | None = option(None, "a system message before the prompt")
    raw: bool = option(False, "continue the prompt as plain text, without the chat template")
    prefill_chunk: int | None = option(
        None, "prompt tokens per forward pass; by default as many as memory allows", low=1
    )
    kv_bits: int | None = option(
        None, "quantise the KV cache to this many bits; changes the output", choices=KV_BITS
    )
    kv_group_size: int = option(64, "group size of a quantised KV cache", choices=KV_GROUP_SIZES)
    quantized_kv_start: int = option(
        5000, "with --kv-bits, quantise from this many tokens on", low=0
    )
    max_kv_size: int | None = option(
        None, "limit the KV cache to the last N tokens; longer runs change the output", low=5
    )
    reuse_kv: bool = option(
        False, "reuse the KV cache of an earlier run whose prompt begins the same"
    )
    mask: tuple[str, ...] = option(
        (),
        "LAYER:EXPERT that the router must not choose, as 12:37 or 12:3-7,9 or 4-6:0; may be "
        "repeated. This and the next four change the output",
        spell=expert_texts,
    )
    boost: tuple[str, ...] = option(
        (),
        "LAYER:EXPERT=NUMBER adds NUMBER to the router's logit, as 12:37=+2.0; may be repeated",
        spell=expert_texts,
    )
    force: tuple[str, ...] = option(
        (),
        "LAYER:EXPERT that every token uses, with the weight of the likeliest expert; may be "
        "repeated",
        spell=expert_texts,
    )
    top_k: int | None = option(
        None, "experts per token in this run, instead of the model's own number", low=1
    )
    router_temperature: float = option(
        1.0, "divide the router's logits by this; above 1 the weights are more even", above=0
    )
    measure_loss: bool = option(
        False,
        "also run the unchanged model on the same tokens and measure each token's KL divergence "
        "from it. About twice the work; both share one expert cache",
    )

    def __post_init__(self) -> None:
        settle(self)


def takes(kind: type[LoadOptions | GenerateOptions]) -> Callable[[Function], Function]:
    """Show the fields of `kind` in a function's signature, in place of its `**options`.

    So `help`, `?` and completion list every option, and a field is still declared only once.
    """

    def decorate(function: Function) -> Function:
        whole = inspect.signature(function)
        own = [p for p in whole.parameters.values() if p.kind is not p.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type
            )
            for f in fields(kind)
        ]
        # setattr: to a type checker a callable has no signature of its own.
        setattr(function, "__signature__", whole.replace(parameters=[*own, *options]))  # noqa: B010, see above
        return function

    return decorate


def make(kind: type[Options], values: dict[str, Any]) -> Options:
    """Build `kind` from keyword arguments; an unknown name is refused with the nearest known one.

    Raises:
        OptionError: unknown name, wrong type, or a value outside its rule.
    """
    known = [f.name for f in fields(kind)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"such are {', '.join(known[:9])} …"
            raise OptionError(f"there is no option {shown(name)}; {hint}")
    return kind(**values)


def settled(kind: type[Options], values: dict[str, Any]) -> dict[str, Any]:
    """`values` converted to plain types and checked; generators are read once, here.

    Raises:
        OptionError: as `make`.
    """
    made = make(kind, values)
    return {name: getattr(made, name) for name in values}


def resized(
    options: LoadOptions, cache_gb: float | str | None, cache_experts: int | None
) -> LoadOptions:
    """`options` with another cache size, in GB or in experts.

    Raises:
        OptionError: neither or both sizes are there, or the value breaks its rule.
    """
    if (cache_gb is None) == (cache_experts is None):
        raise OptionError("give the cache's new size in one way: cache_gb=… or cache_experts=…")
    if cache_gb is None:
        return replace(options, cache_experts=cache_experts, resident=False)
    return replace(options, cache_gb=cache_gb, cache_experts=None, resident=False)


def settle(options: LoadOptions | GenerateOptions) -> None:
    """Convert every field to a plain value of its type, and check it against its rules.

    Raises:
        OptionError: names the option, its value and what is allowed.
    """
    for spec in fields(options):
        value = getattr(options, spec.name)
        if value is None and "None" in str(spec.type):
            continue
        if isinstance(value, str) and value in spec.metadata.get("words", ()):
            continue
        plain = _plain(spec, value)
        _check_rules(spec, plain)
        object.__setattr__(options, spec.name, plain)  # the dataclass is frozen


CONVERTERS: dict[str, Callable[[str, Any], Any]] = {
    "int": integer,
    "float": number,
    "str": text,
    "bool": boolean,
    "tuple[str, ...]": texts,
}
"""The conversion of each field type, for fields without a `spell` of their own."""


def _plain(spec: Field[Any], value: object) -> Any:
    convert = spec.metadata.get("spell", CONVERTERS[str(spec.type).split(" |")[0]])
    try:
        return convert(spec.name, value)
    except OptionError as error:
        words = "".join(f" or {word!r}" for word in spec.metadata.get("words", ()))
        raise OptionError(f"{error}{words}") from None


def _check_rules(spec: Field[Any], value: Any) -> None:
    rules = spec.metadata
    if "choices" in rules and value not in choices_of(spec):
        choices = [str(choice) for choice in choices_of(spec)]
        near = difflib.get_close_matches(str(value), choices, 1)
        hint = f"; did you mean {near[0]!r}?" if near and isinstance(value, str) else ""
        raise OptionError(
            f"{spec.name}={shown(value)} is unknown: choose {', '.join(choices)}{hint}"
        )
    if "low" in rules or "above" in rules or "high" in rules:
        within(spec.name, value, rules.get("low"), rules.get("high"), rules.get("above"))
