"""The machine and the process: memory, files, interrupts, the hub. Nothing here knows a model."""
