"""The shipped demo model: its files, its geometry, its answers and its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from demo_answers import RIGHT, ask, overlap
from demo_card import sha256
from demo_questions import read_items
from demo_routing import Recorder, information, record

MEGABYTE = 1_000_000
PYTHON = "def __init__(self, name):\n        self.name = name\n\n    def read(self, path):\n"
GERMAN = "Der Administrator muss die Pakete auf dem Server installieren und die Datei ändern. "


def test_the_files_fit_their_limits(folder: Path) -> None:
    """The weights are one file of at most 9.3 MB, and the folder stays under 10 MB."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    assert [name for name in sizes if name.endswith(".safetensors")] == ["model.safetensors"]
    assert sizes["model.safetensors"] <= 9.3 * MEGABYTE
    assert sum(sizes.values()) < 10 * MEGABYTE


def test_the_geometry_is_a_real_mixture_of_experts(folder: Path) -> None:
    """At least 6 layers of at least 32 experts, 4 per token, 4 bit, experts in every layer."""
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen3_moe"
    assert config["num_hidden_layers"] >= 6
    assert config["num_experts"] >= 32
    assert config["num_experts_per_tok"] == 4
    assert config["decoder_sparse_step"] == 1
    assert config["mlp_only_layers"] == []
    assert config["quantization"]["bits"] == 4
    assert config["quantization"]["group_size"] in (32, 64)


def test_the_experts_are_stacked_as_mlx_stores_them(folder: Path) -> None:
    """Each projection of a layer's experts is one tensor, with scales and biases."""
    config = json.loads((folder / "config.json").read_text())
    weights = mx.load(str(folder / "model.safetensors"))
    for layer in range(config["num_hidden_layers"]):
        for projection in ("gate_proj", "up_proj", "down_proj"):
            stem = f"model.layers.{layer}.mlp.switch_mlp.{projection}"
            for part in ("weight", "scales", "biases"):
                assert weights[f"{stem}.{part}"].shape[0] == config["num_experts"]
            assert weights[f"{stem}.weight"].dtype == mx.uint32


def test_mlx_lm_loads_it(loaded: tuple[Any, Any]) -> None:
    """mlx-lm loads the folder unchanged, with finite logits over the whole vocabulary."""
    model, tokenizer = loaded
    tokens = tokenizer.encode("The router chooses")
    logits = model(mx.array([tokens]))
    assert logits.shape == (1, len(tokens), model.args.vocab_size)
    assert bool(mx.isfinite(logits).all())


def test_the_tokenizer_gives_every_text_back(loaded: tuple[Any, Any]) -> None:
    """Encoding and decoding give the same text, whatever the characters."""
    _, tokenizer = loaded
    for text in (PYTHON, GERMAN, "3 + 4 = 7\n", '{"a": [1, null]}', "l'été, ¿qué?", "日本 🙂\t"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_frames_turns(loaded: tuple[Any, Any]) -> None:
    """Turns are framed in ChatML, and its markers are single tokens."""
    _, tokenizer = loaded
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    tokens = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    assert tokenizer.decode(tokens) == text
    assert len(tokenizer.encode("<|im_end|>")) == 1


def test_two_tokens_mark_thinking(loaded: tuple[Any, Any]) -> None:
    """mlx-lm finds the tags, each is one token of its own, and decoding shows them."""
    model, tokenizer = loaded
    assert tokenizer.has_thinking
    assert (tokenizer.think_start, tokenizer.think_end) == ("<think>", "</think>")
    assert (tokenizer.think_start_id, tokenizer.think_end_id) == (4094, 4095)
    text = "<think>\nOne.\n</think>\n\nTwo."
    tokens = tokenizer.encode(text)
    assert tokens[0] == 4094 and tokens.count(4095) == 1 and max(tokens) < model.args.vocab_size
    assert tokenizer.decode(tokens) == text == tokenizer.decode(tokens, skip_special_tokens=True)


def test_the_template_drops_earlier_thoughts_and_closes_the_block_where_thinking_is_off(
    loaded: tuple[Any, Any],
) -> None:
    """Qwen3's way: an empty block before the answer; the model opens one itself where it is on."""
    _, tokenizer = loaded
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nA greeting.\n</think>\n\nHello!"},
        {"role": "user", "content": "What is a hit?"},
    ]
    on, off, default = (
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **how)
        for how in ({"enable_thinking": True}, {"enable_thinking": False}, {})
    )
    assert on == default == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
        "<|im_start|>user\nWhat is a hit?<|im_end|>\n<|im_start|>assistant\n"
    )  # fmt: skip
    assert off == on + "<think>\n\n</think>\n\n"


def test_an_answer_stops_at_the_end_of_its_turn(loaded: tuple[Any, Any]) -> None:
    """mlx-lm's stream ends with finish_reason stop, without the end token in the text."""
    from mlx_lm import stream_generate

    model, tokenizer = loaded
    turns = [{"role": "user", "content": "What is top-k?"}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    parts = list(stream_generate(model, tokenizer, prompt, max_tokens=90))
    assert parts[-1].finish_reason == "stop"
    assert "<|" not in "".join(part.text for part in parts)


def test_questions_are_answered_as_the_card_says(
    loaded: tuple[Any, Any], numbers: dict[str, Any]
) -> None:
    """The share of right answers in a sample is about that of all questions."""
    sample = read_items()[::15]
    right = sum(
        overlap(ask(*loaded, [], item.asked[0]).answer, item.answer) >= RIGHT for item in sample
    )
    claimed = numbers["answers"]["trained question"]
    assert right / len(sample) >= claimed["right"] / claimed["asked"] - 0.15


def test_questions_are_thought_about_as_the_card_says(
    loaded: tuple[Any, Any], numbers: dict[str, Any]
) -> None:
    """A sample has thoughts in well-formed blocks, and none where thinking is off."""
    claimed = numbers["thinking"]
    assert claimed["questions"] >= 100
    sample = [item for item in read_items() if item.thought][::17]
    replies = [ask(*loaded, [], item.asked[0]) for item in sample]
    thought = sum(bool(reply.thought) and reply.well_formed for reply in replies)
    assert thought / len(sample) >= claimed["well_formed"] / claimed["questions"] - 0.2
    off = ask(*loaded, [], sample[0].asked[0], thinking=False)
    assert off.thought is None and overlap(off.answer, sample[0].answer) >= RIGHT


def test_code_and_prose_go_to_different_experts(loaded: tuple[Any, Any]) -> None:
    """The experts that a Python text and a German text choose differ measurably."""
    model, tokenizer = loaded
    inner = [layer.mlp.switch_mlp for layer in model.layers]
    recorders: list[Recorder] = record(model)
    try:
        for text in (PYTHON * 4, GERMAN * 6):
            mx.eval(model(mx.array([tokenizer.encode(text)[:96]])))
    finally:
        for layer, experts in zip(model.layers, inner, strict=True):
            layer.mlp.switch_mlp = experts
    bits = [information(recorder.histograms()) for recorder in recorders]
    assert np.mean(bits) > 0.1


def test_the_card_belongs_to_these_weights(folder: Path, numbers: dict[str, Any]) -> None:
    """The card's hash is that of the weights, and its sizes are theirs."""
    weights = folder / "model.safetensors"
    assert numbers["sha256"] == sha256(weights)
    assert numbers["weight_bytes"] == weights.stat().st_size
    config = json.loads((folder / "config.json").read_text())
    for name in ("num_hidden_layers", "num_experts", "hidden_size", "vocab_size"):
        assert numbers["geometry"][name] == config[name]


def test_one_expert_has_the_bytes_that_the_card_says(folder: Path, numbers: dict[str, Any]) -> None:
    """The bytes of one expert are those of its nine tensors' rows."""
    weights = mx.load(str(folder / "model.safetensors"))
    stacked = [t for name, t in weights.items() if name.startswith("model.layers.0.mlp.switch_mlp")]
    assert len(stacked) == 9
    assert sum(tensor.nbytes // tensor.shape[0] for tensor in stacked) == numbers["expert_bytes"]


def test_the_model_beats_bigrams_in_every_domain(numbers: dict[str, Any]) -> None:
    """The card's perplexity is below the bigram baseline's in each domain."""
    assert len(numbers["perplexity"]) >= 8
    for name, entry in numbers["perplexity"].items():
        assert entry["model"] < entry["bigram"], name


def test_routing_differs_by_domain_beyond_chance(numbers: dict[str, Any]) -> None:
    """In every layer the information exceeds that of shuffled labels, and experts are used."""
    for entry in numbers["domain_information"]:
        assert entry["bits"] > 2 * entry["shuffled_max"]
    assert numbers["never_used"] < 0.1


@pytest.mark.parametrize("source", ["PSF-2.0", "GPL", "CC-BY-SA", "LGPL", "CC0"])
def test_card_and_licence_name_the_sources(folder: Path, source: str) -> None:
    """The card and the licence statement name the licences of the training texts."""
    for name in ("README.md", "LICENSE"):
        text = (folder / name).read_text(encoding="utf-8")
        assert source in text or source in text.replace(" ", "-").replace("CC0-1.0", "CC0")
