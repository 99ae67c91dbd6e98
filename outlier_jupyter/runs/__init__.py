"""What a run leaves: its text and its trace, and which tokens chose which experts. No MLX."""
