"""How much of its prompt a run has read, from events that the engine reports anyway.

A call reads a chunk of the prompt layer by layer; within a call, the share of layers that have
routed counts. The subscription ends with the prompt, so decoding costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from ...events import CallStarted, Event, PromptEncoded, Routed, StepDone, Unsubscribe


class PromptProgress:
    """A subscriber for one run; it calls `report` with the tokens read and the prompt's length.

    Args:
        layers: MoE layers of the model.
        report: called for each layer; the receiver limits its own updates.
    """

    KINDS = (PromptEncoded, CallStarted, Routed, StepDone)

    def __init__(self, layers: int, report: Callable[[int, int], object]) -> None:
        self._layers = max(layers, 1)
        self._report = report
        self._length = self._read = self._chunk = self._routed_layers = 0

    def __call__(self, event: Event) -> None:
        """Receive one event.

        Raises:
            Unsubscribe: the whole prompt is read.
        """
        if type(event) is Routed:
            self._routed_layers += 1
        elif type(event) is CallStarted:
            self._chunk, self._routed_layers = len(event.tokens), 0
        elif type(event) is PromptEncoded:
            self._read, self._length = event.reused, event.reused + len(event.tokens)
        elif type(event) is StepDone:
            self._read, self._chunk = self._read + self._chunk, 0
        within = self._chunk * min(self._routed_layers, self._layers) // self._layers
        self._report(self._read + within, self._length)
        if self._read + within >= self._length:
            raise Unsubscribe
