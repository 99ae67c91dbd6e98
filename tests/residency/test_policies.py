"""A policy names held experts that may leave; `habit` learns from what the routers chose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlier_jupyter.options import POLICIES as OFFERED
from outlier_jupyter.options import LoadOptions
from outlier_jupyter.residency import POLICIES, ExpertKey, make_policy
from outlier_jupyter.residency.habit import Habit
from outlier_jupyter.residency.loops import MOMENTS
from outlier_jupyter.residency.replay import DEFAULT

EXPERTS = (8, 8, 8)


def key(layer: int, expert: int) -> ExpertKey:
    return ExpertKey(layer, expert)


def passed(policy: Habit, *tokens: tuple[int, ...]) -> None:
    """Route tokens through all layers, each choosing the same experts in every layer."""
    for token in tokens:
        for layer in range(len(EXPERTS)):
            policy.routed(layer, np.array([token]))


def test_what_is_offered_is_what_there_is():
    """Every policy of the options can be made, carries its name, and the default is the same."""
    assert sorted(OFFERED) == sorted(POLICIES)
    assert [make_policy(name, EXPERTS).name for name in OFFERED] == list(OFFERED)
    assert LoadOptions().policy == DEFAULT


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(
    asked=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 7)), unique=True, min_size=1),
    kept=st.sets(st.integers(0, 23)),
    count=st.integers(0, 24),
)
def test_victims_are_held_distinct_and_not_to_be_kept(name, asked, kept, count):
    """As many as are wanted, the first in the order of leaving, or a LookupError."""
    policy = make_policy(name, EXPERTS)
    keys = [key(*pair) for pair in asked]
    for each in keys:
        policy.routed(each.layer, np.array([[each.expert]]))
        policy.ask([each])
    policy.drop(keys[0])
    keep = {each for i, each in enumerate(keys) if i in kept}
    leaving = [each for each in policy.order() if each not in keep]
    assert set(policy.order()) == set(keys[1:])
    if count > len(leaving):
        with pytest.raises(LookupError):
            policy.victims(count, keep)
    else:
        assert policy.victims(count, keep) == leaving[:count]


def test_habit_keeps_what_is_used_often():
    """An expert used in most tokens outlives one used once, though that was used later."""
    policy = Habit(EXPERTS)
    passed(policy, (1, 2), (1, 3), (1, 4), (1, 5), (0, 6))
    policy.ask([key(1, 1), key(1, 0)])
    assert policy.order() == [key(1, 0), key(1, 1)]


def test_habit_gives_up_first_what_the_layers_ask_for_last():
    """Of experts used alike, that of the layer just done leaves before that of the next."""
    policy = Habit(EXPERTS)
    passed(policy, (1, 2))
    policy.routed(0, np.array([[1, 2]]))
    policy.ask([key(layer, 1) for layer in range(3)])
    passed(policy, (1, 2))
    assert policy.order() == [key(2, 1), key(1, 1), key(0, 1)]


def test_habit_remembers_what_followed():
    """In a sequence that comes round again, the experts that come next are kept.

    0-1 was followed by 2-3 every time; of the experts that were all used equally often, those two
    are worth most when 0-1 has just been chosen, even more than those just used.
    """
    policy = Habit(EXPERTS)
    round_of = [(0, 1), (2, 3), (4, 5), (6, 7)]
    passed(policy, *(5 * round_of), (0, 1))
    policy.ask([key(2, expert) for expert in range(8)])
    assert set(policy.order()[-2:]) == {key(2, 2), key(2, 3)}


def test_habit_takes_a_prompt_at_once_as_token_by_token():
    """How often experts are used does not depend on how many tokens a call has."""
    rng = np.random.default_rng(0)
    experts = rng.integers(0, 8, (40, 3, 2))
    one, all_at_once = Habit(EXPERTS), Habit(EXPERTS)
    for token in experts:
        for layer in range(3):
            one.routed(layer, token[None, layer])
    for layer in range(3):
        all_at_once.routed(layer, experts[:, layer])
    np.testing.assert_allclose(one._state.frequency, all_at_once._state.frequency)
    np.testing.assert_array_equal(one._state.history, all_at_once._state.history)


def test_habit_stays_sane_when_calls_break_off_or_grow():
    """Passes that end in mid-model, wider rows and calls longer than its memory leave it whole."""
    policy = Habit(EXPERTS)
    rng = np.random.default_rng(1)
    for tokens, k, layers in ((3, 2, 2), (1, 2, 3), (MOMENTS + 5, 2, 1), (1, 4, 3), (2, 3, 3)):
        for layer in range(layers):
            policy.routed(layer, rng.integers(-1, 8, (tokens, k)))
    policy.ask([key(layer, expert) for layer in range(3) for expert in range(8)])
    assert np.isfinite(policy._state.value).all()
    assert policy._state.similarity.max() <= 1
    assert len(set(policy.order())) == 24
