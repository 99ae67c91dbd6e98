"""A policy scores experts; `predictive` learns from what the routers chose."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_jupyter.errors import OptionError
from outlier_jupyter.options import LoadOptions, make
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.residency.policies import DEFAULT, POLICIES, Policy, make_policy, policy_names
from outlier_jupyter.residency.policies.predictive import MOMENTS, Predictive
from tests.inspection import memory_of

EXPERTS = (8, 8, 8)


def key(layer: int, expert: int) -> ExpertKey:
    return ExpertKey(layer, expert)


def routed(policy: Policy, layer: int, rows) -> None:
    policy.routed(layer, np.array(rows, np.int16))


def passed(policy: Policy, *tokens: tuple[int, ...]) -> None:
    """Route tokens through all layers; each token chooses the same experts in every layer."""
    for token in tokens:
        for layer in range(len(EXPERTS)):
            routed(policy, layer, [token])


def order(policy: Policy, *keys: ExpertKey) -> list[ExpertKey]:
    """These experts in eviction order."""
    return sorted(keys, key=lambda key: (policy.score[key] * policy.weight[key.layer], key))


def test_what_is_offered_is_what_there_is():
    """Every policy of the options can be made and carries its name; the default comes first."""
    assert [make_policy(name, EXPERTS).name for name in policy_names()] == list(policy_names())
    assert LoadOptions().policy == DEFAULT == policy_names()[0]
    assert "belady" in POLICIES and "belady" not in policy_names()


def test_the_default_goes_by_its_old_name_too():
    """`habit`, the name in earlier notebooks and traces, works; unknown names are refused."""
    assert make(LoadOptions, {"policy": "habit"}).policy == "predictive"
    with pytest.raises(OptionError, match="choose predictive, lru"):
        make(LoadOptions, {"policy": "habits"})


def test_predictive_keeps_what_is_used_often():
    """An expert used in most tokens is kept longer than one used once, though more recently."""
    policy = Predictive(EXPERTS)
    passed(policy, (1, 2), (1, 3), (1, 4), (1, 5), (0, 6))
    assert order(policy, key(1, 1), key(1, 0)) == [key(1, 0), key(1, 1)]


def test_predictive_evicts_first_what_the_layers_need_last():
    """Of equally used experts, one of the layer just done is evicted before one of the next."""
    policy = Predictive(EXPERTS)
    passed(policy, (1, 2))
    routed(policy, 0, [[1, 2]])
    passed(policy, (1, 2))
    assert order(policy, *(key(layer, 1) for layer in range(3))) == [
        key(2, 1), key(1, 1), key(0, 1)]  # fmt: skip


def test_predictive_remembers_what_followed():
    """In a repeating sequence, the experts that come next are kept.

    2-3 followed 0-1 every time; of these equally often used experts, the two score highest when
    0-1 has just been chosen, even higher than those just used.
    """
    policy = Predictive(EXPERTS)
    round_of = [(0, 1), (2, 3), (4, 5), (6, 7)]
    passed(policy, *(5 * round_of), (0, 1))
    there = order(policy, *(key(2, expert) for expert in range(8)))
    assert set(there[-2:]) == {key(2, 2), key(2, 3)}


def test_predictive_takes_a_prompt_at_once_as_token_by_token():
    """The frequency of experts does not depend on the number of tokens per call."""
    rng = np.random.default_rng(0)
    experts = rng.integers(0, 8, (40, 3, 2))
    one, all_at_once = Predictive(EXPERTS), Predictive(EXPERTS)
    for token in experts:
        for layer in range(3):
            routed(one, layer, token[None, layer])
    for layer in range(3):
        routed(all_at_once, layer, experts[:, layer])
    first, second = memory_of(one), memory_of(all_at_once)
    np.testing.assert_allclose(first.frequency, second.frequency)
    np.testing.assert_array_equal(first.history, second.history)


def test_predictive_stays_sane_when_calls_break_off_or_grow():
    """Passes that end mid-model, wider rows and calls beyond its memory keep its state valid."""
    policy = Predictive(EXPERTS)
    rng = np.random.default_rng(1)
    for tokens, k, layers in ((3, 2, 2), (1, 2, 3), (MOMENTS + 5, 2, 1), (1, 4, 3), (2, 3, 3)):
        for layer in range(layers):
            routed(policy, layer, rng.integers(-1, 8, (tokens, k)))
    assert np.isfinite(policy.score).all() and (policy.weight > 0).all()
    assert memory_of(policy).similarity.max() <= 1
