"""Studies over many runs: comparisons, ablations, sweeps, atlases."""
