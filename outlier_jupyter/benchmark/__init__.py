"""The benchmark's parts: models of a geometry on disk, real routing, limits, and timed runs.

A model made here has random weights and a router that follows a recorded trace, in whatever
engine runs it; see `geometry.py`. What is compared with what, and where rows go, is the business
of `benchmarks/`; `short.py` is the form that a notebook can ask for.
"""
