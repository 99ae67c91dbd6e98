"""Bytes on disk: where each expert's weights are, and how they are read. No MLX here."""

from .array_views import ArrayView, NotAddressable
from .expert_reader import buffers_nbytes, read_expert, release_buffers
from .file_identity import Identity
from .layout import ByteRange, Checkpoint, ExpertPart, RecordSpan, TensorSpan
from .linux_aio import KernelQueue, KernelRead, open_queue
from .readers import PAGE, KernelReadable, Reader, open_reader
from .records import RecordReader, Records, record_paths
from .repack import Written, write_records

__all__ = [
    "PAGE",
    "ArrayView",
    "ByteRange",
    "Checkpoint",
    "ExpertPart",
    "Identity",
    "KernelQueue",
    "KernelRead",
    "KernelReadable",
    "NotAddressable",
    "Reader",
    "RecordReader",
    "RecordSpan",
    "Records",
    "TensorSpan",
    "Written",
    "buffers_nbytes",
    "open_queue",
    "open_reader",
    "read_expert",
    "record_paths",
    "release_buffers",
    "write_records",
]
