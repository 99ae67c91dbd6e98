"""Headers become byte ranges, and ranges that do not fit the file are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from outlier_jupyter.checkpoint import Checkpoint, ExpertPart
from outlier_jupyter.checkpoint.layout import read_header
from outlier_jupyter.errors import CheckpointError

DTYPES = st.sampled_from([np.uint8, np.int16, np.float16, np.uint32, np.float32, np.int64])
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


@given(
    tensors=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8})?", fullmatch=True),
        st.tuples(DTYPES, SHAPES),
        min_size=1,
        max_size=6,
    )
)
def test_every_range_holds_the_bytes_the_safetensors_library_wrote(tensors, tmp_path_factory):
    """For any tensors the library writes, the bytes at each range are that tensor's bytes."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 100, shape).astype(dtype) for name, (dtype, shape) in tensors.items()
    }
    file = tmp_path_factory.mktemp("layout") / "model.safetensors"
    save_file(arrays, file)
    content = file.read_bytes()
    spans = read_header(file).spans
    assert spans.keys() == arrays.keys()
    for name, array in arrays.items():
        where = spans[name].bytes
        assert content[where.offset : where.offset + where.nbytes] == array.tobytes()
        assert spans[name].shape == array.shape


def test_an_expert_of_a_stacked_tensor_is_its_row(tmp_path):
    """`at(e)` of a stacked part is row e; an expert out of range is an IndexError."""
    stacked = np.arange(4 * 6, dtype=np.float32).reshape(4, 2, 3)
    save_file({"mlp.up": stacked}, tmp_path / "model.safetensors")
    part = ExpertPart("up", "F32", Checkpoint(tmp_path).spans["mlp.up"].view())
    assert part.experts == 4 and part.shape == (2, 3)
    content = part.at(0).file.read_bytes()
    for expert in range(4):
        _, offset, nbytes = part.at(expert)
        assert content[offset : offset + nbytes] == stacked[expert].tobytes()
    with pytest.raises(IndexError, match="0 to 3, not 4"):
        part.at(4)


def damaged(name: str, file: Path) -> None:
    """Write one kind of broken safetensors file."""
    header = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    if name == "short":
        file.write_bytes(b"\x01\x02")
        return
    if name == "dtype":
        header["w"]["dtype"] = "F3"
    if name == "offsets":
        header["w"]["data_offsets"] = [0, 4]
    if name == "negative":
        header["w"] |= {"shape": [-2], "data_offsets": [8, 0]}
    if name == "malformed":
        del header["w"]["shape"]
    text = b"{nonsense" if name == "json" else json.dumps(header).encode()
    data = b"" if name == "truncated" else bytes(8)
    length = 10**9 if name == "length" else len(text)
    file.write_bytes(struct.pack("<Q", length) + text + data)


@pytest.mark.parametrize(
    "name", ["short", "dtype", "offsets", "negative", "malformed", "json", "truncated", "length"]
)
def test_a_damaged_file_is_refused_by_name(name, tmp_path):
    """Each kind of damage is a CheckpointError that names the file."""
    damaged(name, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Checkpoint(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    """The error for a folder with no model*.safetensors names the files that it should contain."""
    with pytest.raises(CheckpointError, match="holds no model"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F" * 5000, "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2] * 5000, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": ["x" * 5000], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**4000]},
    ],
)
def test_a_message_does_not_quote_a_whole_header(entry, tmp_path):
    """Long names, types, shapes and numbers are cut."""
    text = json.dumps({"w" * 5000: entry}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(CheckpointError) as caught:
        Checkpoint(tmp_path)
    assert len(str(caught.value)) < 300 + len(str(file))
