"""Who sits in which slot, and who leaves. No MLX, no files."""

from .policies import LRU, POLICIES, ExpertKey, Policy, make_policy
from .table import Placement, Plan, SlotTable

__all__ = [
    "LRU",
    "POLICIES",
    "ExpertKey",
    "Placement",
    "Plan",
    "Policy",
    "SlotTable",
    "make_policy",
]
