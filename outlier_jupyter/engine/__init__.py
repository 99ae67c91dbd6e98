"""A loaded model: loading, runs, KV caches, and the memory of the process."""

from ..aliases import names_of

__getattr__ = names_of(f"{__name__}.engine", "Engine", "leave_thread")
