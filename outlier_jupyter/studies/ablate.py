"""Measures what experts contribute: texts scored with them masked, and with random masks.

Masking any experts has a cost, since others must replace them. So the cost of masking these is
compared with that of random masks of equal size in the same layers. Only a cost outside of their
range is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..aliases import alias
from ..display import draw
from ..engine.engine import Engine
from ..engine.prompts import Prompt, encode, ids_of
from ..errors import OptionError
from ..formatting import answer_text, three
from ..options import GenerateOptions, expert_texts
from ..paging.interventions import parse_experts
from ..residency import ExpertKey
from ..system.progress import Progress
from ..trace.schema import TraceInfo
from ..values import boolean, checked, count, instance, integer, items, natural, text, texts, word
from ..values import seed as seed_of
from .answers import ablation_notes, ablation_sentence, ablation_table
from .scoring import Scorer, Scores
from .unlisted_run import own_run

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

CHANGE, KL = "change", "kl"
WHAT = {CHANGE: "change of log-probability", KL: "KL from the exact routing"}
"""The measures, in nats per token."""
FEWEST = 19
"""With fewer random masks p cannot be as low as 0.05."""
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ablation:
    """The result of `ablate`, in nats per token.

    Attributes:
        info: metadata of the model.
        experts: the masked experts.
        names: of the prompts; `continuations`, the texts scored after them.
        change: float64 [tokens] for each prompt, log-probability of the continuation's token with
            the experts masked minus without; below 0, the text became less likely.
        kl: float64 [tokens] for each prompt, KL(exact ‖ masked).
        agrees: bool [tokens] for each prompt, whether the likeliest token stayed the same.
        random: float64 [draws, prompts, 2], the mean change and KL under random masks.
        masks: the random masks; `among`, what they were drawn from, with `seed`.
        requested: the number of draws requested; there are fewer if it was stopped. `foreseen` is
            the old name.
    """

    info: TraceInfo
    experts: tuple[ExpertKey, ...]
    names: tuple[str, ...]
    continuations: tuple[str, ...]
    change: tuple[Values, ...]
    kl: tuple[Values, ...]
    agrees: tuple[npt.NDArray[np.bool_], ...]
    random: Values
    masks: tuple[tuple[ExpertKey, ...], ...]
    among: str
    seed: int
    requested: int
    foreseen = alias("requested")

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """The number of tokens scored of each prompt's continuation."""
        return np.array([len(values) for values in self.change], np.int64)

    @checked(what=word(*WHAT), prompt=integer)
    def mean(self, what: str = CHANGE, prompt: int | None = None) -> float:
        """The mean over the tokens of one prompt, or of all."""
        values = self.change if what == CHANGE else self.kl
        self._check(prompt)
        return float(np.mean(np.concatenate(values) if prompt is None else values[prompt]))

    @checked(what=word(*WHAT), prompt=integer)
    def by_chance(self, what: str = CHANGE, prompt: int | None = None) -> Values:
        """The same mean under each random mask: float64 [draws]."""
        found = self.random[:, :, list(WHAT).index(what)]
        self._check(prompt)
        weights = self.tokens / self.tokens.sum()
        return np.asarray(found @ weights if prompt is None else found[:, prompt], np.float64)

    def interval(self, what: str = CHANGE, prompt: int | None = None) -> tuple[float, float]:
        """The interval of at least 95 % of the random masks; NaN without masks."""
        values = self.by_chance(what, prompt)
        if not len(values):
            return float("nan"), float("nan")
        low = np.quantile(values, 0.025, method="lower")  # at least 95 % also of few masks
        return float(low), float(np.quantile(values, 0.975, method="higher"))

    @property
    def caution(self) -> str:
        """Why nothing can be a finding; "" if it can."""
        drawn = len(self.masks)
        if drawn >= FEWEST:
            return ""
        if not drawn:
            return f"too few random masks to tell: there is none; draw {FEWEST}"
        least = three(float(f"{1 / (1 + drawn):.2g}"))
        masks = f"{drawn} random mask{'' if drawn == 1 else 's'}"
        return f"too few to tell: with {masks} p cannot be less than {least}; draw {FEWEST}"

    def p(self, what: str = CHANGE, prompt: int | None = None) -> float:
        """Share of masks, these experts included, that cost at least as much: the p-value.

        It cannot be less than 1 / (draws + 1).
        """
        mine, chance = self.mean(what, prompt), self.by_chance(what, prompt)
        worse = chance <= mine if what == CHANGE else chance >= mine
        return float((1 + worse.sum()) / (1 + len(chance)))

    @checked(rows=word("masks", "tokens"))
    def to_pandas(self, rows: str = "masks") -> pandas.DataFrame:
        """A row per prompt and mask (`masks`), or per token of a continuation (`tokens`).

        Raises:
            OptionError: an unknown value of `rows`.
        """
        import pandas

        return pandas.DataFrame(self._masks() if rows == "masks" else self._tokens())

    def _check(self, prompt: int | None) -> None:
        many = len(self.change)
        if prompt is not None and not -many <= prompt < many:
            raise OptionError(f"there is no prompt {prompt}: {many} were tried, from 0")

    def _masks(self) -> list[dict[str, Any]]:
        sets = [("asked", self.experts), *((f"random {i}", m) for i, m in enumerate(self.masks))]
        out = []
        for at, (name, experts) in enumerate(sets):
            for i, prompt in enumerate(self.names):
                mine = (self.mean(CHANGE, i), self.mean(KL, i))
                change, kl = mine if at == 0 else self.random[at - 1, i]
                keys = " ".join(f"{key.layer}:{key.expert}" for key in experts)
                out.append({"mask": name, "prompt": prompt, "experts": keys,
                            "tokens": int(self.tokens[i]), "change": float(change),
                            "kl": float(kl)})  # fmt: skip
        return out

    def _tokens(self) -> list[dict[str, Any]]:
        return [
            {"prompt": name, "token": at, "change": float(change), "kl": float(kl),
             "agrees": bool(same)}
            for i, name in enumerate(self.names)
            for at, (change, kl, same) in enumerate(
                zip(self.change[i], self.kl[i], self.agrees[i], strict=True)
            )
        ]  # fmt: skip

    def figure(self) -> Figure:
        """Both measures by prompt, for the experts and for random masks; a Plotly figure."""
        return draw("Ablation.figure", self)

    @property
    def sentence(self) -> str:
        """The answer: what masking changed, and whether it is more than chance."""
        return ablation_sentence(self)

    @property
    def frame(self) -> pandas.DataFrame:
        """A row per prompt and mask: `to_pandas()`."""
        return self.to_pandas()

    def __repr__(self) -> str:
        more = "All numbers: .frame, .to_pandas('tokens'); drawn: .figure()"
        return answer_text(self.sentence, [ablation_table(self)], ablation_notes(self), more)

    def _repr_html_(self) -> str:
        return draw("Ablation.html", self)


@checked(
    engine=instance(Engine, wanted="what outlier_jupyter.load returns"),
    continuations=texts,
    draws=natural,
    max_tokens=count,
    raw=boolean,
    seed=seed_of,
    quiet=boolean,
    among=word("all", "used"),
)
def ablate(
    engine: Engine,
    prompts: Prompt | Sequence[str] | Mapping[str, Prompt],
    experts: Iterable[Any] | str,
    *,
    continuations: Sequence[str] | None = None,
    draws: int = 20,
    among: str = "all",
    max_tokens: int = 32,
    raw: bool = False,
    seed: int = 0,
    quiet: bool = False,
) -> Ablation:
    """Mask experts and measure how much less likely the model's own texts become.

    Each text is read draws + 2 times: exactly, with `experts` masked, and with each random mask.
    Stopped with Ctrl-C, it returns the random masks that were scored on all prompts.

    Args:
        prompts: one, several, or names and prompts; put into the chat template unless `raw`.
        experts: LAYER:EXPERT texts as in `mask`, or pairs (layer, expert).
        continuations: the text after each prompt; by default the model's `max_tokens` likeliest.
        draws: number of random masks, each with as many experts per layer as `experts`.
        among: the experts they are drawn from: "all" of the layer, or those "used" by these texts.
            The latter is stricter, since a random expert of many is rarely chosen at all.
        seed: of the random masks.

    Raises:
        OptionError: an unknown expert, too few left, or nothing to score.
        KeyboardInterrupt: stopped before anything was scored.
    """
    masked = _masked(engine, experts)
    named_prompts = _named(prompts)
    texts = _texts(engine, named_prompts, continuations, {"max_tokens": max_tokens, "raw": raw})
    total = len(texts) * (draws + 2)
    with Progress(total=total, desc="ablating", unit="pass", leave=False, disable=quiet) as bar:
        scorers = []
        for _, tokens, first in texts:
            scorers.append(Scorer(engine, tokens, first))
            bar.update()
        score = partial(_score, engine, bar)
        mine = [score(scorer, masked) for scorer in scorers]
        used = set().union(*(scorer.used for scorer in scorers)) if among == "used" else set()
        masks = _draw(masked, engine.info.experts_per_layer, used, draws, seed)
        random = _scored(scorers, masks, score)
    return Ablation(
        info=engine.info,
        experts=masked,
        names=tuple(named_prompts),
        continuations=tuple(text for text, _, _ in texts),
        change=tuple(_changes(scorer, s) for scorer, s in zip(scorers, mine, strict=True)),
        kl=tuple(s.kl for s in mine),
        agrees=tuple(s.agrees for s in mine),
        random=random,
        masks=masks[: len(random)],
        among=among,
        seed=seed,
        requested=draws,
    )


def _changes(scorer: Scorer, scores: Scores) -> Values:
    return scores.log_probability - scorer.exact.log_probability


def _masked(engine: Engine, experts: Any) -> tuple[ExpertKey, ...]:
    """The experts, validated for the model before the first run."""
    texts = expert_texts("experts", experts)
    masked = tuple(sorted(parse_experts("experts", texts, engine.info.experts_per_layer)))
    if not masked:
        raise OptionError("no experts were given: give some, such as 12:37")
    engine.routing.options({"mask": texts})
    return masked


TEXTS = "a text, messages, or several in a list or with names"


def _named(prompts: Any) -> dict[str, Prompt]:
    if isinstance(prompts, Mapping):
        return {text("prompts", name): prompt for name, prompt in prompts.items()}
    several = [prompts] if isinstance(prompts, str) else items("prompts", prompts, TEXTS)
    if several and isinstance(several[0], Mapping):
        several = [several]
    if not several:
        raise OptionError("there are no prompts: give at least one")
    return {f"prompt {i}": prompt for i, prompt in enumerate(several)}


def _texts(
    engine: Engine,
    prompts: Mapping[str, Prompt],
    continuations: Sequence[str] | None,
    options: dict[str, Any],
) -> list[tuple[str, list[int], int]]:
    """For each prompt its continuation, the ids of both, and the index of the continuation."""
    if continuations is not None and len(continuations) != len(prompts):
        raise OptionError(
            f"{len(continuations)} continuations for {len(prompts)} prompts: give one for each"
        )
    found = []
    for i, prompt in enumerate(prompts.values()):
        ids = encode(
            engine.tokenizer, prompt, GenerateOptions(max_tokens=1, raw=options["raw"])
        ).tokens
        if continuations is not None:
            text = continuations[i]
            more = ids_of(engine.tokenizer, text, add_special_tokens=False) if text else []
        else:
            with engine.routing.plain():
                run = own_run(engine, prompt, temperature=0, **options, **engine.routing.own)
            text, more = run.text, run.tokens.tolist()
        found.append((text, ids + more, len(ids)))
    return found


def _draw(
    masked: tuple[ExpertKey, ...],
    experts_per_layer: Sequence[int],
    used: set[tuple[int, int]],
    draws: int,
    seed: int,
) -> tuple[tuple[ExpertKey, ...], ...]:
    """Random masks with as many experts per layer as `masked`, from `used` if it has enough."""
    rng = np.random.default_rng(seed)
    layers = sorted({key.layer for key in masked})
    out = []
    for _ in range(draws):
        mask: list[ExpertKey] = []
        for layer in layers:
            count = sum(key.layer == layer for key in masked)
            pool = sorted(expert for at, expert in used if at == layer)
            if len(pool) < count:
                pool = list(range(experts_per_layer[layer]))
            drawn = rng.choice(pool, count, replace=False)
            mask += [ExpertKey(layer, int(expert)) for expert in sorted(drawn)]
        out.append(tuple(mask))
    return tuple(out)


def _score(engine: Engine, bar: Any, scorer: Scorer, mask: Iterable[ExpertKey]) -> Scores:
    with engine.routing.plain():
        found = scorer.scores(mask=[tuple(key) for key in mask], **engine.routing.own)
    bar.update()
    return found


def _scored(
    scorers: Sequence[Scorer], masks: Sequence[Any], score: Callable[[Scorer, Any], Scores]
) -> Values:
    """Mean change and KL of each mask on each prompt, up to an interrupt."""
    rows: list[list[tuple[float, float]]] = []
    try:
        for mask in masks:
            row = []
            for scorer in scorers:
                scores = score(scorer, mask)
                row.append((float(_changes(scorer, scores).mean()), float(scores.kl.mean())))
            rows.append(row)
    except KeyboardInterrupt:
        pass
    return np.array(rows, np.float64).reshape(len(rows), len(scorers), 2)
