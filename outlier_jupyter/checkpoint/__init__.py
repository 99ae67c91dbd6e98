"""Bytes on disk: where each expert's weights lie, and how they are read. No MLX here."""

from .gather import buffers_nbytes, read_expert
from .layout import ByteRange, Checkpoint, ExpertPart, TensorSpan
from .reader import Reader, open_reader
from .views import NotAddressable, View

__all__ = [
    "ByteRange",
    "Checkpoint",
    "ExpertPart",
    "NotAddressable",
    "Reader",
    "TensorSpan",
    "View",
    "buffers_nbytes",
    "open_reader",
    "read_expert",
]
