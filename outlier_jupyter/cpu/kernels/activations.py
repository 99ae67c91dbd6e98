"""The activation functions of mlx-lm's experts, on one number, for use inside kernels.

`KINDS` lists them. Some are configured by the parameters `a` and `b`; others ignore them.
"""

from __future__ import annotations

import math
from typing import Any

from numba import types
from numba.extending import overload, register_jitable

KINDS = {
    "swiglu": True,
    "geglu": True,
    "swiglu_oai": True,
    "swiglu_limited": True,
    "swiglu_clamped": True,
    "situ": True,
    "relu2": False,
    "silu": False,
    "gelu": False,
    "gelu_tanh": False,
    "gelu_fast": False,
}
"""Name → whether it has a gate beside the value."""

_ROOT = math.sqrt(2 / math.pi)


def activate(kind, x, gate, a, b):
    """The activation `kind` of float32 x, and of its gate if it has one (else ignored)."""
    raise NotImplementedError


@overload(activate, prefer_literal=True, inline="never")
def _activate(kind, x, gate, a, b):
    return _FUNCTIONS[kind.literal_value] if isinstance(kind, types.StringLiteral) else None


@register_jitable
def _sigmoid(x: Any) -> Any:
    one = types.float32(1.0)
    return one / (one + math.exp(-x))


@register_jitable
def _gelu_tanh(x: Any) -> Any:
    half, one = types.float32(0.5), types.float32(1.0)
    inner = types.float32(_ROOT) * (x + types.float32(0.044715) * x * x * x)
    return half * x * (one + math.tanh(inner))


@register_jitable
def _clip(x: Any, limit: Any) -> Any:
    return min(max(x, -limit), limit)


def _swiglu(kind, x, gate, a, b):
    return gate * _sigmoid(gate) * x


def _geglu(kind, x, gate, a, b):
    return _gelu_tanh(gate) * x


def _swiglu_oai(kind, x, gate, a, b):
    # gpt-oss: `a` is its alpha, `b` the limit; the gate is cut from above only.
    cut = min(gate, b)
    return (_clip(x, b) + types.float32(1.0)) * (cut * _sigmoid(a * cut))


def _swiglu_limited(kind, x, gate, a, b):
    cut = min(gate, b)
    return cut * _sigmoid(cut) * _clip(x, b)


def _swiglu_clamped(kind, x, gate, a, b):
    return min(gate * _sigmoid(gate), b) * _clip(x, b)


def _situ(kind, x, gate, a, b):
    # kimi_k3: `a` is its beta, `b` the linear beta, 0 for none.
    other = x
    if b != types.float32(0.0):
        other = b * types.float32(math.tanh(x / b))
    return a * math.tanh(gate / a) * _sigmoid(gate) * other


def _relu2(kind, x, gate, a, b):
    above = max(x, types.float32(0.0))
    return above * above


def _silu(kind, x, gate, a, b):
    return x * _sigmoid(x)


def _gelu(kind, x, gate, a, b):
    half, one = types.float32(0.5), types.float32(1.0)
    return half * x * (one + math.erf(x * types.float32(math.sqrt(0.5))))


def _gelu_tanh_alone(kind, x, gate, a, b):
    return _gelu_tanh(x)


def _gelu_fast(kind, x, gate, a, b):
    return x * _sigmoid(types.float32(1.702) * x)


_FUNCTIONS = {
    "swiglu": _swiglu,
    "geglu": _geglu,
    "swiglu_oai": _swiglu_oai,
    "swiglu_limited": _swiglu_limited,
    "swiglu_clamped": _swiglu_clamped,
    "situ": _situ,
    "relu2": _relu2,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh_alone,
    "gelu_fast": _gelu_fast,
}
