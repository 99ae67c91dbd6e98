"""In every storage format of experts, paged logits are bit-identical to mlx-lm's unpaged logits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from mlx_lm.utils import load_model
from safetensors import deserialize

import outlier_jupyter
from outlier_jupyter.checkpoint import Checkpoint, open_reader
from outlier_jupyter.errors import UnsupportedModel
from outlier_jupyter.paging import find, install, share_slots
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.testing import tiny_checkpoint
from tests.inspection import inside
from tests.paging import stand_ins

WIDE = {
    "hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128,
    "num_hidden_layers": 2, "head_dim": 64,
}  # fmt: skip
"""Widths that every group size divides."""
NARROW = {"hidden_size": 64, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 64}
"""MLX's CPU kernels take several times as long in half precision."""
ARCHITECTURES = {
    "qwen3_moe": WIDE,
    # A clipped activation of two inputs, and expert biases.
    "gpt_oss": WIDE
    | {
        "num_local_experts": 8,
        "sliding_window": 16,
        "num_key_value_heads": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}
BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
FORMATS = {
    f"affine {bits} bit, groups of {group}": {"bits": bits, "group_size": group}
    for bits in BITS
    for group in GROUPS
} | {
    "mxfp4": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    "mxfp8": {"bits": 8, "group_size": 32, "mode": "mxfp8"},
    "nvfp4": {"bits": 4, "group_size": 16, "mode": "nvfp4"},
    "float32": {"bits": None},
    "affine 4 bit, computed in bfloat16": {"bits": 4, "dtype": mx.bfloat16, **NARROW},
    "affine 4 bit, computed in float16": {"bits": 4, "dtype": mx.float16, **NARROW},
    "bfloat16 under a float32 model": {"bits": None, "expert_dtype": mx.bfloat16},
    "float16 under a float32 model": {"bits": None, "expert_dtype": mx.float16},
}
SLOTS = (2, 5, 16)
"""Slots for 2 layers × 8 experts, top-2: one token's in a layer, a few, all."""
LENGTHS = (1, 7, 130)
DECODED = 20


def logits(model, length: int, decoded: int | None = None) -> np.ndarray:
    """Logits of a whole prompt and of decoded tokens: [length + decoded, vocabulary].

    The default of `decoded` is that of a test of exactness: 20 after the longest prompt, else 0.
    """
    if decoded is None:
        decoded = DECODED if length == max(LENGTHS) else 0
    tokens = np.random.default_rng(length).integers(0, 256, length)
    cache = make_prompt_cache(model)
    rows = [model(mx.array(tokens[None]), cache=cache)[0]]
    rows += [model(mx.array([[11 * step + 3]]), cache=cache)[0] for step in range(decoded)]
    return np.concatenate([np.array(row.astype(mx.float32)) for row in rows])


def assert_exact(folder, slots=SLOTS, lengths=LENGTHS) -> None:
    reference, _ = load_unpaged(str(folder))
    expected = {length: logits(reference, length) for length in lengths}
    assert all(np.isfinite(rows).all() and rows.std() > 0 for rows in expected.values())
    for count in slots:
        with outlier_jupyter.load(folder, cache_experts=count) as engine:
            for length in lengths:
                assert np.array_equal(logits(engine.model, length), expected[length])


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_exact(name, model_type, checkpoint_of, support):
    """Prefill of 1, 7 and 130 tokens and decode are bit-identical in every format.

    Formats alternate between two architectures: all cache sizes on one, the middle size on the
    other. A format decides which tensors are read and an architecture what is computed with them;
    the two are independent.
    """
    settings = ARCHITECTURES[model_type] | FORMATS[name]
    mine = (list(FORMATS).index(name) + list(ARCHITECTURES).index(model_type)) % 2
    assert_exact(
        checkpoint_of(model_type=model_type, **settings),
        *((SLOTS, LENGTHS) if mine else (SLOTS[1:2], LENGTHS[1:])),
    )
    support.record("expert formats", name, ", ".join(ARCHITECTURES), "exact")


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_mixed_formats_are_exact(model_type, checkpoint_of, support):
    """Tensors and layers keep their own bits, group size and mode, or stay unquantised.

    Each layer's experts have a different size, so each layer has its own bank.
    """
    switch = "mlp.experts" if model_type == "gpt_oss" else "mlp.switch_mlp"
    first, second = (f"model.layers.{layer}.{switch}" for layer in range(2))
    folder = checkpoint_of(
        model_type=model_type,
        per_path={
            f"{first}.down_proj": {"bits": 6, "group_size": 64, "mode": "affine"},
            f"{first}.gate_proj": {"bits": 8, "group_size": 32, "mode": "mxfp8"},
            f"{second}.up_proj": False,
            f"{second}.down_proj": {"bits": 3, "group_size": 32, "mode": "affine"},
        },
        **ARCHITECTURES[model_type],
    )
    with outlier_jupyter.load(folder, cache_experts=5) as engine:
        assert len(inside(engine).pagers) == 2
        assert len(set(engine.info.expert_nbytes)) == 2
    assert_exact(folder, slots=(2, 5, 16))
    support.record(
        "expert formats", "mixed per tensor and layer", ", ".join(ARCHITECTURES), "exact"
    )


NOT_ON_THE_CPU = {
    "bfloat16": {"bits": None, "dtype": mx.bfloat16},
    "float16": {"bits": None, "dtype": mx.float16},
    "nvfp4 with a global scale": {"bits": 4, "group_size": 16, "mode": "nvfp4"},
}
"""Formats that MLX 0.32 multiplies on a GPU only, paged or not."""
WITH_A_STAND_IN = "bytes; exact with a stand-in for MLX's product, which needs a GPU"


def scaled(model, tensors):
    """Give every expert matrix in nvfp4 the global scale that a converted checkpoint has."""
    for path, module in model.named_modules():
        if isinstance(module, QuantizedSwitchLinear):
            tensors[f"{path}.global_scale"] = mx.random.uniform(shape=(module.num_experts,)) + 1
    return tensors


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("name", NOT_ON_THE_CPU)
def test_formats_the_device_cannot_multiply_are_read_exactly(name, model_type, tmp_path, support):
    """Where MLX has no kernel, one sentence refuses them; their slots contain the right bytes."""
    settings = ARCHITECTURES[model_type] | NOT_ON_THE_CPU[name]
    rewrite = scaled if "scale" in name else None
    folder = tiny_checkpoint(tmp_path, model_type=model_type, rewrite=rewrite, **settings)
    with pytest.raises(UnsupportedModel, match="MLX cannot multiply experts stored as") as refused:
        outlier_jupyter.load(folder)
    assert name.split()[0] in str(refused.value) and "\n" not in str(refused.value)
    reference, _ = load_unpaged(str(folder))
    with pytest.raises((RuntimeError, ValueError), match=r"float32|on the GPU") as unpaged:
        mx.eval(reference(mx.array([[1]])))
    assert str(unpaged.value).rstrip(".") in str(refused.value)
    with installed(folder, slots=3) as switches:
        assert_slots_hold_the_tensors(folder, switches)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("name", NOT_ON_THE_CPU)
def test_formats_the_device_cannot_multiply_are_exact_with_a_stand_in(
    name, model_type, tmp_path, support, monkeypatch
):
    """With the missing product replaced in both models, paged logits are the unpaged ones."""
    settings = ARCHITECTURES[model_type] | NOT_ON_THE_CPU[name] | NARROW
    rewrite = scaled if "scale" in name else None
    folder = tiny_checkpoint(tmp_path, model_type=model_type, rewrite=rewrite, **settings)
    calls = stand_ins.put_in(monkeypatch)
    assert_exact(folder)
    product = "gather_qmm" if rewrite else "gather_mm"
    # Three of each expert, two layers, 23 calls of the model, unpaged and at three sizes at least.
    assert calls[product] >= 3 * 2 * (len(LENGTHS) + DECODED) * (1 + len(SLOTS))
    support.record("expert formats", name, ", ".join(ARCHITECTURES), WITH_A_STAND_IN)


@contextmanager
def installed(folder, slots):
    """A model's paged switches, without the check of the device."""
    model, _ = load_model(folder, lazy=True)
    checkpoint = Checkpoint(folder)
    switches = find(model, checkpoint)
    reader = open_reader("pread", checkpoint.files)
    with ThreadPoolExecutor(2) as executor:
        share = share_slots(switches, 0.0, slots)
        yield install(model, switches, share, reader, executor, lambda: 0)
    reader.close()


def assert_slots_hold_the_tensors(folder, made) -> None:
    """Every expert of every layer, paged in, has the bytes that the safetensors library returns."""
    data = dict(deserialize((folder / "model.safetensors").read_bytes()))
    for layer, switch in enumerate(made.switches):
        for expert in range(switch.experts):
            key = ExpertKey(layer, expert)
            slot = made.pagers[0].acquire([key])[key]
            for part in switch.parts:
                stacked = data[f"{switch.path}.{part.name}"]["data"]
                wanted = stacked[expert * part.nbytes : (expert + 1) * part.nbytes]
                assert bytes(made.pagers[0].bank.row(part.name, slot)) == wanted


def test_the_page_lists_every_format(support):
    """docs/models.md lists the results of the tests above."""
    support.check("expert formats")
