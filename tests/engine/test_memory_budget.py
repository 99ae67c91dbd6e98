"""`plan`, `load` and `resize` share one sum of what fits; a refusal has the numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import outlier_jupyter
from outlier_jupyter.engine import memory_budget as budget
from outlier_jupyter.engine.memory import PYTHON_NBYTES
from outlier_jupyter.engine.memory_budget import MemoryBounds, Needs, check_prompt
from outlier_jupyter.errors import OptionError
from outlier_jupyter.options import GenerateOptions, LoadOptions
from outlier_jupyter.system.memory_info import Machine, process_nbytes
from outlier_jupyter.testing import TINY_CONFIG, hollow_checkpoint
from tests.inspection import bound_ram, needs_of

GB = 10**9
BIG = TINY_CONFIG | {
    "hidden_size": 1024, "moe_intermediate_size": 1024, "num_hidden_layers": 24,
    "num_experts": 512, "num_experts_per_tok": 8, "head_dim": 128, "num_attention_heads": 8,
    "num_key_value_heads": 2,
}  # fmt: skip
"""22 GB of experts, with no byte on disk."""


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    return hollow_checkpoint(tmp_path_factory.mktemp("big") / "model", BIG, dense_seed=1)


@pytest.fixture
def free(monkeypatch):
    """Let the machine of 24 GB report that so many GB are free."""

    def say(gb: float) -> None:
        monkeypatch.setattr(budget, "machine_memory", lambda: Machine(24 * GB, int(gb * GB)))

    return say


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"cache_gb": 70}, "cache_gb=70"),
        ({"resident": True}, "resident=True"),
        ({"cache_experts": 12_000}, "cache_experts=12000"),
        ({"ram_gb": 11, "cache_experts": 12_000}, "cache_experts=12000"),
        ({"ram_gb": 11, "resident": True}, "resident=True"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_size_that_would(options, what, big, free):
    """Before any large allocation the error names what is needed, what is free, and what to set."""
    free(13.5)
    before = process_nbytes()
    with pytest.raises(OptionError) as refused:
        outlier_jupyter.load(big, quiet=True, **options)
    message = str(refused.value)
    assert process_nbytes() - before < GB / 2
    assert (
        message.startswith(f"{what} does not fit: the process would take ") and len(message) <= 300
    )
    best = float(message.partition("give cache_gb=")[2].split()[0])
    assert "or force=True" in message
    bound = {name: options[name] for name in ("ram_gb",) if name in options}
    assert best == outlier_jupyter.plan(big, **bound).cache_gb


def test_loading_takes_the_plan_s_advice(tiny, big, free):
    """`auto` and `ram_gb` choose the size that `plan` reports, and at most all experts."""
    free(20)
    with outlier_jupyter.load(tiny, cache_gb="auto") as engine:
        assert engine.options.cache_gb == outlier_jupyter.plan(tiny).cache_gb
        assert engine.status().slots == engine.status().experts
    load_options = LoadOptions(cache_gb="auto")
    found = outlier_jupyter.plan(big, ram_gb=6)
    assert found.cache_gb is not None and "ram_gb=6" in found.advice
    assert all(size.fits == (size.memory <= 6 * GB) for size in found.sizes)
    assert load_options.cache_gb == "auto"


def test_a_bound_for_the_process_leaves_the_cache_its_rest(tiny, free):
    """All experts where they fit the bound, fewer where it is tight; other memory counts too."""
    free(20)
    used = max(PYTHON_NBYTES, process_nbytes())
    with outlier_jupyter.load(tiny, ram_gb=11) as engine:
        assert engine.status().slots == 24 and engine.options.ram_gb is None
        needs = needs_of(engine)
        with pytest.raises(OptionError, match=r"cache_experts=24 does not fit: .*\(ram_gb="):
            bound_ram(engine, (used + needs.nbytes) / 1e9)
            engine.resize(cache_experts=2)
            engine.resize(cache_experts=24)
    with pytest.raises(OptionError, match=r"ram_gb=0\.5 does not fit: .* give a larger ram_gb$"):
        outlier_jupyter.load(tiny, ram_gb=0.5)


def test_force_loads_what_does_not_fit(tiny, free):
    """`force=True` skips the check of free memory."""
    free(2.5)
    with pytest.raises(OptionError, match="does not fit"):
        outlier_jupyter.load(tiny)
    with outlier_jupyter.load(tiny, cache_experts=2, force=True) as engine:
        with pytest.raises(OptionError, match=r"cache_experts=24 does not fit.* free memory"):
            engine.resize(cache_experts=24)
        assert engine.resize(cache_experts=24, force=True).slots == 24
        assert engine.resize(cache_experts=3).slots == 3  # a smaller cache is never refused


def test_a_dense_model_is_compared_with_free_memory(checkpoint_of, free):
    """It has no cache to make smaller, so the error names only its own bytes."""
    folder = checkpoint_of(mlp_only_layers=[0, 1, 2])
    free(2.5)
    with pytest.raises(OptionError, match="the model does not fit: the process would take"):
        outlier_jupyter.load(folder)
    outlier_jupyter.load(folder, force=True).close()
    free(20)
    outlier_jupyter.load(folder, cache_gb="auto").close()


def test_what_is_replaced_counts_as_free(tiny, monkeypatch):
    """Two engines do not fit together, but one that replaces the other does."""
    with outlier_jupyter.load(tiny, cache_experts=24, force=True) as engine:
        freed = engine.memory().freed
        room = MemoryBounds.now(freed=freed)
        monkeypatch.setattr(budget, "machine_memory", lambda: Machine(24 * GB, 3 * GB))
        assert MemoryBounds.now(freed=freed).machine.available == 3 * GB + freed
        assert room.process < process_nbytes()
        other = outlier_jupyter.load(tiny, cache_experts=24, replacing=engine, force=True)
        assert engine.closed
        other.close()


@given(
    st.integers(0, 10**11), st.integers(0, 10**11), st.integers(0, 10**10),
    st.none() | st.floats(0.001, 200), st.integers(0, 10**10),
)  # fmt: skip
def test_what_is_left_for_experts_never_breaks_a_bound(total, available, used, ram_gb, dense):
    """With all of it used, the process stays within `ram_gb`, and the spared share stays free."""
    available = min(available, total)
    room, needs = MemoryBounds(Machine(total, available), used, ram_gb), Needs(dense, 1, 1, 1, 1)
    left = room.for_experts(needs)
    whole = room.beside(needs) + max(left, 0)
    if left > 0:
        assert ram_gb is None or whole <= ram_gb * 1e9
        assert whole - used <= available - room.spared


@pytest.mark.parametrize("value", ["all", "AUTO", 0, -1, True])
def test_a_size_is_a_number_or_auto(value, tiny):
    """Anything else is refused with one sentence."""
    with pytest.raises(OptionError, match="cache_gb"):
        outlier_jupyter.load(tiny, cache_gb=value)


NEEDS = Needs(dense=1, kv_run=GB, kv_kept=1, working=1, tokens=8192, kv_token=1_000_000)


@pytest.mark.parametrize(
    ("tokens", "options", "ram_gb", "kept"),
    [
        (2_001, {}, None, 0),
        (10**7, {}, None, 0),
        (2_001, {"max_kv_size": 10_000}, None, 0),
        (16_100, {"kv_bits": 4}, None, 0),
        (3_001, {}, None, GB),
        (1_500, {}, 0.1, 0),
    ],
)
def test_a_prompt_that_memory_cannot_hold_is_refused(tokens, options, ram_gb, kept, free):
    """It is refused before any of it is read, with its length and what is free."""
    free(2)
    with pytest.raises(OptionError, match=r"whose KV cache takes .* are free: shorten it") as no:
        check_prompt(tokens, GenerateOptions(**options), NEEDS, ram_gb, kept)
    assert f"{tokens:,} tokens" in str(no.value) and len(str(no.value)) <= 300


@pytest.mark.parametrize(
    ("tokens", "options", "ram_gb", "kept"),
    [
        (2_000, {}, None, 0),
        (10**7, {"max_kv_size": 1_000}, None, 0),
        (16_000, {"kv_bits": 4}, None, 0),
        (3_000, {}, None, GB),
        (1_000, {}, 0.1, 0),  # the load has already reserved this much
    ],
)
def test_a_prompt_that_may_fit_is_read(tokens, options, ram_gb, kept, free):
    """Bounded and quantised caches count at their size, and kept caches count as free."""
    free(2)
    check_prompt(tokens, GenerateOptions(**options), NEEDS, ram_gb, kept)


def test_an_engine_refuses_what_memory_cannot_hold(monkeypatch, free):
    """`generate`, `stream` and the chat refuse it alike; the next prompt runs."""
    with outlier_jupyter.load("demo", cache_gb=0.002, quiet=True) as engine:
        monkeypatch.setattr(budget, "UNCHECKED_NBYTES", 0)
        free(0.001)
        chat = outlier_jupyter.Chat(engine, max_tokens=2)
        for ask in (engine.generate, engine.stream, chat.send):
            with pytest.raises(OptionError, match="whose KV cache takes"):
                ask("one and another " * 100)
        assert engine.last_run is None and chat.messages == []
        free(2)
        assert chat.send("one", max_tokens=2).generated
        chat.close()
