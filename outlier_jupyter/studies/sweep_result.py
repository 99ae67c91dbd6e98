"""The result of a sweep: its runs as a table, as text, as a figure, and as a record on disk.

The record has what is needed to repeat the sweep: machine, versions, the model's hash, prompts,
seeds, and every run with its text. It is written as JSON for programs and Markdown for people.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ..aliases import alias
from ..display import draw
from ..errors import OptionError, TraceError, shown
from ..formatting import Table, answer_text, count, percent, size_words, small, three
from ..system import files
from ..trace.schema import TraceInfo
from ..values import checked, instance, path, text, word
from .answers import setting_text, sweep_sentence
from .coherence import COHERENT, SHORT

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

FORMAT, VERSION = "outlier_jupyter.sweep", 1
RULE = (
    "Coherent: at most half of its sequences of four tokens had occurred before; at least a "
    "quarter of any 64 tokens are distinct (both tested from 32 tokens on); and the model's own "
    "routing gives its tokens at most 2 nats less, on average, than those of its own answer."
)
FEWEST = 5
"""The median of all such runs lies between the lowest and the highest of five in 15 of 16 cases, of
two in 1 of 2."""


@dataclass(frozen=True)
class SweepRow:
    """One run of a sweep.

    Attributes:
        setting: the varied options, by name; `options`, all options of its engine.
        prompt: its number; `repeat`, the round.
        begun: its start, UTC.
        text, tokens, finish_reason: the answer, its number of tokens, and why it ended.
        tokens_per_second: of decode; `prefill_seconds`, wall time of the prompt.
        decode_hit_rate: share of decode's lookups that hit; `bytes_read` in all.
        slots: size of the cache.
        kl: mean KL(exact ‖ run) of the answer's tokens, nats; `top1_agreement`, of the same.
        log_probability: mean of the answer's tokens under the model's own routing, nats;
            `own_log_probability`, the same of the model's own answer.
        repeated, distinct, verdict: see `coherence`.
        changed_output: why the output differs from the model's own; "" if it does not.
    """

    setting: dict[str, Any]
    prompt: int
    repeat: int
    begun: str
    text: str
    tokens: int
    finish_reason: str
    tokens_per_second: float
    prefill_seconds: float
    decode_hit_rate: float
    bytes_read: int
    slots: int
    kl: float
    top1_agreement: float
    log_probability: float
    own_log_probability: float
    repeated: float
    distinct: float
    verdict: str
    changed_output: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """The result of `sweep`.

    Attributes:
        info: model, machine and versions.
        settings: the combinations, in the order tried; `prompts`, the prompts of each.
        options: the options of all runs, and `repeats`, the number of rounds; `asked` is the old
            name.
        rows: the complete runs.
        begun, ended: times, UTC.
        stopped: whether it was stopped before all runs were complete.
    """

    info: TraceInfo
    settings: tuple[dict[str, Any], ...]
    prompts: tuple[str, ...]
    options: dict[str, Any]
    rows: tuple[SweepRow, ...]
    begun: str
    ended: str
    stopped: bool = False
    asked = alias("options")

    @checked(setting=instance(dict, wanted="one of .settings"))
    def of(self, setting: dict[str, Any]) -> list[SweepRow]:
        """The runs of one setting."""
        return [row for row in self.rows if row.setting == setting]

    @checked(rows=word("settings", "runs"))
    def to_pandas(self, rows: str = "settings") -> pandas.DataFrame:
        """A row per setting, or per run (`runs`).

        Raises:
            OptionError: an unknown value of `rows`.
        """
        import pandas

        if rows == "runs":
            return pandas.DataFrame([row.setting | _flat(row) for row in self.rows])
        return pandas.DataFrame([self.summed(setting) for setting in self.settings])

    @checked(setting=instance(dict, wanted="one of .settings"))
    def summed(self, setting: dict[str, Any]) -> dict[str, Any]:
        """One setting's numbers: median and range of the speed, means of the rest."""
        mine = self.of(setting)
        if not mine and setting not in self.settings:
            raise OptionError(f"{shown(setting)} is no setting of this sweep: see .settings")
        speeds = [r.tokens_per_second for r in mine if isfinite(r.tokens_per_second)]
        tokens = sum(row.tokens for row in mine)

        def mean(name: str) -> float:
            return sum(getattr(r, name) * r.tokens for r in mine) / tokens if tokens else nan

        return setting | {
            "runs": len(mine),
            "tokens_per_second": median(speeds) if speeds else nan,
            "slowest": min(speeds, default=nan),
            "fastest": max(speeds, default=nan),
            "decode_hit_rate": mean("decode_hit_rate"),
            "bytes_read": sum(row.bytes_read for row in mine),
            "kl": mean("kl"),
            "top1_agreement": mean("top1_agreement"),
            "log_probability": mean("log_probability"),
            "coherent": sum(row.verdict == COHERENT for row in mine),
        }

    @checked(what=word("speed", "loss"))
    def enough(self, what: str) -> bool:
        """Whether there are enough runs to compare settings by `speed`, or prompts by `loss`.

        Another round of a prompt gives the same text, so it adds nothing to the loss.
        """
        return self._fewest(what) >= FEWEST

    def _fewest(self, what: str) -> int:
        """The runs, or different prompts, of the setting with the fewest."""
        counts = [
            len(mine) if what == "speed" else len({row.prompt for row in mine})
            for mine in map(self.of, self.settings)
        ]
        return min(counts, default=0)

    @property
    def cautions(self) -> list[str]:
        """What these runs are too few or too short for, a sentence each."""
        found = []
        runs, prompts = self._fewest("speed"), self._fewest("loss")
        if runs < FEWEST:
            found.append(
                f"too few runs to compare settings by speed: {runs} each; make {FEWEST}, with more "
                "prompts or repeats"
            )
        if prompts < FEWEST:
            found.append(
                f"too few prompts to compare settings by KL and coherence: {prompts} each; give "
                f"{FEWEST}"
            )
        if any(row.tokens < SHORT for row in self.rows):
            found.append(
                f"answers of less than {SHORT} tokens are not tested for repetition: coherent only "
                "means likely to the model there"
            )
        return found

    def figure(self) -> Figure:
        """Speed with its range, and the loss, by setting; a Plotly figure."""
        return draw("Sweep.figure", self)

    @checked(folder=path, name=text)
    def save(self, folder: str | os.PathLike[str] = ".", name: str = "") -> tuple[Path, Path]:
        """Write the record, as JSON and as Markdown, and return both paths.

        Args:
            name: of the files, without an ending; by default it contains the time.

        Raises:
            TraceError: the files cannot be written.
        """
        stem = name or f"sweep-{self.begun.replace(':', '').replace('+0000', 'Z')}"
        paths = Path(folder) / f"{stem}.json", Path(folder) / f"{stem}.md"
        text = json.dumps(_plain(self._record()), indent=1, ensure_ascii=False)
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TraceError(
                f"the sweep could not be written to {folder} ({error.strerror}): give a folder "
                "that can be written"
            ) from error
        files.write(paths[0], text + "\n", TraceError, "the sweep")
        files.write(paths[1], self.to_markdown(), TraceError, "the sweep")
        return paths

    def _record(self) -> dict[str, Any]:
        names = {"options": "asked"}  # the record's own names do not change
        fields = {names.get(name, name): value for name, value in asdict(self).items()}
        return {"format": FORMAT, "version": VERSION, "rule": RULE} | fields

    def to_markdown(self) -> str:
        """The record as `save` writes it in Markdown: facts, table, cautions, texts."""
        info = self.info
        facts = [
            ("Model", f"{info.model} ({info.model_hash})"),
            ("Machine", info.machine),
            ("Versions", ", ".join(f"{name} {v}" for name, v in info.versions.items())),
            ("From, to", f"{self.begun}, {self.ended}{' (stopped)' if self.stopped else ''}"),
            ("Every run", ", ".join(f"{name}={value}" for name, value in self.options.items())),
        ]
        head, *lines = self.table()
        out = ["# Sweep", "", *(f"- {name}: {_line(fact)}" for name, fact in facts), ""]
        out += [self.sentence, ""]
        out += [_cells(head), _cells(["---"] * len(head)), *map(_cells, lines), ""]
        out += [*(f"Note: {caution}.\n" for caution in self.cautions), RULE, ""]
        for number, prompt in enumerate(self.prompts):
            out += [f"## Prompt {number}", "", *_quoted(prompt), ""]
            for row in (row for row in self.rows if row.prompt == number):
                found = (
                    f"{three(row.tokens_per_second)} tokens/s, KL {small(row.kl)}, {row.verdict}"
                )
                out += [f"{setting_text(row.setting)}, round {row.repeat}: {found}", ""]
                out += [*_quoted(row.text), ""]
        return "\n".join(out)

    def table(self) -> Table:
        """A row per setting, as text, after the headings."""
        out = [["setting", "tokens/s", "from, to", "hit rate", "read", "KL", "top-1", "coherent"]]
        for setting in self.settings:
            s = self.summed(setting)
            out.append([
                setting_text(setting), three(s["tokens_per_second"]),
                f"{three(s['slowest'])}, {three(s['fastest'])}", percent(s["decode_hit_rate"]),
                size_words(s["bytes_read"]), small(s["kl"]), percent(s["top1_agreement"]),
                f"{s['coherent']} of {s['runs']}",
            ])  # fmt: skip
        return out

    @property
    def sentence(self) -> str:
        """The answer: which setting is the fastest, and whether its answers are coherent."""
        return sweep_sentence(self)

    @property
    def frame(self) -> pandas.DataFrame:
        """A row per run with all its numbers."""
        return self.to_pandas("runs")

    def notes(self) -> list[str]:
        """What was run, and what it is too little for; a sentence each, without a full stop."""
        prompts = count(len(self.prompts), "prompt")
        rounds = count(self.options.get("repeats", 1), "round")
        stopped = "; stopped before the end" if self.stopped else ""
        return [*self.cautions, f"{prompts} and {rounds} with {self.info.model}{stopped}"]

    def __repr__(self) -> str:
        more = "By setting: .to_pandas(); every run: .frame; drawn: .figure()"
        return answer_text(self.sentence, [self.table()], self.notes(), more)

    def _repr_html_(self) -> str:
        return draw("Sweep.html", self)


def _flat(row: SweepRow) -> dict[str, Any]:
    return {k: v for k, v in asdict(row).items() if k not in ("setting", "options")}


def _plain(value: Any) -> Any:
    """A value for JSON, which has null instead of NaN."""
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _cells(row: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _line(text: str) -> str:
    return " ".join(text.split())


def _quoted(text: str) -> list[str]:
    return [f"> {line}" for line in text.splitlines()] or ["> (no text)"]
