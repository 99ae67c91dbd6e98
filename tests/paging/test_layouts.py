"""Paging is exact however a checkpoint names, splits, joins and transposes its experts."""

from __future__ import annotations

import copy

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import _get_classes as classes_of
from mlx_lm.utils import load_model

import outlier_jupyter
from outlier_jupyter.engine import open_checkpoint as opening
from outlier_jupyter.errors import NotPageable
from outlier_jupyter.paging.slot_bank import host_bytes
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.system.memory_info import Machine
from outlier_jupyter.testing import tiny_checkpoint
from tests import layouts, models
from tests.inspection import inside
from tests.layouts import LAYOUTS, beside, everywhere, experts, packed_one_by_one, taken
from tests.paging.test_formats import DECODED, installed, logits

ONLY_STACKED = {"gpt_oss", "deepseek_v41", "muse_spark", "prism_hadamard_qwen35", "qwen3_5"}
"""Types whose `sanitize` accepts none of the layouts, or one that has its own test below."""
TYPES = [name for name in models.model_types() if name not in models.CANNOT]


PROVED: dict[str, list[str]] = {}


def proved(layout: str, model_type: str, support, how: str = "exact") -> None:
    """Add a model type to a layout's row."""
    types = PROVED.setdefault(layout, [])
    types.append(model_type)
    support.record("layouts", layout, ", ".join(sorted(types)), how)


def assert_exact(folder, layout="") -> None:
    """Paged logits are the unpaged model's; a shorter test once two types have proved `layout`."""
    reference, _ = load_model(folder)
    brief = len(PROVED.get(layout, ())) >= 2
    calls = ((1, 0), (40, 2)) if brief else ((1, 0), (7, 0), (130, DECODED))
    expected = [logits(reference, *call) for call in calls]
    assert all(np.isfinite(rows).all() and rows.std() > 0 for rows in expected)
    for slots in (5,) if brief else (2, 5, 64):
        with outlier_jupyter.load(folder, cache_experts=slots) as engine:
            assert inside(engine).switches
            for call, rows in zip(calls, expected, strict=True):
                assert np.array_equal(logits(engine.model, *call), rows)


@pytest.mark.parametrize("model_type", TYPES)
def test_every_layout_a_type_takes_is_exact(model_type, tmp_path, support):
    """Raw Hugging Face layouts over two shards are bit-identical, for every type and layout."""
    config = models.tiny_config(model_type)
    model_class, args_class = classes_of(copy.deepcopy(config))
    found = taken(model_class(args_class.from_dict(copy.deepcopy(config))))
    assert found or model_type in ONLY_STACKED
    for name, layout in found.items():
        folder = tiny_checkpoint(
            tmp_path / str(len(name)),
            bits=None,
            shards=2,
            rewrite=everywhere(layout),
            base=config,
        )
        assert_exact(folder, name)
        proved(name, model_type, support)


PUBLISHED = {
    "gpt_oss": (
        "`gate_up_proj_blocks`, rows in turn, mxfp4",
        everywhere(layouts.gpt_oss),
        {"quant_method": "mxfp4"},
    ),
    "minimax_m3_vl": (
        "`experts.E.w1.weight_scale_inv`, mxfp8",
        everywhere(packed_one_by_one(experts, "mxfp8", "weight", "weight_scale_inv")),
        {"quant_method": "mxfp8"},
    ),
    "kimi_k3": (
        "`experts.E.w1.weight_packed`, mxfp4",
        everywhere(packed_one_by_one(
            lambda path: f"{beside('block_sparse_moe')(path)}.experts",
            "mxfp4", "weight_packed", "weight_scale",
        )),
        {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"},
    ),
    "deepseek_v41": (
        "`ffn.experts.E.w1.scale`, mxfp4",
        layouts.deepseek_v41,
        {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [32, 32]},
    ),
}  # fmt: skip
"""Type → layout, its writer, and its config entry, of checkpoints published in packed form."""


def published(folder, model_type, rewrite, quantization_config):
    """A raw checkpoint with experts already packed, in the format that its config names."""
    base = models.tiny_config(model_type) | {"quantization_config": quantization_config}
    return tiny_checkpoint(folder, bits=None, rewrite=rewrite, base=base)


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_packed_experts_are_exact_as_published(model_type, tmp_path, support):
    """Experts published in quantised form are read unconverted, and the logits are mlx-lm's."""
    name, rewrite, quantization_config = PUBLISHED[model_type]
    assert_exact(published(tmp_path, model_type, rewrite, quantization_config))
    proved(name, model_type, support)


@pytest.mark.parametrize("model_type", ["mixtral", "olmoe", "afmoe"])
def test_quantised_experts_one_by_one_are_exact(model_type, tmp_path, support):
    """An expert's weights, scales and biases are found in separate tensors."""
    layout = LAYOUTS["`experts.E.w1`" if model_type == "mixtral" else "`experts.E.gate_proj`"]
    assert_exact(
        tiny_checkpoint(
            tmp_path,
            rewrite=everywhere(layout),
            base=models.tiny_config(model_type),
        )
    )
    proved("`experts.E.gate_proj.scales`, affine", model_type, support)


def test_a_small_tensor_that_is_computed_stays_in_ram(tmp_path, support):
    """muse_spark's nvfp4: bytes are read unconverted, an expert matrix's scale is multiplied.

    Its attention has no kernel on the CPU, so the test compares the slots with mlx-lm's tensors.
    """
    settings = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    folder = published(tmp_path, "muse_spark", layouts.muse_spark, settings)
    with installed(folder, slots=3) as made:
        assert_slots_hold_what_mlx_lm_makes(folder, made)
        assert {part.name for part in made.switches[0].parts if part.in_memory is not None} == {
            f"{name}_proj.global_scale" for name in ("gate", "up", "down")
        }
    proved("`gate_up_proj_weight_scale_2`, nvfp4", "muse_spark", support, "bytes; MLX needs a GPU")


def assert_slots_hold_what_mlx_lm_makes(folder, made) -> None:
    reference, _ = load_model(folder)
    modules = dict(reference.named_modules())
    for layer, switch in enumerate(made.switches):
        for expert in range(switch.experts):
            key = ExpertKey(layer, expert)
            slot = made.pagers[0].acquire([key])[key]
            for part in switch.parts:
                projection, _, name = part.name.partition(".")
                row = mx.contiguous(modules[f"{switch.path}.{projection}"][name][expert])
                mx.eval(row)
                assert bytes(made.pagers[0].bank.row(part.name, slot)) == bytes(host_bytes(row))


def test_a_tensor_that_two_files_hold_is_the_one_mlx_lm_takes(tmp_path):
    """A folder with two sets of shards is read as mlx-lm reads it."""
    folder = tiny_checkpoint(tmp_path / "one", bits=None)
    other = tiny_checkpoint(tmp_path / "two", bits=None, seed=1)
    for number in range(3):  # names that mix the two sets in any directory order
        file = (other if number % 2 else folder) / "model.safetensors"
        (folder / f"model-{7 * number % 5}.safetensors").write_bytes(file.read_bytes())
    assert_exact(folder)


def computed(kind, folder):
    """A deepseek_v3 whose expert values `sanitize` changes."""

    def write(path, tensors):
        written = {}
        for name, stacked in tensors.items():
            projection, _, _ = name.partition(".")
            for expert in range(stacked.shape[0]):
                base = f"{experts(path)}.{expert}.{projection}"
                if kind == "fp8":
                    written[f"{base}.weight"] = mx.to_fp8(stacked[expert])
                    written[f"{base}.weight_scale_inv"] = mx.ones((1, 1))
                else:
                    weight, scales, _ = mx.quantize(stacked[expert], 32, 4)
                    written[f"{base}.weight_packed"] = weight.view(mx.int32)
                    written[f"{base}.weight_scale"] = scales
                    written[f"{base}.weight_shape"] = mx.array(stacked.shape[1:])
        return written

    settings = {
        "fp8": {"quant_method": "fp8"},
        "int4": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    }
    return published(folder, "deepseek_v3", everywhere(write), settings[kind])


@pytest.mark.parametrize(("kind", "how"), [("fp8", "FromFP8"), ("int4", "Multiply")])
def test_experts_that_are_computed_are_refused_where_the_whole_does_not_fit(
    kind, how, tmp_path, monkeypatch
):
    """One sentence names the tensor, its operation, the limit and what to do."""
    monkeypatch.setattr(opening, "machine_memory", lambda: Machine(2**30, 1000))
    folder = computed(kind, tmp_path)
    with pytest.raises(NotPageable, match=rf"mlx-lm computes .*\({how}\).*mlx_lm.convert.* free"):
        outlier_jupyter.load(folder)


def test_computed_experts_are_loaded_completely_where_they_fit(tmp_path, support):
    """A warning gives the reason, and the output is mlx-lm's."""
    folder = computed("int4", tmp_path)
    reference, _ = load_model(folder)
    with pytest.warns(UserWarning, match=r"mlx-lm computes .* is loaded into RAM") as warned:
        engine = outlier_jupyter.load(folder)
    assert len(warned) == 1
    with engine:
        assert engine.status().layers == 0
        assert np.array_equal(logits(engine.model, 7), logits(reference, 7))
    proved("fp8 or int4 that mlx-lm computes with", "deepseek_v3", support, "held whole")


def test_the_page_lists_every_layout(support):
    """docs/models.md lists the results of the tests above."""
    support.check("layouts")
