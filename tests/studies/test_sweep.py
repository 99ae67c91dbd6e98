"""A sweep runs every combination, compares it with the model itself, and writes a record."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from outlier_jupyter import Interrupted, ablate, sweep
from outlier_jupyter.errors import OptionError, TraceError
from outlier_jupyter.events import StepDone
from outlier_jupyter.formatting import three
from outlier_jupyter.studies import sweep as module

PROMPTS = ["hello", "def f(x):"]


@pytest.fixture(scope="module")
def found(engine):
    """Three numbers of experts, two prompts, two rounds."""
    return sweep(engine, top_k=[1, 2, 3], prompts=PROMPTS, max_tokens=6, repeats=2, quiet=True)


def test_every_setting_answers_every_prompt_each_round(found, engine):
    """The runs equal those of the engine with the same options."""
    options = [(row.setting["top_k"], row.prompt, row.repeat) for row in found.rows]
    assert options == [(k, p, r) for r in (0, 1) for k in (1, 2, 3) for p in (0, 1)]
    for row in found.rows:
        alone = engine.generate(PROMPTS[row.prompt], max_tokens=6, top_k=row.setting["top_k"])
        assert row.text == alone.text and row.tokens == alone.generated == 6
        assert row.changed_output == alone.trace.info.changed_output


def test_the_loss_is_that_of_a_run_that_measures_it(found, engine):
    """KL and agreement equal those of `measure_loss` per token; the model's own top-k loses 0."""
    for row in found.rows[:6]:
        options = {"max_tokens": 6, "top_k": row.setting["top_k"], "measure_loss": True}
        summary = engine.generate(PROMPTS[row.prompt], **options).summary()
        # Whole-text and token-by-token evaluation round sums in different orders.
        assert row.kl == pytest.approx(summary.kl, rel=0.02, abs=1e-5)
        assert row.top1_agreement == pytest.approx(summary.top1_agreement)
        if row.setting["top_k"] == 2:
            assert row.kl == 0 and row.log_probability == row.own_log_probability
            assert row.verdict == "coherent"


def test_a_setting_is_summed_up(found):
    """Median and range of the speed, the loss per token, and how many answers are coherent."""
    frame = found.to_pandas().set_index("top_k")
    mine = [row for row in found.rows if row.setting == {"top_k": 3}]
    speeds = [row.tokens_per_second for row in mine]
    assert frame["tokens_per_second"][3] == np.median(speeds)
    assert (frame["slowest"][3], frame["fastest"][3]) == (min(speeds), max(speeds))
    assert frame["kl"][3] == pytest.approx(np.mean([row.kl for row in mine]))
    assert frame["coherent"][3] == sum(row.verdict == "coherent" for row in mine)
    assert len(found.to_pandas("runs")) == 12 and "top_k=3" in repr(found)


def test_the_record_has_all_it_takes_to_do_it_again(found, tmp_path):
    """JSON and Markdown: machine, versions, model hash, prompts, seed, rule, and every run."""
    as_json, as_markdown = found.save(tmp_path / "new")
    record = json.loads(as_json.read_text())
    assert record["format"] == "outlier_jupyter.sweep" and record["asked"]["seed"] == 0
    assert record["info"]["model_hash"] == found.info.model_hash != ""
    assert record["info"]["machine"] and record["info"]["versions"]["mlx"]
    assert [row["text"] for row in record["rows"]] == [row.text for row in found.rows]
    assert record["prompts"] == PROMPTS and "four tokens" in record["rule"]
    text = as_markdown.read_text()
    for message in (
        found.info.machine,
        found.info.model_hash,
        "| top_k=3 |",
        "## Prompt 1",
        "seed=0",
    ):
        assert message in text
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="could not be written"):
        found.save(tmp_path / "file")


def test_sizes_and_policies_are_combined_and_an_engine_gets_its_size_back(engine):
    """Options fixed at loading run on a separate engine; none of them is lossy."""
    found = sweep(engine, cache_experts=[4, 12], policy=["lru", "predictive"], prompts="hi",
                  max_tokens=3, quiet=True)  # fmt: skip
    assert [(row.setting["policy"], row.slots) for row in found.rows] == [
        ("lru", 4), ("predictive", 4), ("lru", 12), ("predictive", 12)]  # fmt: skip
    assert {row.options["policy"] for row in found.rows} == {"lru", "predictive"}
    assert all(row.kl == 0 and row.top1_agreement == 1 for row in found.rows)
    sweep(engine, cache_experts=5, prompts="hi", max_tokens=2, quiet=True)
    assert engine.status().slots == 8 and not engine.closed


def test_a_study_s_own_runs_are_nobody_s_last(engine):
    """After a sweep, an ablation, or a stopped one, the last run is the user's own."""
    mine = engine.generate("hello", max_tokens=2)
    sweep(engine, top_k=[1, 2], prompts="hi", max_tokens=2, quiet=True)
    assert engine.last_run is mine
    ablate(engine, "hi", "0:1", draws=2, max_tokens=2, quiet=True)
    assert engine.last_run is mine
    end = engine.subscribe(lambda event: engine.stop(), StepDone)
    with pytest.raises(KeyboardInterrupt):
        sweep(engine, top_k=[1], prompts="hi", max_tokens=20, quiet=True)
    end()
    assert engine.last_run is mine


def test_stopped_it_keeps_what_is_whole(engine, monkeypatch):
    """Ctrl-C during a run keeps the earlier runs, with `stopped` set."""
    real, calls = engine.generate, []

    def generate(prompt, **options):
        calls.append(prompt)
        run = real(prompt, **options)
        if len(calls) == 5:
            raise Interrupted(run)
        return run

    monkeypatch.setattr(engine, "generate", generate)
    found = sweep(engine, top_k=[2, 1], prompts=PROMPTS, max_tokens=3, quiet=True)
    assert found.stopped and len(found.rows) == 2 and "stopped before the end" in repr(found)
    assert "(stopped)" in found.to_markdown()
    calls[:] = [""] * 4
    with pytest.raises(KeyboardInterrupt):
        sweep(engine, top_k=[2], prompts=PROMPTS, max_tokens=3, quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to sweep"),
        ({"temperatures": [1]}, "cannot be swept"),
        ({"top_k": [0]}, "give 1 or more"),
        ({"policy": ["fifo"]}, "choose predictive, lru"),
        ({"cache_gb": 1, "cache_experts": 4}, "give either"),
        ({"top_k": 2, "prompts": []}, "no prompts"),
        ({"top_k": 2, "repeats": 0}, "repeats=0 is too small"),
        ({"top_k": 99}, "more than the 8 experts"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_run(engine, options, message):
    """One sentence refuses it; the previous run is still the last one."""
    before = engine.last_run
    with pytest.raises(OptionError, match=message):
        sweep(engine, **options, quiet=True)
    assert engine.last_run is before


def test_a_text_that_repeats_is_in_the_verdict(found):
    """A row's verdict is that of the coherence rule for the answer's tokens and likelihood."""
    for row in found.rows:
        unlikely = row.log_probability < row.own_log_probability - 2
        assert row.verdict == ("unlikely to the model itself" if unlikely else "coherent")
    assert len(module.PROMPTS) == 5


def test_the_figure_has_every_run_and_its_range_and_no_middle_of_few(found):
    """Rings for runs, a bar from lowest to highest, labels, units; no median of only four runs."""
    figure = found.figure()
    rings = [part for part in figure.data if part.name == "a run"]
    assert sum(len(part.y) for part in rings) == 2 * len(found.rows)
    bars = [part for part in figure.data if part.name == "lowest to highest"]
    for ring, bar in zip(rings, bars, strict=True):
        assert tuple(bar.y) == (min(ring.y), max(ring.y))
    assert not [part.name for part in figure.data if "median" in part.name or "mean" in part.name]
    words = [part.text for part in figure.data if part.name == "labels"]
    slowest, fastest = found.to_pandas().iloc[1][["slowest", "fastest"]]
    assert words[0][1].strip() == f"{three(slowest)} to {three(fastest)}"
    assert words[1][1].strip() == "4 of 4 coherent"
    assert figure.layout.yaxis.title.text == "tokens/s"
    assert figure.layout.yaxis2.title.text == "KL (nats per token)"


def test_too_few_or_too_short_runs_are_in_the_cautions(found):
    """Text, record and figure have cautions on few runs, few prompts and short answers."""
    runs, prompts, short = found.cautions
    assert runs.startswith("too few runs") and "4 each" in runs
    assert prompts.startswith("too few prompts") and "2 each" in prompts
    assert "less than 32 tokens" in short
    title = re.sub("<[^>]*>", " ", found.figure().layout.title.text)
    for message in found.cautions:
        assert message in " ".join(repr(found).split()) and message in found.to_markdown()
        assert message[1:] in re.sub(" +", " ", title)


def test_enough_runs_have_a_median_and_enough_prompts_a_mean(found):
    """Five runs of a setting have a median; only five prompts, not rounds, have a mean loss."""
    more = [replace(row, repeat=row.repeat + 2) for row in found.rows]
    rounds = replace(found, rows=(*found.rows, *more))
    (speed,) = (part for part in rounds.figure().data if part.name.startswith("me"))
    assert speed.name == "median of the speed"
    np.testing.assert_allclose(speed.y, rounds.to_pandas()["tokens_per_second"])
    prompts = tuple(replace(row, prompt=row.prompt + 2 * at, tokens=32) for at in range(3)
                    for row in found.rows)  # fmt: skip
    whole = replace(found, rows=prompts)
    assert whole.cautions == []
    _, loss = (part for part in whole.figure().data if part.name.startswith("me"))
    np.testing.assert_allclose(loss.y, whole.to_pandas()["kl"])
    text = next(part.text[0] for part in whole.figure().data if part.name == "labels")
    low, high = (three(whole.to_pandas()[name][0]) for name in ("slowest", "fastest"))
    assert text.strip().endswith(f"({low} to {high})")
