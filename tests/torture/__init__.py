"""Faults, hostile files, interrupts and long runs, counted: `make torture`; see docs/torture.md."""
