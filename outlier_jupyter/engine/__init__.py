"""One model, loaded: what runs share, one run's path, and what the process may take of RAM."""
