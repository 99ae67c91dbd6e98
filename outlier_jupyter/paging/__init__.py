"""Connects checkpoint and residency to MLX: slot bank, pager, and the paged switch module."""

from .batch_call import BatchCall
from .device import check_device
from .install import Installed, find, install, share_slots, switch_modules
from .interventions import Intervention
from .pager import Pager, StopFlag, Stopped
from .release import clear_cache, release
from .resize_banks import resize
from .router_tap import RouterTap
from .routing_override import RoutingOverride
from .slot_bank import SlotBank

__all__ = [
    "BatchCall",
    "Installed",
    "Intervention",
    "Pager",
    "RouterTap",
    "RoutingOverride",
    "SlotBank",
    "StopFlag",
    "Stopped",
    "check_device",
    "clear_cache",
    "find",
    "install",
    "release",
    "resize",
    "share_slots",
    "switch_modules",
]
