"""Finished runs: their text and trace, and which tokens chose which experts. No MLX."""
