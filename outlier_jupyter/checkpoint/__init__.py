"""Bytes on disk: where each expert's weights lie, and how they are read. No MLX here."""

from .gather import buffers_nbytes, read_expert, release_buffers
from .identity import Identity
from .kernel_queue import KernelQueue, Wanted, open_queue
from .layout import ByteRange, Checkpoint, ExpertPart, RecordSpan, TensorSpan
from .reader import PAGE, Reader, Straight, open_reader
from .records import RecordReader, Records, places
from .repack import Written, write_records
from .views import NotAddressable, View

__all__ = [
    "PAGE",
    "ByteRange",
    "Checkpoint",
    "ExpertPart",
    "Identity",
    "KernelQueue",
    "NotAddressable",
    "Reader",
    "RecordReader",
    "RecordSpan",
    "Records",
    "Straight",
    "TensorSpan",
    "View",
    "Wanted",
    "Written",
    "buffers_nbytes",
    "open_queue",
    "open_reader",
    "places",
    "read_expert",
    "release_buffers",
    "write_records",
]
