"""Writes the model card from measurements, and reads its numbers back."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from demo_corpus import CHAT_SHARE, CONTINUED_CHAT_SHARE, DOMAINS, LATE_CHAT_SHARE

OPEN, CLOSE = "<!-- numbers -->\n```json\n", "\n```\n<!-- /numbers -->"

INTRODUCTION = """\
---
license: cc0-1.0
library_name: mlx
tags: [mlx, moe, qwen3_moe]
---
# The demo model of outlier_jupyter

A tiny Mixture of Experts, really trained, that ships inside the package so that paging, routing
and all plots can be tried with no download. It answers questions about paged inference and about
this package in one or two sentences, most of them after a short block of thinking, and it
continues Python, C, shell, JSON, sums and prose in English, German, French and Spanish. It knows
little else: the continuations have the right form and seldom a meaning, and a question outside its
topics gets the nearest answer it has learnt. Its thoughts are learnt by heart like its answers.

All numbers below are measured on the files in this folder, that is on the quantised model run by
mlx-lm, by `tools/train_demo.py`, which also wrote this card.
"""

RIGHTS = """\
The authors dedicate the weights to the public domain (CC0 1.0) as far as they hold rights in
them. The texts above stay under their own licences; none of them is part of the package. A model
of this size can repeat short passages of them word for word.
"""


def sha256(path: Path) -> str:
    """The hash of a file, as the card states it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_numbers(card: str) -> dict[str, object]:
    """The numbers block of a card."""
    return json.loads(card.split(OPEN)[1].split(CLOSE)[0])


def table(head: list[str], rows: list[list[object]], numbers: int | None = None) -> str:
    """A Markdown table; the last ``numbers`` columns, or all but the first, are set right."""
    right = len(head) - 1 if numbers is None else numbers
    rule = "|" + " --- |" * (len(head) - right) + " ---: |" * right
    lines = ["| " + " | ".join(head) + " |", rule]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def geometry_section(numbers: dict[str, object]) -> str:
    """Sizes of the model and of its file."""
    g = numbers["geometry"]
    rows = [
        ["layers, all of experts", g["num_hidden_layers"]],
        ["experts per layer", g["num_experts"]],
        ["experts per token", g["num_experts_per_tok"]],
        ["width, expert width", f"{g['hidden_size']}, {g['moe_intermediate_size']}"],
        ["heads, key-value heads, head width",
         f"{g['num_attention_heads']}, {g['num_key_value_heads']}, {g['head_dim']}"],
        ["vocabulary (tied embeddings)", g["vocab_size"]],
        ["bits, group", f"{g['bits']}, {g['group_size']} (routers 8, 64)"],
        ["parameters", f"{numbers['parameters']:,}"],
        ["parameters used per token", f"{numbers['active_parameters']:,}"],
        ["bytes of one expert", f"{numbers['expert_bytes']:,}"],
        ["bytes of the weights", f"{numbers['weight_bytes']:,}"],
    ]  # fmt: skip
    return "## Geometry\n\n" + table(["", "qwen3_moe"], rows)


def quality_sections(numbers: dict[str, object]) -> str:
    """Perplexity and answers."""
    rows = [
        [name, entry["model"], entry["bigram"], entry["tokens"]]
        for name, entry in numbers["perplexity"].items()
    ]
    text = (
        "## Perplexity on held-out text\n\nWhole documents were held out. The baseline is a "
        "Witten-Bell bigram model over the same tokens, fitted to the same domain's training "
        "text.\n\n" + table(["domain", "model", "bigram", "tokens"], rows)
    )
    rows = [
        [kind, f"{entry['right']} of {entry['asked']}", f"{entry['exact']} of {entry['asked']}"]
        for kind, entry in numbers["answers"].items()
    ]
    return (
        text + "\n## Questions\n\nGreedy answers through mlx-lm and the chat template. Right means "
        "that at least 0.9 of the words agree with the written answer (F1 of words and signs), "
        "thinking apart; exact means every character. The model decides whether it thinks, but in "
        "the last row, where the template was told not to let it. A held-out paraphrase is a way "
        "to ask that training never showed; a second turn is a trained question, of every "
        "fourth answer, after another question and answer.\n\n"
        + table(["asked", "right", "exact"], rows)
    )


def thinking_section(numbers: dict[str, object]) -> str:
    """How well the model thinks."""
    t = numbers["thinking"]
    thought = t["thought"]
    rows = [
        ["begins with a thought", f"{thought} of {t['questions']}"],
        ["its tags open once and close once, before an answer", f"{t['well_formed']} of {thought}"],
        ["the thought has the written words", f"{t['as_written']} of {thought}"],
        ["the answer after it is right", f"{t['right_after']} of {thought}"],
        ["thinks where no thought was taught", f"{t['others_thought']} of {t['others']}"],
        ["tags in order, held-out paraphrases",
         f"{t['paraphrases_well_formed']} of {numbers['answers']['held-out paraphrase']['asked']}"],
        ["thinks although it is off", f"{t['off_thought']} of {t['off']}"],
    ]  # fmt: skip
    return (
        "## Thinking\n\n"
        f"{t['questions']} of the answers have a thought of 16 to 33 tokens, which the model "
        "writes between `<think>` and `</think>` before it answers, as Qwen3 does. "
        "`enable_thinking=False` in the chat template writes an empty block instead; "
        "earlier turns lose theirs. Each trained question asked once, greedy:\n\n"
        + table(["", "questions"], rows)
    )


def routing_section(numbers: dict[str, object]) -> str:
    """The information of the routing about the text's domain."""
    rows = [
        [layer, entry["bits"], entry["shuffled_mean"], entry["shuffled_max"]]
        for layer, entry in enumerate(numbers["domain_information"])
    ]
    return (
        "## Routing\n\nMutual information, in bits, between a token's domain and the experts it "
        f"chooses ({len(numbers['perplexity'])} domains alike, held-out text), and what 100 "
        "shuffles of the domains among the windows of text reach by chance.\n\n"
        + table(["layer", "bits", "shuffled, mean", "shuffled, maximum"], rows)
        + f"\nFrom the expert counts of one window of 256 tokens alone, its domain is guessed "
        f"right in {100 * numbers['guessed_domains']:.0f} % of the cases (naive Bayes, fitted to "
        f"other windows). {100 * numbers['never_used']:.1f} % of the experts are chosen by no "
        "held-out token.\n"
    )


def sources_section(numbers: dict[str, object]) -> str:
    """The corpus and its licences."""
    head = ["domain", "source", "licence", "Debian package", "share"]
    rows: list[list[object]] = [
        [d.name, d.source, d.licence, d.package or "none", f"{100 * d.share:.0f} %"]
        for d in DOMAINS
    ]
    share = f"{100 * CHAT_SHARE:.0f} %; at the end {100 * LATE_CHAT_SHARE:.0f} %"
    if "before" in numbers["training"]:
        share += f"; continued {100 * CONTINUED_CHAT_SHARE:.0f} %"
    rows.append(["chat", "`tools/questions/`", "written for this package", "none", share])
    return "## Training text\n\n" + table(head, rows, numbers=1) + "\n" + RIGHTS


def samples_section(samples: dict[str, dict[str, str]]) -> str:
    """A greedy continuation per domain."""
    parts = ["## Samples\n\nGreedy, 48 tokens; the prompt ends at `»`.\n"]
    for name, sample in samples.items():
        text = f"{sample['prompt']}»{sample['continuation']}".replace("```", "'''")
        parts.append(f"{name}:\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def training_section(numbers: dict[str, object]) -> str:
    """How to make the model again."""
    t = numbers["training"]
    text = "## Training\n\n"
    if "before" in t:
        text += (
            f"{amount(t['before'])}. From these weights, of sha256 "
            f"`{t['before']['sha256']}`, training was continued, "
            f"now with thoughts in the conversations: {amount(t)}. "
        )
        command = "python tools/train_demo.py --continue-from FOLDER_OF_THOSE_WEIGHTS"
    else:
        text += f"{amount(t)}. "
        command = "python tools/train_demo.py"
    return (
        text + f"The last {t['quantized_percent']} % of the steps trained with the 4-bit grid in "
        "place, so the quantised model keeps its answers. Training ran on processors shared with "
        "other work; making the model again gives one much like it, not the same bytes. To make "
        f"it again:\n\n```console\n$ {command}\n```\n\n"
        "From nothing, without `--continue-from`, the same texts and thoughts are learnt at once.\n"
    )


def amount(facts: dict[str, object]) -> str:
    """How much was trained, where and with what."""
    return (
        f"{facts['tokens']:,} tokens in {facts['steps']} steps, {facts['minutes']} minutes on "
        f"{facts['processor']} (seed {facts['seed']}, torch {facts['torch']}, mlx {facts['mlx']})"
    )


def write_card(folder: Path, numbers: dict[str, object]) -> None:
    """Write ``README.md`` into the model's folder."""
    numbers = {"sha256": sha256(folder / "model.safetensors"), **numbers}
    samples = numbers.pop("samples")
    sections = [
        INTRODUCTION,
        geometry_section(numbers),
        quality_sections(numbers),
        thinking_section(numbers),
        routing_section(numbers),
        samples_section(samples),
        sources_section(numbers),
        training_section(numbers),
        "## Numbers\n\nThe same for programs; `sha256` is that of `model.safetensors`.\n\n"
        + OPEN + json.dumps(numbers, indent=1) + CLOSE + "\n",
    ]  # fmt: skip
    text = re.sub(r"[ \t]+\n", "\n", "\n".join(sections))
    (folder / "README.md").write_text(text, encoding="utf-8")
