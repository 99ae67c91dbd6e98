"""`repack --shard i/n` writes what one rank needs; with that alone ranks give the same tokens."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.checkpoint import Checkpoint
from outlier_jupyter.checkpoint.shard import MANIFEST, check_share, merged, shard_of
from outlier_jupyter.errors import CheckpointError, OptionError, RepackFailed
from tests.models import checkpoint

PROMPT = "What is it?"


@pytest.fixture(scope="module", params=["qwen3_moe", "gpt_oss"])
def model(request, tmp_path_factory):
    return checkpoint(request.param, tmp_path_factory.mktemp("model") / "tiny")


def folders(model, to) -> str:
    """Both shards of two; a name that load understands."""
    for number in (1, 2):
        outlier_jupyter.repack(model, to / f"{number}-of-2", shard=f"{number}/2", quiet=True)
    return str(to / "{shard}-of-2")


def test_two_ranks_with_their_shares_alone_give_the_tokens_of_one_process(model, tmp_path):
    """Each has the dense part and its own experts; the other's are holes."""
    options = {"raw": True, "max_tokens": 4}
    with outlier_jupyter.load(model, cache_experts=12) as engine:
        engine.tokenizer.eos_token_ids = set()
        expected = engine.generate(PROMPT, **options)
    name = folders(model, tmp_path)
    shutil.move(model, hidden := tmp_path / "moved")
    try:
        with outlier_jupyter.load(name, hosts=2, cache_experts=6) as engine:
            engine.tokenizer.eos_token_ids = set()
            run = engine.generate(PROMPT, **options)
    finally:
        shutil.move(hidden, model)
    assert run.tokens.tolist() == expected.tokens.tolist()
    assert np.array_equal(run.trace.logprobs, expected.trace.logprobs, equal_nan=True)


def test_the_shares_are_the_model_and_no_more(model, tmp_path):
    """Of all bytes, those of experts are in one share each and all others in both."""
    folders(model, tmp_path)
    whole = {name: span.bytes for name, span in Checkpoint(model).spans.items()}
    halves = [Checkpoint(tmp_path / f"{number}-of-2").spans for number in (1, 2)]
    for name, where in whole.items():
        data = _bytes(where)
        parts = [np.frombuffer(_bytes(half[name].bytes), np.uint8) for half in halves]
        if all(part.tobytes() == data for part in parts):
            continue
        assert not (parts[0].astype(bool) & parts[1].astype(bool)).any(), name
        assert (parts[0] | parts[1]).tobytes() == data, name
    here, there = (shard_of(tmp_path / f"{number}-of-2") for number in (1, 2))
    assert (here.words, there.words) == ("shard 1 of 2", "shard 2 of 2")
    for first, second in zip(here.experts, there.experts, strict=True):
        assert not set(first) & set(second) and sorted(first + second) == list(range(8))


def _bytes(where) -> bytes:
    with where.file.open("rb") as file:
        file.seek(where.offset)
        return file.read(where.nbytes)


def test_another_rank_s_work_is_refused(model, tmp_path):
    """By one process, by a rank of another number or count, and by a second repack."""
    outlier_jupyter.repack(model, tmp_path / "one", shard="1/2", quiet=True)
    with pytest.raises(OptionError, match="has shard 1 of 2 alone: load it with hosts"):
        outlier_jupyter.load(tmp_path / "one")
    with pytest.raises(OptionError, match="has shard 1 of 2 alone: load it with hosts"):
        outlier_jupyter.repack(tmp_path / "one", tmp_path / "two")
    own = [np.isin(np.arange(8), layer) for layer in shard_of(tmp_path / "one").experts]
    check_share(tmp_path / "one", own)
    with pytest.raises(OptionError, match="use 2 hosts, this one as number 1"):
        check_share(tmp_path / "one", [~each for each in own])
    with pytest.raises(OptionError, match="the same placement"):
        check_share(tmp_path / "one", own[:1])


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/65", "-1/2"])
def test_a_share_that_is_none_is_refused(model, tmp_path, shard):
    """Numbers outside 1 to n, other texts, and too many ranks."""
    with pytest.raises(OptionError, match="is no share"):
        outlier_jupyter.repack(model, tmp_path / "x", shard=shard)


def test_a_folder_that_is_not_a_shard_s_stays(model, tmp_path):
    """A shard needs a folder of its own; an earlier shard's is written anew."""
    with pytest.raises(OptionError, match="a folder of its own"):
        outlier_jupyter.repack(model, shard="1/2")
    with pytest.raises(RepackFailed, match="is no shard's folder"):
        outlier_jupyter.repack(model, model, shard="1/2")
    for shard in ("1/2", "2/3"):
        outlier_jupyter.repack(model, tmp_path / "x", shard=shard, quiet=True)
    assert shard_of(tmp_path / "x").words == "shard 2 of 3"
    (tmp_path / "x" / MANIFEST).write_text('{"number": 1}')
    with pytest.raises(CheckpointError, match="write the shard again"):
        outlier_jupyter.load(tmp_path / "x")


def test_ranges_are_joined():
    """Those that touch or overlap; empty ones are left out."""
    assert merged([(5, 9), (0, 2), (2, 4), (8, 12), (20, 20)]) == [(0, 4), (5, 12)]
