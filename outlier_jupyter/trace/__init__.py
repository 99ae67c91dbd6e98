"""Events become numbers: recording them, holding them, measuring them. No MLX, no Jupyter."""

from .trace import CALL, EVICTION, READ, Trace, TraceInfo

__all__ = ["CALL", "EVICTION", "READ", "Trace", "TraceInfo"]
