"""Events become numbers: recording them, holding them, measuring them. No MLX, no Jupyter."""

from .schema import CALL, EVICTION, READ, TraceInfo
from .trace import Trace

__all__ = ["CALL", "EVICTION", "READ", "Trace", "TraceInfo"]
