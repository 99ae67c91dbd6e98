"""One table describes the model families, and a family from outside is one file."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import outlier_jupyter
from outlier_jupyter.errors import OptionError
from outlier_jupyter.families import FAMILIES, names
from tests.paging import outside_moe


def test_a_family_from_outside_takes_one_file(tiny: Path, tmp_path: Path) -> None:
    """Its number of experts per token is found and can be changed, and it pages like any other."""
    folder = tmp_path / "outside"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "outside_moe", "experts_used": config.pop("num_experts_per_tok")}
    (folder / "config.json").write_text(json.dumps(config))
    outside_moe.add()
    try:
        with outlier_jupyter.load(folder, cache_experts=8, top_k=3, quiet=True) as engine:
            assert engine.info.native_top_k == 2
            run = engine.generate("Hello", raw=True, max_tokens=3)
            assert run.trace.experts.shape[2] == 3
        del FAMILIES["outside_moe"]
        with pytest.raises(OptionError, match="names no number of experts"):
            outlier_jupyter.load(folder, cache_experts=8, top_k=3, quiet=True)
    finally:
        FAMILIES.pop("outside_moe", None)
        del sys.modules["mlx_lm.models.outside_moe"]


def test_the_names_that_many_families_share_come_first() -> None:
    """Common names come first, most reliable first and each once; a family's own names follow."""
    assert names("top_k")[0] == "num_experts_per_tok"
    assert all(
        len(set(names(each))) == len(names(each)) > 0 for each in ("shared_experts", "routers")
    )
