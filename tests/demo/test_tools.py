"""The generators and measures in tools/ are right, and the same seed gives the same output."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from demo_answers import overlap, split
from demo_corpus import DOMAINS, handbook_text, held_out
from demo_data import reply
from demo_evaluate import bigram_loss, windows
from demo_generators import arithmetic_document, equation, json_document, order, story, table
from demo_questions import Turn, conversation, read_items, small_sum, vary
from demo_routing import guessed_domains, information, never_used
from demo_tokenizer import (
    END_OF_THINK,
    NO_THINKING,
    SPECIAL,
    THINK,
    add_thinking,
    thinking,
    train_tokenizer,
)

LINE = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def holds(line: str) -> bool:
    """Whether an equation is true."""
    found = LINE.fullmatch(line)
    assert found, line
    left, sign, right, result = found.groups()
    a, b, c = int(left), int(right), int(result)
    return {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b * c == a}[sign]


@pytest.mark.parametrize("make", [arithmetic_document, json_document])
def test_a_seed_fixes_every_character(make: object) -> None:
    """The same seed makes the same document, another seed another."""
    assert callable(make)
    assert make(random.Random("a")) == make(random.Random("a"))
    assert make(random.Random("a")) != make(random.Random("b"))


def test_equations_are_true() -> None:
    """Every generated equation holds and has no negative result."""
    rng = random.Random(1)
    assert all(holds(equation(rng)) for _ in range(2000))


def test_stories_add_up() -> None:
    """The numbers of a story are a sum or a difference."""
    rng = random.Random(1)
    for _ in range(300):
        text = story(rng)
        have, change, result = (int(word) for word in re.findall(r"\d+", text))
        assert result == (have + change if "gets" in text else have - change)


def test_tables_are_true() -> None:
    """Rows of a table are true equations, and counts continue in even steps."""
    rng = random.Random(1)
    for _ in range(200):
        text = table(rng)
        if "=" in text:
            assert all(holds(line) for line in text.splitlines())
        else:
            assert len(set(np.diff([int(word) for word in text.split(", ")]))) == 1


def test_json_is_valid_and_totals_are_sums() -> None:
    """Every document parses as JSON or JSON lines, and orders add up."""
    rng = random.Random(1)
    for _ in range(200):
        text = json_document(rng)
        try:
            json.loads(text)
        except json.JSONDecodeError:
            assert all(json.loads(line) for line in text.splitlines())
        made = order(rng)
        lines = made["lines"]
        assert isinstance(lines, list)
        assert made["total"] == sum(line["count"] * line["price"] for line in lines)


def test_questions_are_well_formed() -> None:
    """At least 120 answers of one or two sentences, each with several ways to ask."""
    items = read_items()
    assert len(items) >= 120
    for item in items:
        assert len(item.asked) >= 4
        assert item.answer[-1] in ".!"
        assert len(item.answer) < 260


def test_a_hundred_answers_have_a_short_thought() -> None:
    """A thought is one or two sentences, says something of its own and has no tag in it."""
    thoughtful = [item for item in read_items() if item.thought]
    assert len(thoughtful) >= 100
    for item in thoughtful:
        assert item.thought[-1] in ".?" and 30 < len(item.thought) < 140
        assert item.thought not in item.answer and "<" not in item.thought


def test_no_question_has_two_answers() -> None:
    """No way to ask occurs twice, so held-out paraphrases are really held out."""
    ways = [way.lower() for item in read_items() for way in (*item.asked, item.held_out)]
    assert sorted(way for way in set(ways) if ways.count(way) > 1) == []


def test_held_out_paraphrases_are_never_trained_on() -> None:
    """Conversations draw only on the trained ways to ask."""
    items, rng = read_items(), random.Random(1)
    paraphrases = {item.held_out.lower().rstrip("?!. ") for item in items}
    for _ in range(3000):
        for turn in conversation(items, rng):
            assert turn.question.lower().rstrip("?!. ") not in paraphrases


def test_a_malformed_question_file_is_refused(tmp_path: Path) -> None:
    """A stray line is refused with its file and number."""
    (tmp_path / "bad.txt").write_text("? a | b\n= c\nstray\n")
    with pytest.raises(ValueError, match=r"bad\.txt:3"):
        read_items(tmp_path)


def test_varied_questions_keep_their_words() -> None:
    """Variation changes case, the end and a polite beginning, never the words."""
    rng = random.Random(1)
    for _ in range(300):
        assert vary("What is top-k?", rng).lower().rstrip("?").endswith("what is top-k")


def test_small_sums_are_true() -> None:
    """The answer to a small sum is a true equation."""
    rng = random.Random(1)
    assert all(holds(small_sum(rng)[1].rstrip(".")) for _ in range(300))


def test_the_split_is_fixed_and_small() -> None:
    """About one document in twenty is held out, and always the same ones."""
    names = [f"name-{number}" for number in range(4000)]
    assert [held_out(name) for name in names] == [held_out(name) for name in names]
    assert 0.03 < np.mean([held_out(name) for name in names]) < 0.08


def test_shares_leave_room_for_chat() -> None:
    """A fifth to a quarter of the training rows are conversations."""
    assert 0.15 <= 1 - sum(domain.share for domain in DOMAINS) <= 0.25


def test_handbook_pages_become_plain_text() -> None:
    """Headings and paragraphs stay; numbering, markup and listings are removed."""
    page = (
        '<h2 class="title"><a id="x"></a>6.2. <code>apt</code> Commands</h2>'
        '<div class="para">Use <code>apt</code> &amp; wait.<pre>x=1</pre></div>'
    )
    assert handbook_text(page) == "apt Commands\n\nUse apt & wait."


def test_overlap_is_an_f1_of_words() -> None:
    """Equal texts score 1, disjoint ones 0, half-equal ones between."""
    assert overlap("a b c.", "A b c.") == 1.0
    assert overlap("a b", "c d") == 0.0
    assert overlap("a b", "a c") == pytest.approx(0.5)


def test_windows_do_not_overlap() -> None:
    """Windows cover different tokens; each ends with the first token of the next place."""
    rows = windows(np.arange(101), 10, 5)
    assert rows.shape == (5, 11)
    assert len(np.unique(rows[:, :-1])) == 50


def test_the_bigram_baseline_learns_a_cycle() -> None:
    """On a cycle of tokens the baseline is nearly certain, on noise it is not."""
    cycle = np.tile(np.arange(8, dtype=np.uint16), 400)
    noise = np.random.default_rng(0).integers(0, 8, 3200).astype(np.uint16)
    assert np.exp(bigram_loss(cycle, windows(cycle, 16, 4), 8)) < 1.05
    assert np.exp(bigram_loss(noise, windows(noise, 16, 4), 8)) > 6


def test_information_of_known_tables() -> None:
    """Disjoint rows of two give one bit, equal rows none."""
    assert information(np.array([[5, 5, 0, 0], [0, 0, 3, 3]])) == pytest.approx(1.0)
    assert information(np.array([[5, 5], [3, 3]])) == pytest.approx(0.0)


def test_domains_are_guessed_from_disjoint_experts() -> None:
    """Disjoint routing is guessed without error, and unused experts are counted."""
    first, second = np.zeros((4, 1, 4), int), np.zeros((4, 1, 4), int)
    first[:, 0, 0] = 9
    second[:, 0, 1] = 9
    routing = {"a": first, "b": second}
    assert guessed_domains(routing) == 1.0
    assert never_used(routing) == 0.5


def test_the_tokenizer_keeps_digits_single() -> None:
    """Numbers are cut into digits, and special tokens come first."""
    tokenizer = train_tokenizer(["12 + 34 = 46 and words, words, words"] * 50, 300)
    assert tokenizer.encode("1234").tokens == ["1", "2", "3", "4"]
    assert [tokenizer.token_to_id(name) for name in SPECIAL] == [0, 1, 2]


def test_the_tags_of_thinking_take_the_last_two_places() -> None:
    """Of a full vocabulary the last two merges give way, and every text is still given back."""
    full = train_tokenizer(["12 + 34 = 46 and words, words, words"] * 50, 290)
    size = full.get_vocab_size()
    made = add_thinking(full, size)
    assert made.get_vocab_size() == size
    assert [made.token_to_id(tag) for tag in (THINK, END_OF_THINK)] == [size - 2, size - 1]
    text = f"{THINK}\nwords\n{END_OF_THINK}\n\nand words"
    ids = made.encode(text).ids
    assert made.decode(ids) == text and ids[0] == size - 2
    assert add_thinking(made, size) is made


def written(turn: Turn, last: bool, seed: int) -> tuple[str, str]:
    """All of a reply as training sees it, and the part that counts in the loss, in words."""
    words: list[str] = []
    counted: list[str] = []

    def add(text: str, silent: int | None) -> None:
        pieces = text.split(" ")
        words.extend(pieces)
        counted.extend([] if silent is None else pieces[silent:])

    reply(turn, last, random.Random(seed), add)
    return " ".join(words), " ".join(counted)


def test_thoughts_stand_only_in_the_last_turn() -> None:
    """Earlier turns have lost theirs, and that they begin with the answer is not learnt."""
    turn = Turn("Why?", "So it is.", "I think hard.")
    assert written(turn, False, 0) == ("So it is.<|im_end|>", "it is.<|im_end|>")
    assert written(turn._replace(thought=""), False, 0)[1] == "So it is.<|im_end|>"
    replies = {written(turn, True, seed) for seed in range(200)}
    answer = "So it is.<|im_end|>"
    cut = {text for text, counted in replies if counted == answer}
    assert (f"{thinking('I think hard.')} {answer}",) * 2 in replies
    assert cut == {f"{block} {answer}" for block in
                   (NO_THINKING, thinking("I"), thinking("I think"))}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Yes.", (None, "Yes.", True)),
        ("<think>\nA.\n</think>\n\nYes.", ("A.", "Yes.", True)),
        ("<think>\nA.", ("A.", "", False)),
        ("A.</think>Yes.", ("", "", False)),
        ("Oh <think>A.</think>Yes.", ("A.", "Yes.", False)),
        ("<think>A.</think><think>B.</think>Yes.", ("A.", "<think>B.</think>Yes.", False)),
    ],
)
def test_thoughts_are_separated_from_answers(text: str, found: tuple[object, ...]) -> None:
    """A block at the beginning is the thought; any other use of the tags is not well formed."""
    reply = split(text)
    assert (reply.thought, reply.answer, reply.well_formed) == found
