"""Checkpoint and residency meet MLX: slots, the pager, and the module that stands in for a switch."""

from .install import Installed, find, install, share_slots
from .pager import Pager, Stopped
from .slots import SlotBank
from .weights import RouterTap

__all__ = [
    "Installed",
    "Pager",
    "RouterTap",
    "SlotBank",
    "Stopped",
    "find",
    "install",
    "share_slots",
]
