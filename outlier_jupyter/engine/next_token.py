"""The next token: logits through penalties and sampler to an id, and what the model found likely.

Both are evaluated together: the one sync per token. Sampler and penalties are mlx-lm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import mlx.core as mx

from ..errors import OptionError, OutlierError, UnsupportedModel
from .predictor import Predictor, Rows, log_probabilities
from .sampling import Processor, Sampling

LOST_LIBRARY = "Could not load C++ shared library"
"""MLX's message when another process deleted the file that it had just compiled."""


class NextToken:
    """Chooses a run's tokens; `reused` are ids before those that it reads, which penalties count.

    Attributes:
        processors: functions of the ids and their logits, applied in order before the sampler.
    """

    def __init__(self, sampling: Sampling, alternatives: int, reused: Sequence[int] = ()) -> None:
        self._predictor = Predictor(alternatives)
        self._reused = list(reused)
        self._sampling = sampling
        self.processors: list[Processor] = list(sampling.processors)
        self._begun: tuple[mx.array, mx.array, list[mx.array]] | None = None

    def read_only(self, logits: mx.array, after: list[int], state: list[Any]) -> Rows | None:
        """Evaluate a prefill chunk: its KV cache's `state`, and what it says of the tokens `after`.

        Args:
            logits: [1, tokens, vocabulary], lazy; not computed without tokens `after`.
        """
        if not after:
            mx.eval(state)
            return None
        scale = mx.logsumexp(logits[0], axis=-1, keepdims=True)
        wanted = self._predictor.lazy(logits[0] - scale, mx.array(after))
        mx.eval(state, wanted)
        return self._predictor.rows(wanted)

    def choose(self, read: list[int], tokens: list[int], logits: mx.array) -> tuple[int, Rows]:
        """The id after `read` and then `tokens`, from logits [1, vocabulary].

        It is evaluated again if MLX lost what it had just compiled: on a CPU MLX compiles a
        sampler's functions when they are first evaluated, into a folder that all processes share.
        Two processes that compile at the same moment can delete each other's files ("Could not load
        C++ shared library"); the second attempt finds the library.

        Raises:
            UnsupportedModel: the logits are not finite.
            OptionError: a processor, a bias, a penalty or a schema made them so, or one failed.
        """
        key: Any = mx.random.state[0]  # type: ignore[index]  # mlx.core's stub says object
        try:
            token, scale, wanted = self._evaluated(read, tokens, logits)
        except RuntimeError as error:
            if LOST_LIBRARY not in str(error):
                raise
            high, low = key.tolist()
            mx.random.seed(high << 32 | low)
            token, scale, wanted = self._evaluated(read, tokens, logits)
        if not isfinite(scale):
            raise self._no_choice(len(read) + len(tokens), wanted[0])
        return token, self._predictor.row(wanted, token)

    def begin(
        self, read: list[int], tokens: list[int], logits: mx.array
    ) -> tuple[mx.array, mx.array, list[mx.array]]:
        """What `choose` evaluates for the same arguments next, lazy: others' can be beside it."""
        sampled, scale, own = self._lazy(read, tokens, logits)
        self._begun = sampled, scale, self._predictor.lazy(own, sampled)
        return self._begun

    def forget(self) -> None:
        """`choose` begins anew."""
        self._begun = None

    def _no_choice(self, count: int, own: mx.array) -> OutlierError:
        """Why no token can be chosen after `count`; `own` are log-probabilities of the model's."""
        if self._sampling.own:
            return OptionError(
                "after the logits processors no token can be chosen: the logits hold NaN or "
                "infinity, or all are -inf; let each processor leave finite logits"
            )
        scale: Any = mx.logsumexp(own).item()  # a processor may have written into the logits
        if isfinite(scale):
            return OptionError(
                "with this logit_bias, penalty or schema no token can be chosen: the logits "
                "become NaN or infinity, or all -inf; give smaller numbers, or leave one out"
            )
        return UnsupportedModel(
            f"the logits after token {count:,} hold NaN or infinity, so no token can be chosen: "
            "the weights or their scales are damaged; download or copy the shards again, or repack"
        )

    def _evaluated(
        self, read: list[int], tokens: list[int], logits: mx.array
    ) -> tuple[int, float, list[mx.array]]:
        """The sampled id, the logits' logsumexp, and the predictor's arrays: one sync per token."""
        sampled, scale, wanted = self._begun or self.begin(read, tokens, logits)
        self._begun = None
        mx.eval(sampled, scale, wanted)
        token: Any = sampled.item()
        total: Any = scale.item()
        return int(token), float(total), wanted

    def _lazy(
        self, read: list[int], tokens: list[int], logits: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """As in mlx-lm's `generate_step`: the id [1], and the logits' logsumexp [1, 1].

        The third array are the model's log-probabilities before penalties, [1, vocabulary].
        """
        own: mx.array | None = None
        if self.processors:
            own = log_probabilities(logits)  # first: a processor may write into its argument
            so_far = mx.array(self._reused + read + tokens)
        for process in self.processors:
            logits = process(so_far, logits)
        scale = mx.logsumexp(logits, keepdims=True)
        logprobs = logits - scale
        return self._sampling.sample(logprobs), scale, logprobs if own is None else own
