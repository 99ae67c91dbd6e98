"""Plotly figures of finished runs. They compute no measures."""

from .run import MAX_BINS, Figures

__all__ = ["MAX_BINS", "Figures"]
