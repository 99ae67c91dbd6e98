"""A call of the model that serves several prompts at once: what differs from a prompt's chunk."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class BatchCall(NamedTuple):
    """The rows of a call, in the order in which a switch receives them.

    Attributes:
        decoding: each row is a prompt's next token. Their experts are wanted again soon, so none is
            demoted after use.
        padding: bool [rows], the rows that belong to no prompt; None if there are none.
    """

    decoding: bool
    padding: npt.NDArray[np.bool_] | None = None

    def without_padding(self, ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`ids` [..., k] on the host, with the choices of a real row in place of padding's.

        So padding causes no read. What is computed for it is never attended to.
        """
        if self.padding is None:
            return ids
        rows = ids.reshape(-1, ids.shape[-1]).copy()
        rows[self.padding] = rows[int(np.argmin(self.padding))]
        return rows.reshape(ids.shape)
