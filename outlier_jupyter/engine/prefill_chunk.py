"""How many tokens of a prompt go through the model at once, when nobody says.

Each chunk reads each expert it needs once, so a long chunk reads less: twice the tokens need
hardly more experts. What bounds it is the memory of a chunk's activations, which is part of the
constant that a loaded model may take beside weights and KV cache. With all experts in RAM
nothing is read again, and mlx-lm's own number is taken, so that results are mlx-lm's default.
Pure arithmetic: nothing is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST = 64
"""Below this a chunk serves too few tokens with the experts it reads."""
RESIDENT = 2048
"""mlx-lm's `prefill_step_size`."""
MOST = 8192
"""Beyond this each expert serves so many tokens that its read no longer counts."""
SCORES = 64_000_000
"""Bytes that compiled attention takes for scores and what they make, however long the context."""
ITEM = 4
"""Bytes of an activation, at most: float32."""


@dataclass(frozen=True)
class Costs:
    """Bytes of activations that one token of a chunk needs at the worst moment of a layer.

    Attributes:
        routed: for its k experts: sorted input, gate, up, their product, output, and the output
            again in the prompt's order.
        attended: for each token of the context it attends to: scores, and their softmax; 0 where
            attention is one fused kernel.
        bounded: over plain KV caches the scores of all tokens together never take more than
            `SCORES`: compiled kernels compute some rows at a time.
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
        """What a chunk of so many tokens needs."""
        if self.bounded and plain:
            return SCORES + tokens * self.routed
        return tokens * (self.routed + context * self.attended)


def choose_chunk(
    context: int, costs: Costs, resident: bool, budget: int, plain: bool = True
) -> int:
    """Tokens per chunk: a power of two from `LEAST` on, whose activations fit `budget` bytes.

    Args:
        context: tokens of the whole prompt, those in the KV cache included.
        resident: all experts are in RAM, or will be once they were read.
        plain: the KV caches are neither quantised nor rotating.
    """
    most = RESIDENT if resident else MOST
    chunk = LEAST
    while 2 * chunk <= most and costs.nbytes(2 * chunk, context, plain) <= budget:
        chunk *= 2
    return chunk
