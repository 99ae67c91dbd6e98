"""A kernel's memory after loading again, unloading, a reset, and loads that fail."""

from __future__ import annotations

import json

import pytest

from outlier_jupyter.testing import TINY_CONFIG, tiny_checkpoint
from tests.jupyter_kernel.conftest import kinds

MB = 10**6
LOOK = """
import gc, json, psutil, mlx.core as mx
gc.collect()
_found = [o for o in gc.get_objects() if type(o).__module__ == "outlier_jupyter.engine.engine"
          and type(o).__name__ == "Engine"]
_seen = [len(_found), mx.get_active_memory(), mx.get_peak_memory()]
_seen.append(psutil.Process().memory_info().rss)
del _found
mx.reset_peak_memory()
print(json.dumps(_seen))
"""
"""Prints engines alive, MLX's bytes now and at most since the last call, the resident set."""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model with 120 MB of weights: more than any other change of memory."""
    config = TINY_CONFIG | {
        "hidden_size": 512, "moe_intermediate_size": 512, "num_experts": 64,
        "num_hidden_layers": 3, "num_attention_heads": 8, "head_dim": 64,
    }  # fmt: skip
    return tiny_checkpoint(tmp_path_factory.mktemp("large") / "model", base=config)


@pytest.fixture
def fresh(kernel):
    """A kernel with the magics and nothing loaded; widgets of earlier tests may have engines."""
    kernel.run("%reload_ext outlier_jupyter\n%outlier unload\n%reset -f")
    kernel.engines_before = 0
    kernel.engines_before = look(kernel)[0]
    return kernel


def look(kernel) -> tuple[int, int, int, int]:
    """As `LOOK` prints it, without the engines of earlier tests, nor what they print late."""
    sent = [each["text"] for each in kinds(kernel.run(LOOK), "stream")]
    numbers = [text for text in sent if text.startswith("[")]
    assert len(numbers) == 1, sent
    engines, *nbytes = json.loads(numbers[0])
    return (engines - kernel.engines_before, *nbytes)


def test_loading_again_never_holds_two_models(fresh, large):
    """Three loads use the memory of one, also at their peak, and one engine remains."""
    load = f"%outlier load {large} --resident --quiet"
    fresh.run(load)
    engines, one, _, resident = look(fresh)
    assert engines == 1 and one > 100 * MB
    for _ in range(2):
        fresh.run(load)
        engines, now, most, process = look(fresh)
        assert engines == 1 and now < one + 5 * MB
        assert most < one + 60 * MB and process < resident + 60 * MB


def test_unloading_frees_the_model_whoever_points_to_it(fresh, large):
    """`Out`, a variable, the model: none keeps weights, and a closed engine has its status."""
    _, before, _, resident = look(fresh)
    fresh.run(f"%outlier load {large} --resident --quiet -o engine")
    fresh.run("model = engine.model; layer = model.layers[1]; engine")
    fresh.run("run = engine.generate('x' * 300, raw=True, max_tokens=3, reuse_kv=True)")
    fresh.run("%outlier unload")
    engines, now, _, process = look(fresh)
    assert engines == 1  # the variable's
    assert now < before + 2 * MB and process < resident + 60 * MB
    assert fresh.value("engine.closed, engine.last_run is run, engine.status().bank_nbytes") == (
        "(True, True, 0)"
    )
    (error,) = kinds(fresh.run("model(None)"), "error")
    assert error["ename"] == "EngineClosed"


def test_what_load_returned_does_not_keep_the_engine(fresh, tiny):
    """`Out` and variables keep no unloaded engine in memory; until then they can be used."""
    result = kinds(fresh.run(f"%outlier load {tiny} --cache-experts 5"), "execute_result")
    assert result[0]["data"]["text/plain"].endswith("ready.")
    assert fresh.value("_.generate('abc', raw=True, max_tokens=2).generated") == "2"
    fresh.run(f"held = %outlier load {tiny} --cache-experts 5")
    assert fresh.value("held.status().slots") == "5"
    assert look(fresh)[0] == 1
    fresh.run("%outlier unload")
    assert look(fresh)[0] == 0
    assert "unloaded" in fresh.value("held")
    (error,) = kinds(fresh.run("held.status()"), "error")
    assert error["ename"] == "EngineClosed"


def test_a_reset_keeps_the_loaded_model_and_no_other(fresh, large):
    """`%reset` deletes variables: the magics' engine stays, once, and can be unloaded."""
    _, before, _, _ = look(fresh)
    for _ in range(2):
        fresh.run(f"%outlier load {large} --resident --quiet -o engine")
    fresh.run("%reset -f")
    engines, now, _, _ = look(fresh)
    assert engines == 1 and 100 * MB < now - before < 200 * MB
    fresh.run("%unload_ext outlier_jupyter")
    engines, now, _, _ = look(fresh)
    assert engines == 0 and now < before + 2 * MB


def test_a_load_that_fails_early_leaves_the_model_before(fresh, tiny):
    """After an unknown name or a wrong option the engine is still there, and the error says so."""
    fresh.run(f"%outlier load {tiny} --cache-experts 5")
    for line in (f"{tiny}/nothing", f"{tiny} --top-k 99", f"{tiny} --warm {tiny}/config.json"):
        (error,) = kinds(fresh.run(f"%outlier load {line}"), "error")
        assert error["evalue"].endswith("is still loaded)"), error["evalue"]
    assert look(fresh)[0] == 1
    assert not kinds(fresh.run("%outlier run -q --max-tokens 2 abc"), "error")


def test_a_load_that_fails_late_leaves_nothing(fresh, large):
    """The engine before is closed before weights are read: neither stays in memory."""
    _, before, _, resident = look(fresh)
    fresh.run(f"%outlier load {large} --resident --quiet")
    fresh.run(
        "from outlier_jupyter.errors import OptionError as _error\n"
        "from outlier_jupyter.paging import Installed as _installed; _whole = _installed.load_all\n"
        "def _fails(self, each):\n"
        "    _whole(self, each)\n"
        "    raise _error('it failed when all was read')\n"
        "_installed.load_all = _fails"
    )
    (error,) = kinds(fresh.run(f"%outlier load {large} --resident --quiet"), "error")
    fresh.run("_installed.load_all = _whole")
    assert error["evalue"].endswith("it failed when all was read (no model is loaded now)")
    engines, now, _, process = look(fresh)
    assert engines == 0 and now < before + 2 * MB and process < resident + 60 * MB


def test_a_load_that_is_interrupted_leaves_nothing(fresh, large):
    """After an interrupt in the middle of reading, not even the traceback keeps weights."""
    _, before, _, resident = look(fresh)
    fresh.run(
        "import outlier_jupyter\n"
        "from outlier_jupyter.paging import Installed as _installed; _whole = _installed.load_all\n"
        "def _interrupted(self, each):\n"
        "    _whole(self, each)\n"
        "    raise KeyboardInterrupt\n"
        "_installed.load_all = _interrupted"
    )
    for line in (f"%outlier load {large} --resident --quiet",
                 f"outlier_jupyter.load({str(large)!r}, resident=True, quiet=True)"):  # fmt: skip
        (error,) = kinds(fresh.run(line), "error")
        assert error["ename"] == "KeyboardInterrupt"
        _, now, _, process = look(fresh)
        assert now < before + 2 * MB and process < resident + 60 * MB
    fresh.run("_installed.load_all = _whole")
    assert not kinds(fresh.run(f"%outlier load {large} --quiet"), "error")
