"""Faults, hostile files, interrupts and long runs, counted: `make torture`; see docs/torture.md."""

import os

os.environ["OUTLIER_HISTORY"] = "0"  # each load begins as the first one
