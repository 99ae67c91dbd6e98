"""Eviction policies, by name. A policy gives every expert a score; the lowest is evicted first.

`registry` lists them; each module has one policy. To add one, register a `PolicySpec`.
"""

from . import builtin
from .registry import (
    DEFAULT,
    POLICIES,
    Policy,
    PolicySpec,
    canonical_name,
    make_policy,
    policy_help,
    policy_names,
    register,
)

__all__ = [
    "DEFAULT",
    "POLICIES",
    "Policy",
    "PolicySpec",
    "builtin",
    "canonical_name",
    "make_policy",
    "policy_help",
    "policy_names",
    "register",
]
