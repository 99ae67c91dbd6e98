"""Chooses the number of prompt tokens per forward pass, where the options leave it open.

Each chunk reads each expert that it needs once, so longer chunks read less: twice the tokens need
hardly more experts. The memory of a chunk's activations bounds it; that is part of the constant
that a loaded model takes beside weights and KV cache. With all experts in RAM nothing is read
again, and mlx-lm's own number is used, so that results equal mlx-lm's default. This is arithmetic
only: nothing is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST = 64
"""Below this a chunk serves too few tokens with the experts it reads."""
RESIDENT = 2048
"""mlx-lm's `prefill_step_size`."""
MOST = 8192
"""Beyond this each expert serves so many tokens that its read no longer counts."""
ITEM = 4
"""The most bytes of an activation: float32."""


@dataclass(frozen=True)
class Costs:
    """The peak bytes of activations of one token of a chunk, within one layer.

    Attributes:
        routed: for its k experts: sorted input, gate, up, their product, output, and the output
            again in the prompt's order.
        attended: per token of the context: scores and their softmax; 0 if attention is one fused
            kernel.
        bounded: with plain KV caches there are no scores, because compiled kernels compute them
            tile by tile.
    """

    routed: int
    attended: int
    bounded: bool = False

    @classmethod
    def of(
        cls, top_k: int, hidden: int, width: int, heads: int, fused: bool, bounded: bool = False
    ) -> Costs:
        """From a model's shape: experts per token, hidden and expert width, attention heads."""
        routed = top_k * (3 * hidden + 3 * width) * ITEM
        return cls(routed, 0 if fused else 2 * heads * ITEM, bounded)

    def nbytes(self, tokens: int, context: int, plain: bool) -> int:
        """Bytes of a chunk of `tokens` tokens; `plain` as in `choose_chunk`."""
        if self.bounded and plain:
            return tokens * self.routed
        return tokens * (self.routed + context * self.attended)


def choose_chunk(
    context: int, costs: Costs, resident: bool, budget: int, plain: bool = True
) -> int:
    """Tokens per chunk: a power of two from `LEAST` on, whose activations fit `budget` bytes.

    Args:
        context: tokens of the whole prompt, including those in the KV cache.
        resident: all experts are in RAM, or stay there once they are read.
        plain: the KV caches are neither quantised nor rotating.
    """
    most = RESIDENT if resident else MOST
    chunk = LEAST
    while 2 * chunk <= most and costs.nbytes(2 * chunk, context, plain) <= budget:
        chunk *= 2
    return chunk
