"""Compares settings: speed, divergence from the model's own output, and coherence.

Every setting answers the same prompts. Speed comes from those runs, each setting after a short
warm-up. The loss is measured afterwards, untimed: the answer is read once under the model's own
routing and once under the setting's, and the two distributions before each token are compared.
`coherence` has the rule for coherent answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.engine import Engine
from ..engine.load import load
from ..engine.prompts import encode
from ..errors import OptionError
from ..options import SWEPT, GenerateOptions, LoadOptions, make, settled
from ..runs.run import Interrupted, Run
from ..system.progress import Progress
from ..values import boolean, checked, count, number, refused, text, texts
from ..values import seed as seed_of
from .coherence import distinct_share, repeated_share, verdict
from .scoring import Scorer
from .sweep_result import Sweep, SweepRow
from .unlisted_run import own_run

if TYPE_CHECKING:
    from ..trace.schema import TraceInfo

PROMPTS = (
    "What is an expert?",
    "Explain why the sky is blue, to a child.",
    "Write a function that adds up a list of numbers.",
    "Name three things that a good letter has.",
    "Continue this story: The lighthouse had been dark for a year when",
)
"""The default prompts: an explanation, a simpler one, code, a list, and a story."""
WARM_UP = 8
"""Tokens generated before a setting's first run."""

Setting = dict[str, Any]


@dataclass(frozen=True)
class _Plan:
    """What all runs of a sweep share; `options` are of the run, `load_options` of the engine."""

    prompts: tuple[str, ...]
    options: dict[str, Any]
    repeats: int
    load_options: dict[str, Any]

    def check(self) -> None:
        """Validate everything before the first run.

        Raises:
            OptionError: no prompts, or an invalid option.
        """
        if not self.prompts:
            raise OptionError("there are no prompts: give at least one")
        make(GenerateOptions, self.options)
        make(LoadOptions, self.load_options)


@checked(max_tokens=count, repeats=count, temperature=number, seed=seed_of, quiet=boolean)
def sweep(
    model: Engine | str,
    *,
    prompts: Sequence[str] | str | None = None,
    max_tokens: int = 64,
    repeats: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    quiet: bool = False,
    options: Mapping[str, Any] | None = None,
    **axes: Any,
) -> Sweep:
    """Run the same prompts under every combination of settings.

    Stopped with Ctrl-C, it returns the complete runs, with `stopped` set.

    Args:
        model: an engine, or a model as for `load`. An engine gets its cache size back; settings
            that only loading can change run on separate engines.
        prompts: five by default; put into the chat template.
        max_tokens: the most tokens of an answer.
        repeats: rounds over all settings; more give a better range of the speed.
        temperature, seed: of the sampling.
        quiet: show no progress.
        options: further fields of `LoadOptions` for engines loaded here.
        **axes: values to try, one or several each: `top_k`, `cache_gb`, `cache_experts`,
            `policy`, `reader`.

    Raises:
        OptionError: nothing to sweep, or an invalid value; before the first run.
        KeyboardInterrupt: stopped before a run was complete.
    """
    settings = _settings(axes)
    plan = _Plan(
        tuple(PROMPTS) if prompts is None else texts("prompts", prompts),
        {"max_tokens": max_tokens, "temperature": temperature, "seed": seed},
        repeats,
        _options(options),
    )
    plan.check()
    begun = datetime.now(UTC)
    rows, info, stopped = _collected(model, settings, plan, quiet)
    return Sweep(
        info=info,
        settings=tuple(settings),
        prompts=plan.prompts,
        options=plan.options | {"repeats": repeats},
        rows=tuple(rows),
        begun=begun.isoformat(timespec="seconds"),
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        stopped=stopped,
    )


def _collected(
    model: Engine | str, settings: Sequence[Setting], plan: _Plan, quiet: bool
) -> tuple[list[SweepRow], TraceInfo, bool]:
    """The complete runs, the first engine's info, and whether the sweep was stopped."""
    rows: list[SweepRow] = []
    info: list[TraceInfo] = []
    total = len(settings) * len(plan.prompts) * plan.repeats
    with Progress(total=total, desc="sweeping", unit="run", leave=False, disable=quiet) as bar:
        try:
            for row in _all(model, settings, plan, info):
                rows.append(row)
                bar.update()
        except KeyboardInterrupt:
            if not rows:
                raise
            return rows, info[0], True
    return rows, info[0], False


def _all(
    model: Engine | str, settings: Sequence[Setting], plan: _Plan, info: list[TraceInfo]
) -> Iterator[SweepRow]:
    """All runs, round by round; appends each engine's info to `info`."""
    own: dict[int, float] = {}
    for around in range(plan.repeats):
        for setting in settings:
            with _engine_for(model, setting, plan.load_options) as engine:
                info.append(engine.info)
                yield from _runs(engine, setting, plan, around, own)


def _settings(axes: Mapping[str, Any]) -> list[Setting]:
    """All combinations, validated."""
    if unknown := axes.keys() - set(SWEPT):
        raise OptionError(
            f"{', '.join(sorted(unknown))} cannot be swept: give values of {', '.join(SWEPT)}"
        )
    listed = {name: _listed(value) for name, value in axes.items() if value is not None}
    # As plain values of the options, since they are written to the record.
    listed = {
        name: list(dict.fromkeys(settled(LoadOptions, {name: value})[name] for value in values))
        for name, values in listed.items()
        if values
    }
    if not listed:
        raise OptionError(f"there is nothing to sweep: give values of {', '.join(SWEPT)}")
    if {"cache_gb", "cache_experts"} <= listed.keys():
        raise OptionError("give either cache_gb or cache_experts")
    settings = [
        dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values())
    ]
    for setting in settings:
        make(LoadOptions, setting)
    return settings


def _listed(value: Any) -> list[Any]:
    one = isinstance(value, str) or getattr(value, "shape", None) == ()
    return [value] if one or not isinstance(value, Iterable) else list(value)


def _options(options: Any) -> dict[str, Any]:
    if not isinstance(options, Mapping | None):
        raise refused("options", options, "fields of LoadOptions and their values, in a dict")
    return settled(LoadOptions, {text("options", name): v for name, v in (options or {}).items()})


@contextmanager
def _engine_for(model: Engine | str, setting: Setting, options: dict[str, Any]) -> Iterator[Engine]:
    """An engine with this setting's cache, policy and reader; a given engine is restored."""
    sizes = {name: setting[name] for name in ("cache_gb", "cache_experts") if name in setting}
    loaded = {name: setting[name] for name in ("policy", "reader") if name in setting}
    if isinstance(model, Engine) and not loaded:
        model.routing.options({"top_k": setting.get("top_k")})  # validated before resizing
        before = model.options
        try:
            if sizes:
                model.resize(**sizes)
            yield model
        finally:
            if sizes and not model.closed:
                _resize_back(model, before)
        return
    if isinstance(model, Engine):
        kept = {f.name: getattr(model.options, f.name) for f in fields(LoadOptions)}
        options, name = kept | {"quiet": True, "warm": "off"} | options, model.info.model
    else:
        options, name = {"warm": "off"} | options, model  # or a setting gains by those before it
    if "cache_gb" in sizes:
        options = options | {"cache_experts": None}
    with load(name, **options | sizes | loaded) as engine:
        yield engine


def _resize_back(engine: Engine, before: LoadOptions) -> None:
    if before.cache_experts is not None:
        engine.resize(cache_experts=before.cache_experts)
    elif before.resident:
        engine.resize(cache_experts=sum(engine.info.experts_per_layer))
    else:
        engine.resize(cache_gb=before.cache_gb)


def _runs(
    engine: Engine, setting: Setting, plan: _Plan, number: int, own: dict[int, float]
) -> Iterator[SweepRow]:
    """One round of a setting: a row per prompt.

    Args:
        own: number of the prompt → mean log-probability of the model's own answer; missing entries
            are computed and added.
    """
    routing = {"top_k": setting["top_k"]} if "top_k" in setting else {}
    with engine.routing.plain():
        own_run(engine, plan.prompts[0], max_tokens=WARM_UP, temperature=0, **routing)
        for at, prompt in enumerate(plan.prompts):
            begun = datetime.now(UTC).isoformat(timespec="seconds")
            run = _complete_run(engine, prompt, plan.options | routing)
            if at not in own:
                loaded = engine.options.top_k or engine.info.native_top_k
                exact = (setting.get("top_k") or loaded) == engine.info.native_top_k
                options = plan.options | engine.routing.own
                mine = run if exact else _complete_run(engine, prompt, options)
                own[at] = float(_scored(engine, mine).exact.log_probability.mean())
            yield _row(engine, run, setting, (at, number, begun), own[at])


def _complete_run(engine: Engine, prompt: str, options: dict[str, Any]) -> Run:
    try:
        return own_run(engine, prompt, **options)
    except Interrupted:
        raise KeyboardInterrupt from None


def _scored(engine: Engine, run: Run) -> Scorer:
    """The answer after its prompt, read under the model's own routing."""
    ids = encode(engine.tokenizer, run.prompt, GenerateOptions(max_tokens=1)).tokens
    return Scorer(engine, ids + run.tokens.tolist(), len(ids))


def _row(
    engine: Engine, run: Run, setting: Setting, where: tuple[int, int, str], own: float
) -> SweepRow:
    scorer = _scored(engine, run)
    scores = scorer.scores(make(GenerateOptions, {"top_k": setting.get("top_k")}))
    summary = run.summary()
    ends = set(engine.tokenizer.eos_token_ids)
    answer = [token for token in run.tokens.tolist() if token not in ends]
    likely = float(scorer.exact.log_probability.mean())
    prompt, number, begun = where
    return SweepRow(
        setting=setting,
        prompt=prompt,
        repeat=number,
        begun=begun,
        text=run.text,
        tokens=run.generated,
        finish_reason=run.finish_reason,
        tokens_per_second=summary.tokens_per_second,
        prefill_seconds=summary.prefill_seconds,
        decode_hit_rate=summary.decode_hit_rate,
        bytes_read=summary.bytes_read,
        slots=run.trace.info.slots,
        kl=float(np.mean(scores.kl)),
        top1_agreement=float(np.mean(scores.agrees)),
        log_probability=likely,
        own_log_probability=own,
        repeated=repeated_share(answer),
        distinct=distinct_share(answer),
        verdict=verdict(answer, likely, own),
        changed_output=run.trace.info.changed_output,
        options={k: v for k, v in asdict(engine.options).items() if v is not None},
    )
