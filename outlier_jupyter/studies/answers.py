"""The answers of the studies in words: a sentence each, and small tables."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formatting import Table, count, interval, p_text, percent, size_words, small, three
from ..paging.interventions import expert_names

if TYPE_CHECKING:
    from ..trace import Trace
    from .ablate import Ablation
    from .compare import Comparison
    from .sweep_result import Sweep

ALPHA = 0.05
PAIRS, RUNS = 6, 6
"""The most rows in a table."""


def ablation_sentence(found: Ablation) -> str:
    """What masking the experts changed, beside random choices of as many."""
    one = len(found.experts) == 1
    who = f"layer {found.experts[0].layer} expert {found.experts[0].expert}" if one else (
        expert_names(found.experts)
    )  # fmt: skip
    changed = f"Without {who} {_changed(found)}"
    drawn = len(found.masks)
    choices = "one expert" if one else f"{len(found.experts)} experts"
    if not drawn:
        return f"{changed}; there are no random masks to compare with."
    worse = round(found.p() * (1 + drawn)) - 1
    beside = f"{worse} of {drawn:,} random choices of {choices} cost as much or more"
    if found.caution:
        return f"{changed}; {beside}: too few random choices to tell if that is more than chance."
    matter = "the expert matters" if one else "the experts matter"
    verdict = matter if found.p() <= ALPHA else "no more than chance"
    return f"{changed}; {beside}: {verdict} ({p_text(found.p())})."


def _changed(found: Ablation) -> str:
    first = [int(np.argmin(same)) if not same.all() else None for same in found.agrees]
    texts = [at for at in first if at is not None]
    if len(first) > 1:
        return f"the likeliest token changes in {len(texts)} of {len(first)} texts"
    if not texts:
        return f"the likeliest token never changes in {count(int(found.tokens[0]), 'token')}"
    return f"the text changes at token {texts[0]}"


def ablation_table(found: Ablation) -> Table:
    """A row per prompt and one for all: both measures, chance, p and agreement."""
    rows = [["text", "tokens", "change", "95 % of random", "p", "KL", "same top token"]]
    every: list[tuple[str, int | None]] = [(name, i) for i, name in enumerate(found.names)]
    if len(every) > 1:
        every = [*every[: PAIRS - 1], ("all", None)]
    for name, i in every:
        agree = np.concatenate(found.agrees) if i is None else found.agrees[i]
        rows.append([
            name if len(name) < 24 else f"{name[:23]}…",
            f"{len(agree):,}", small(found.mean("change", i)),
            interval(*found.interval("change", i)),
            small(found.p("change", i)), small(found.mean("kl", i)),
            percent(float(agree.mean())),
        ])  # fmt: skip
    return rows


def ablation_notes(found: Ablation) -> list[str]:
    """What the numbers are, and what limits them."""
    random = f"{len(found.masks)} random masks of equal size in the same layers"
    if found.among == "used":
        random += ", of experts that these texts use"
    if len(found.masks) < found.requested:
        random += f" (stopped: {found.requested} were requested)"
    about = f"{expert_names(found.experts)} masked in {found.info.model}, beside {random}"
    unit = "change of log-probability and KL are in nats per token"
    return [*([found.caution] if found.caution else []), f"{about}; {unit}"]


def setting_text(setting: dict[str, Any]) -> str:
    """A setting as text: `top_k=2, cache_gb=4`."""
    return ", ".join(f"{name}={value}" for name, value in setting.items())


def sweep_sentence(found: Sweep) -> str:
    """Which setting is the fastest, and whether its answers are coherent."""
    sums = [(setting_text(setting), found.summed(setting)) for setting in found.settings]
    sums = [each for each in sums if each[1]["runs"]]
    if not sums:
        return "No run is complete: nothing was measured."
    made, good = (sum(each[name] for _, each in sums) for name in ("runs", "coherent"))
    bad = [f"{name} ({each['coherent']} of {each['runs']})"
           for name, each in sums if each["coherent"] < each["runs"]]  # fmt: skip
    coherent = f"all {made} answers are coherent" if not bad else (
        f"{good} of {made} answers are coherent: fewer with {', '.join(bad[:3])}"
    )  # fmt: skip
    timed = [each for each in sums if isfinite(each[1]["tokens_per_second"])]
    ranked = sorted(timed, key=lambda each: -each[1]["tokens_per_second"])
    if len(ranked) < 2:
        speed = f"{sums[0][0]}: {three(sums[0][1]['tokens_per_second'])} tokens/s"
    elif not found.enough("speed"):
        speed = "Too few runs to tell which setting is the fastest"
    else:
        (best, fast), (worst, slow) = ranked[0], ranked[-1]
        ratio = fast["tokens_per_second"] / slow["tokens_per_second"]
        speed = (
            f"{best} is the fastest: {three(fast['tokens_per_second'])} tokens/s, {ratio:.2g} × "
            f"{worst}"
        )
        if fast["slowest"] <= slow["fastest"]:
            speed = f"No setting is clearly the fastest: the ranges of {best} and {worst} overlap"
    return f"{speed}; {coherent}."


def comparison_sentence(found: Comparison) -> str:
    """Whether runs are routed differently, and which reads more from an equal cache."""
    parts = [_most_different(found) if len(found.runs) > 2 else _pair(found, 0, 1)]
    first = found.first_difference() if len(found.runs) == 2 else None
    if first is not None:
        parts.insert(0, first.sentence)
    nbytes = [replay.nbytes for replay in found.cold]
    most, least = int(np.argmax(nbytes)), int(np.argmin(nbytes))
    if nbytes[least] and nbytes[most] / nbytes[least] >= 1.05:
        parts.append(
            f"From equal empty caches {found.names[most]} reads "
            f"{nbytes[most] / nbytes[least]:.2g} × as much as {found.names[least]} "
            f"({size_words(nbytes[most])} and {size_words(nbytes[least])})."
        )
    elif nbytes[most]:
        parts.append(f"From equal empty caches they read about as much ({size_words(nbytes[0])}).")
    return " ".join(parts)


def _pair(found: Comparison, i: int, j: int) -> str:
    one, other, pair = found.names[i], found.names[j], found.pairs[i, j]
    if pair.caution:
        return f"Too few tokens to tell if {one} and {other} are routed differently."
    layers = pair.differing()
    if not len(layers):
        return f"No layer routes {one} and {other} differently beyond chance."
    top = max(layers.tolist(), key=lambda layer: float(pair.excess[layer]))
    experts = count(len(found.experts(i, j)), "expert differs", "experts differ")
    return (
        f"{one} and {other} are routed differently in {len(layers)} of {len(pair.js)} layers, "
        f"most in layer {top}; {experts}."
    )


def _most_different(found: Comparison) -> str:
    known = [key for key, pair in found.pairs.items() if not pair.caution]
    if not known:
        return "Too few tokens to tell if these runs are routed differently."
    values = found.matrix
    top = max(known, key=lambda key: float(values[key]))
    return f"Of {len(found.runs)} runs, two differ most: {_pair(found, *top)}"


def pairs_table(found: Comparison) -> Table:
    """A row per pair: divergence, what chance gives, and what differs beyond it."""
    rows = [["runs", "divergence", "by chance", "layers that differ", "experts"]]
    for (i, j), pair in list(found.pairs.items())[:PAIRS]:
        seen, chance = (small(float(np.nanmean(x))) for x in (pair.js, pair.expected))
        layers = f"{len(pair.differing())} of {len(pair.js)}"
        experts = f"{len(found.experts(i, j)):,}"
        if pair.caution:
            layers = experts = "too few tokens"
        rows.append([f"{found.names[i]}, {found.names[j]}", f"{seen} bits", f"{chance} bits",
                     layers, experts])  # fmt: skip
    return rows


def caches_table(found: Comparison) -> Table:
    """A row per run: what it hits and reads with an equal LRU cache."""
    rows = [["run", "hit rate", "read", "hit rate, warm", "read, warm"]]
    for name, cold, warm in list(zip(found.names, found.cold, found.warm, strict=True))[:RUNS]:
        rows.append([name, percent(cold.hit_rate), size_words(cold.nbytes),
                     percent(warm.hit_rate), size_words(warm.nbytes)])  # fmt: skip
    return rows


def comparison_notes(found: Comparison) -> list[str]:
    """What the numbers are, and what limits them."""
    about = (
        f"{found.phase or 'prefill and decode'} compared; the caches are LRU with "
        f"{found.slots:,} slots, empty or (warm) as {found.names[0]} began"
    )
    domains = [found.domains_text()] if found.domains else []
    sizes = {pair.open_size: None for pair in found.pairs.values() if pair.open_size}
    return [*domains, *found.warnings, about, *sizes]


def cautions(names: Sequence[str], traces: Sequence[Trace]) -> list[str]:
    """What keeps the numbers of these runs from being compared."""
    found = []
    starts = [set(map(tuple, trace.resident_at_start.tolist())) for trace in traces]
    if any(start != starts[0] for start in starts):
        sizes = [f"{len(start):,} in {name}" for name, start in zip(names, starts, strict=True)]
        common = len(set.intersection(*starts))
        found.append(
            f"the runs began with different caches (experts in RAM: {', '.join(sizes)}, of which "
            f"{common:,} are the same), so their own misses and speeds cannot be compared; those "
            "with equal caches can"
        )
    if len({trace.info.slots for trace in traces}) > 1:
        found.append("the runs had caches of different sizes")
    if len({trace.info.model for trace in traces}) > 1:
        found.append("the runs are of different models, whose experts are unrelated")
    changed = [n for n, t in zip(names, traces, strict=True) if t.info.changed_output]
    if changed:
        found.append(f"not the model's own output: {', '.join(changed)}")
    return found
