"""A loaded model: loading, runs, KV caches, and the memory of the process."""
