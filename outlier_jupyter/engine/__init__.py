"""A loaded model: loading, runs, KV caches, and the memory of the process.

Importing it loads MLX, which ends a process that has no address space for it.
"""

from ..aliases import names_of
from ..system.address_space import LIBRARIES_NBYTES, check_room

check_room(LIBRARIES_NBYTES)

__getattr__ = names_of(f"{__name__}.engine", "Engine", "leave_thread")
