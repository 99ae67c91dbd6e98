"""The benchmark's parts: models of a geometry on disk, real routing, limits, and timed runs.

Its models have random weights and routers that follow a recorded trace in any engine; see
`geometry.py`. `benchmarks/` decides what is compared and where rows are stored; `short.py` is the
form for notebooks.
"""
