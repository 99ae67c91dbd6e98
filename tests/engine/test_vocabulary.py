"""Text of token ids: characters of several tokens, decoders of other vocabularies, gaps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import outlier_jupyter
from outlier_jupyter import Run, load
from outlier_jupyter.checkpoint.model_folder import ModelFolder
from outlier_jupyter.engine.open_checkpoint import open_tokenizer
from outlier_jupyter.engine.vocabulary import OTHER, Vocabulary
from outlier_jupyter.errors import CheckpointError, OptionError
from outlier_jupyter.runs.text_stream import Transcript, pieces, readable
from tests.inspection import vocabulary_of

DEMO = Path(outlier_jupyter.__file__).parent / "demo"
TEXT = "A 🚀, a 👨‍👩‍👧 and 漢字: é\n"
SENTENCE_PIECE = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
}
METASPACE = {
    "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True
}  # fmt: skip
BYTE_LEVEL = {
    "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True
}  # fmt: skip


def folder_of(tmp_path, tokenizer=None, **changes):
    """The demo model with another tokenizer.json."""
    folder = Path(shutil.copytree(DEMO, tmp_path / "model", copy_function=shutil.copyfile))
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text()) if tokenizer is None else json.loads(tokenizer.to_str())
    file.write_text(json.dumps(content | changes, ensure_ascii=False))
    return folder


def tokenizer_of(folder):
    found = ModelFolder(folder)
    return open_tokenizer(found, found.config)


def pieced(gaps=False):
    """A vocabulary like SentencePiece's: words that begin with ▁, letters, and bytes."""
    words = ["▁", "▁an", "▁expert", "an", *"ab,", "▁a", "▁b", *(f"<0x{n:02X}>" for n in range(256))]
    ids = {word: number + (5 if gaps and number > 4 else 0) for number, word in enumerate(words)}
    ids["<unk>"] = max(ids.values()) + 1
    made = Tokenizer(models.BPE(ids, [("▁", "a"), ("▁", "b")], unk_token="<unk>",
                                byte_fallback=True))  # fmt: skip
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    return made


def streamed(tokenizer, tokens):
    transcript = Transcript(tokenizer.detokenizer, ())
    return "".join([*map(transcript.add, tokens), transcript.finish()])


@pytest.fixture(scope="module")
def engine():
    with load("demo", cache_gb=0.002, quiet=True) as engine:
        yield engine


@pytest.mark.parametrize("decoder", [None, SENTENCE_PIECE, METASPACE, BYTE_LEVEL])
def test_a_byte_level_vocabulary_is_read_as_one(tmp_path, decoder):
    """Whatever decoder the file names: streamed, at once, and token by token."""
    tokenizer = tokenizer_of(folder_of(tmp_path, decoder=decoder))
    tokens = tokenizer.encode(TEXT, add_special_tokens=False)
    assert streamed(tokenizer, tokens) == tokenizer.decode(tokens) == TEXT
    vocabulary = Vocabulary(tokenizer)
    assert "".join(pieces(map(vocabulary.bytes_of, tokens))) == TEXT


@pytest.mark.parametrize("decoder", [None, SENTENCE_PIECE, METASPACE, BYTE_LEVEL])
def test_a_vocabulary_of_sentence_piece_is_read_as_one(tmp_path, decoder):
    """Its ▁ become spaces and its bytes characters, under any decoder."""
    tokenizer = tokenizer_of(folder_of(tmp_path, pieced(), decoder=decoder))
    text = "a b a🚀a"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert streamed(tokenizer, tokens) == text
    assert tokenizer.decode(tokens[:2]).strip() == "a b"
    vocabulary = Vocabulary(tokenizer)
    assert "".join(pieces(map(vocabulary.bytes_of, tokens))) == text


def test_a_model_says_spaces_whatever_its_decoder(tmp_path):
    """The run's text, its prompt's pieces and the tables show words."""
    folder = folder_of(tmp_path, decoder=SENTENCE_PIECE)
    with load(folder, cache_gb=0.002, quiet=True, repacked="off") as engine:
        run = engine.generate("What is an expert?", max_tokens=8)
    assert "Ġ" not in run.text + "".join(run.read_pieces) and " is " in run.text
    assert "What is an expert?" in "".join(run.read_pieces)


def test_a_vocabulary_with_gaps_loads_and_its_gaps_are_silent(tmp_path):
    """Unknown ids, also among known ones, have no text; mlx-lm's detokenizers accept neither."""
    for decoder in (SENTENCE_PIECE, BYTE_LEVEL, None):
        tokenizer = tokenizer_of(folder_of(tmp_path / str(decoder), pieced(gaps=True),
                                           decoder=decoder))  # fmt: skip
        vocabulary = Vocabulary(tokenizer)
        gap = 6
        assert tokenizer.convert_ids_to_tokens(gap) is None and vocabulary.bytes_of(gap) == b""
        tokens = tokenizer.encode("a b", add_special_tokens=False)
        assert streamed(tokenizer, [gap, tokens[0], gap, *tokens[1:], 10**6, -1]) == "a b"


def test_what_is_no_tokenizer_is_refused_all_the_same(tmp_path):
    """Loading without mlx-lm's detokenizers does not accept any file."""
    folder = folder_of(tmp_path)
    (folder / "tokenizer.json").write_text('{"model": null, "decoder": null}')
    with pytest.raises(CheckpointError, match="cannot be read"):
        tokenizer_of(folder)


IDS = st.lists(st.integers(-3, 4200) | st.integers(-(2**70), 2**70), max_size=30)


@given(ids=IDS)
def test_pieces_of_any_ids_are_texts(engine, ids):
    """No id raises; joined, the pieces are the bytes' text; alone, each is valid text."""
    vocabulary = vocabulary_of(engine)
    spelt = [vocabulary.bytes_of(token) for token in ids]
    assert "".join(pieces(spelt)) == b"".join(spelt).decode("utf-8", "backslashreplace")
    assert len(pieces(spelt)) == len(ids) and "�" not in "".join(map(readable, spelt))
    whole = b"".join(spelt).decode("utf-8", "replace")
    # mlx-lm drops every token of one space before the first text.
    assert streamed(engine.tokenizer, ids).lstrip(" ") == whole.lstrip(" ")


@given(ids=st.lists(st.integers(0, 4095), max_size=30))
def test_streamed_text_is_that_of_decoding_at_once(engine, ids):
    """Token by token or all at once; mlx-lm's detokenizers begin a text without a space."""
    whole = engine.tokenizer.decode(ids)
    assert streamed(engine.tokenizer, ids).lstrip(" ") == whole.lstrip(" ")


@given(text=st.text(max_size=20))
def test_pieces_of_a_text_s_tokens_are_the_text(engine, text):
    """A character's text is at its last token, none before it: nothing is lost or doubled."""
    tokens = engine.tokenizer.encode(text, add_special_tokens=False)
    assert "".join(pieces(map(vocabulary_of(engine).bytes_of, tokens))) == text


def test_a_run_s_pieces_show_characters_of_several_tokens(engine, tmp_path):
    """The prompt's, too; a single part is shown as bytes, and a saved run shows the same."""
    run = engine.generate(TEXT, max_tokens=4)
    assert TEXT in "".join(run.read_pieces)
    rocket = [
        step for step, piece in enumerate(run.read_pieces[: run.trace.steps]) if piece == "🚀"
    ]
    (last,) = rocket
    assert [run.piece_at(step) for step in range(last - 3, last + 1)] == [
        "\\xf0", "\\x9f", "\\x9a", "🚀"]  # fmt: skip
    assert run.read_pieces[last - 3 : last] == ["", "", ""]
    assert "🚀" in "".join(run.piece(token) for token in run.trace.tokens.tolist())
    assert run.pieces(run.trace.tokens[last - 1 : last + 1]) == ["\\x9a", "\\x80"]
    other = Run.load(run.save(tmp_path / "run.trace"))
    assert other.read_pieces == run.read_pieces
    assert [other.piece(token) for token in run.trace.tokens.tolist()] == [
        run.piece(token) for token in run.trace.tokens.tolist()
    ]


def test_tables_show_characters_of_several_tokens(engine):
    """The token read, the next one, and both in their context."""
    run = engine.generate("🚀", max_tokens=2)
    step = run.read_pieces.index("🚀")
    layer, expert = 0, int(run.trace.experts[step, 0, 0])
    (row,) = [row for row in run.tokens_of(layer, expert).frame.itertuples() if row.step == step]
    assert row.token == "🚀" and "[🚀]" in row.context
    before = int(run.trace.experts[step - 1, 0, 0])
    rows = run.tokens_of(0, before).frame
    (row,) = [row for row in rows.itertuples() if row.step == step - 1]
    assert row.token == "\\x9a" and row.context.endswith("[\\x9a]🚀<|im_end|>↵<|im_start|>")
    assert "�" not in run.tokens_of(layer, expert)._repr_html_()


def test_runs_saved_before_keep_their_texts(engine, tmp_path):
    """A file without the parts of characters keeps its texts by id."""
    from outlier_jupyter.trace import files

    run = engine.generate("hello", max_tokens=2)
    path = run.save(tmp_path / "new.trace")
    _, saved = files.read(path)
    del saved["parts"]
    files.write(run.trace, tmp_path / "old.trace", saved)
    assert "".join(Run.load(tmp_path / "old.trace").read_pieces) == "".join(run.read_pieces)


def test_a_prompt_of_ids_that_the_model_has_not_is_refused(tmp_path):
    """A token was added beyond the embedding, where MLX would read arbitrary memory."""
    folder = folder_of(tmp_path)
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    made.add_special_tokens([f"<|extra{n}|>" for n in range(40)])
    beyond = "<|extra39|>"
    assert made.token_to_id(beyond) >= 4096
    made.save(str(folder / "tokenizer.json"))
    with load(folder, cache_gb=0.002, quiet=True, repacked="off") as engine:
        with pytest.raises(OptionError, match=r"gives id 4,1\d\d, and the model knows 4,096"):
            engine.generate(f"a {beyond}", max_tokens=1)
        assert engine.generate("a", max_tokens=1).generated == 1


def test_a_vocabulary_that_is_spelt_otherwise_is_left_to_mlx_lm():
    """Words without spaces are decoded one by one, and an id without a word is empty."""
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"ja": 0, "nein": 1, "?": 2}, unk_token="?"))
    )
    vocabulary = Vocabulary(TokenizerWrapper(words))
    assert vocabulary.spelling == OTHER
    assert [vocabulary.bytes_of(token) for token in (0, 1, 7, -1)] == [b"ja", b"nein", b"", b""]
    assert pieces([]) == []
