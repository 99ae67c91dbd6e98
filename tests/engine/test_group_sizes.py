"""Scales that are wider than their layer are refused; MLX would end the process."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from tests.torture.child import run_child

LOAD = """
import sys
import outlier_jupyter
from outlier_jupyter.errors import OutlierError
try:
    outlier_jupyter.load(sys.argv[1], cache_experts=4, quiet=True)
except OutlierError as error:
    print(error)
"""


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint in a folder of its own, with 999 scales for each row of one layer."""
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    for file in folder.glob("*.safetensors"):
        tensors = mx.load(str(file))
        for name, scales in tensors.items():
            if name.endswith("q_proj.scales"):
                tensors[name] = mx.ones((scales.shape[0], 999), scales.dtype)
        mx.eval(tensors)
        mx.save_safetensors(str(file), tensors, {"format": "mlx"})
    return folder


def test_a_model_with_more_scales_than_weights_is_refused_in_one_sentence(own):
    """In a process of its own, which ends in order."""
    ended = run_child(str(own), code=LOAD)
    assert ended.failure() == ""
    assert "have 999 scales a row for a layer" in ended.output
    assert ended.output.count("\n") == 1 and "copy config.json and the shards" in ended.output
