"""Plotly figures, for after the run: to hover over, zoom and export. They measure nothing."""

from .run import MAX_BINS, Figures

__all__ = ["MAX_BINS", "Figures"]
