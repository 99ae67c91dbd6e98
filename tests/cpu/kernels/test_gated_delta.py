"""The gated delta rule and its convolution, against float64, token by token and all at once."""

from __future__ import annotations

import numpy as np
import pytest

from outlier_jupyter.cpu.kernels import RUNNING, Chain, Convolution, DeltaRule, state_places

from .conftest import close

TOKENS = 6
PAST, STATE = state_places(2)


def sigmoid(x):
    """In float64."""
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def one_by_one(link, place, state, tokens, give, take):
    """Run `link` for each of `tokens`, its state at `place` of its arguments."""
    link.arguments[place] = state.ctypes.data
    chain, found = Chain([link], 1 << 20), []
    for token in range(tokens):
        give(token)
        with RUNNING:
            chain.run()
        found.append(take().copy())
    return np.stack(found)


@pytest.mark.parametrize("channels", [24, 1100])
def test_channels_are_convolved_with_the_tokens_before(channels, random):
    """Silu of the taps' sum; the past becomes the last rows, also with fewer rows than taps."""
    taps, past, x = (
        random.normal(size=(rows, channels)).astype(np.float32) for rows in (4, 3, TOKENS)
    )
    rows = np.concatenate([past, x]).astype(np.float64)
    sums = sum(tap * rows[n : n + TOKENS] for n, tap in enumerate(taps))
    wanted = sums * sigmoid(sums)
    convolution = Convolution(taps)
    for split in (1, 2, TOKENS):
        kept, out = past.copy(), np.empty_like(x)
        for first in range(0, TOKENS, split):
            part = slice(first, first + split)
            convolution.run(x[part], kept.ctypes.data, out[part])
        close(out, wanted)
        assert np.array_equal(kept, x[-3:])
    token, out, kept = np.empty(channels, np.float32), np.empty(channels, np.float32), past.copy()
    found = one_by_one(
        convolution.link(token, out), PAST, kept, TOKENS,
        lambda number: np.copyto(token, x[number]), lambda: out,
    )  # fmt: skip
    close(found, wanted)


def recurrence(q, k, v, decay, beta, state):
    """The rule of one head in float64: q, k [tokens, width], v [tokens, wide]."""
    read = []
    for number in range(len(q)):
        state = state * np.exp(-decay[number])
        change = (v[number] - state @ k[number]) * sigmoid(beta[number])
        state = state + np.outer(change, k[number])
        read.append(state @ q[number])
    return np.stack(read), state


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize(("width", "wide"), [(128, 128), (24, 40)])
def test_heads_follow_the_delta_rule(by_column, width, wide, random):
    """Two value heads share a key head; the read is normed and gated."""
    heads, key_heads, swish = 4, 2, not by_column

    def normal(*shape):
        return random.normal(size=shape).astype(np.float32)

    columns = heads * (width if by_column else 1)
    mixed = normal(TOKENS, 2 * key_heads * width + heads * wide)
    decay, steps, rates = normal(TOKENS, columns), normal(columns), np.exp(normal(heads))
    beta, gate, norm = normal(TOKENS, heads), normal(TOKENS, heads * wide), normal(wide)
    before = normal(heads, wide, width)
    q, k = (
        part.reshape(TOKENS, key_heads, width).astype(np.float64)
        for part in np.split(mixed[:, : 2 * key_heads * width], 2, axis=1)
    )
    q, k = (each / np.sqrt((each**2).sum(-1, keepdims=True) + 1e-6) for each in (q, k))
    q /= np.sqrt(width)
    v = mixed[:, 2 * key_heads * width :].reshape(TOKENS, heads, wide)
    forgets = rates[:, None] * np.log1p(np.exp(decay.astype(np.float64) + steps)).reshape(
        TOKENS, heads, -1
    )
    outputs, states = [], []
    for head in range(heads):
        read, state = recurrence(
            q[:, head // 2], k[:, head // 2], v[:, head], forgets[:, head], beta[:, head],
            before[head].astype(np.float64),
        )  # fmt: skip
        outputs.append(read / np.sqrt((read**2).mean(-1, keepdims=True) + 1e-5) * norm)
        states.append(state)
    opened = sigmoid(gate) * (gate if swish else 1)
    wanted = np.stack(outputs, axis=1).reshape(TOKENS, -1) * opened
    rule = DeltaRule(heads, key_heads, width, wide, rates, steps, norm, 1e-5, swish)
    given = mixed, decay, beta, gate
    for split in (2, TOKENS):
        state, out = before.copy(), np.empty_like(gate)
        for first in range(0, TOKENS, split):
            part = slice(first, first + split)
            rule.run(*(each[part] for each in given), state.ctypes.data, out[part])
        close(out, wanted)
        close(state, np.stack(states))
    rows, out, kept = (
        [np.empty_like(each[0]) for each in given],
        np.empty_like(gate[0]),
        before.copy(),
    )
    found = one_by_one(
        rule.link(*rows, out), STATE, kept, TOKENS,
        lambda number: [np.copyto(row, each[number])
                        for row, each in zip(rows, given, strict=True)],
        lambda: out,
    )  # fmt: skip
    assert np.array_equal(kept, state)
    close(found, wanted)
