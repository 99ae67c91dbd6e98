"""The machine and the process: memory, files, interrupts, the hub. It knows no model."""
