"""Bytes on disk: where each expert's weights lie, and how they are read. No MLX here."""

from .layout import ByteRange, Checkpoint, ExpertPart, TensorSpan
from .reader import Reader, open_reader

__all__ = ["ByteRange", "Checkpoint", "ExpertPart", "Reader", "TensorSpan", "open_reader"]
