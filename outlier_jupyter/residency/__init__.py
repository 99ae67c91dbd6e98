"""Who sits in which slot, and who leaves. Pure Python: no MLX, no files."""

from .policies import LRU, ExpertKey, Policy
from .table import Placement, Plan, SlotTable

__all__ = ["LRU", "ExpertKey", "Placement", "Plan", "Policy", "SlotTable"]
