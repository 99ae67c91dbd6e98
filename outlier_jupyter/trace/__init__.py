"""Recorded events as arrays: recording, saving and measuring them. No MLX, no Jupyter."""

from .schema import CALL, EVICTION, READ, TraceInfo
from .trace import Trace

__all__ = ["CALL", "EVICTION", "READ", "Trace", "TraceInfo"]
