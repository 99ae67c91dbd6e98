"""CPU computation where MLX has no GPU: compiled kernels, and mlx-lm's modules that call them."""
