"""Bytes on disk: where each expert's weights lie, and how they are read. No MLX here."""

from .array_views import ArrayView, NotAddressable
from .expert_reader import buffers_nbytes, read_expert, release_buffers
from .file_identity import Identity
from .layout import ByteRange, Checkpoint, ExpertPart, RecordSpan, TensorSpan
from .linux_aio import KernelQueue, Wanted, open_queue
from .readers import PAGE, KernelReadable, Reader, open_reader
from .records import RecordReader, Records, places
from .repack import Written, write_records

__all__ = [
    "PAGE",
    "ArrayView",
    "ByteRange",
    "Checkpoint",
    "ExpertPart",
    "Identity",
    "KernelQueue",
    "KernelReadable",
    "NotAddressable",
    "Reader",
    "RecordReader",
    "RecordSpan",
    "Records",
    "TensorSpan",
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
