"""Which expert is evicted next: policies, by name. Each gives every expert a score.

`registry` knows the names; a module holds one policy. To add one, register a `PolicySpec`.
"""

from . import builtin
from .registry import (
    DEFAULT,
    POLICIES,
    Policy,
    PolicySpec,
    default_or,
    explained,
    make_policy,
    offered,
    register,
)

__all__ = [
    "DEFAULT",
    "POLICIES",
    "Policy",
    "PolicySpec",
    "builtin",
    "default_or",
    "explained",
    "make_policy",
    "offered",
    "register",
]
