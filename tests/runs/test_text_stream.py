"""The stream emits all text once, up to the first stop word, however tokens split it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.runs.text_stream import Transcript

TEXT = st.text("ab<", max_size=30)
WORDS = st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3)


class Pieces:
    """A detokenizer that emits prepared pieces; token n is piece n."""

    def __init__(self, pieces: list[str], rest: str) -> None:
        self.pieces, self.rest, self.last_segment = pieces, rest, ""

    def add_token(self, token: int) -> None:
        self.last_segment = self.pieces[token]

    def finalize(self) -> None:
        self.last_segment = self.rest


def until_stop(text: str, words: list[str]) -> str:
    ends = [text.find(word) for word in words if word in text]
    return text[: min(ends)] if ends else text


@given(pieces=st.lists(TEXT, max_size=12), rest=TEXT, words=WORDS)
def test_the_text_is_all_of_it_up_to_the_first_stop_word(pieces, rest, words):
    """Deltas join to `text`, the whole text up to the start of the first stop word.

    If two stop words end in different pieces, the first to be complete ends the run, as it must
    in a stream.
    """
    transcript, seen, deltas = Transcript(Pieces(pieces, rest), words), "", []
    for token, piece in enumerate(pieces):
        seen += piece
        deltas.append(transcript.add(token))
        assert transcript.stopped == any(word in seen for word in words)
        if transcript.stopped:
            break
    else:
        seen += rest
    deltas.append(transcript.finish())
    assert "".join(deltas) == transcript.text == until_stop(seen, words)


def test_the_beginning_of_a_stop_word_is_held_back():
    """A possible prefix of a stop word is not shown until it is known not to be one."""
    transcript = Transcript(Pieces(["one <", "/", "end", "x"], ""), ["</s>"])
    assert transcript.add(0) == "one "
    assert transcript.add(1) == ""
    assert transcript.add(2) == "</end"
    assert transcript.text == "one </end" and not transcript.stopped


def test_text_held_back_comes_at_the_end():
    """A run that ends within a prefix of a stop word loses no text."""
    transcript = Transcript(Pieces(["a<"], "</"), ["</s>"])
    assert transcript.add(0) == "a"
    assert transcript.finish() == "<</"
    assert transcript.text == "a<</"
    assert transcript.finish() == "" and transcript.text == "a<</"


class Counted(str):
    """A stop word that counts how often it is sliced."""

    taken = 0

    def __getitem__(self, key: object) -> str:
        Counted.taken += 1
        return str.__getitem__(self, key)  # type: ignore[index]


def test_a_stop_word_of_a_megabyte_is_looked_for_as_far_as_the_text_goes():
    """The search does not slice the stop word once for each of its characters."""
    transcript = Transcript(Pieces(["ab", "b<", "ab"], ""), [Counted("ab<" * 333_333)])
    message = [transcript.add(n) for n in range(3)]
    assert "".join(message) == "abb<" and transcript.finish() == "ab"
    assert Counted.taken < 20
