"""How far a run has come with reading its prompt, from the events that the engine tells anyway.

A call reads a chunk of the prompt layer after layer: within one, the share of the layers that have
routed counts. Once the prompt is read nothing is heard any more, so decoding pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from ...events import CallStarted, Event, PromptEncoded, Routed, StepDone, Unsubscribe


class PromptProgress:
    """A sink of one run; it calls `told` with the tokens read and those of the whole prompt.

    Args:
        layers: how many layers of the model route.
        told: called for each layer; who shows it keeps it from being too often.
    """

    KINDS = (PromptEncoded, CallStarted, Routed, StepDone)

    def __init__(self, layers: int, told: Callable[[int, int], object]) -> None:
        self._layers = max(layers, 1)
        self._told = told
        self._whole = self._read = self._chunk = self._served = 0

    def __call__(self, event: Event) -> None:
        """Hear one event.

        Raises:
            Unsubscribe: the prompt is read.
        """
        if type(event) is Routed:
            self._served += 1
        elif type(event) is CallStarted:
            self._chunk, self._served = len(event.tokens), 0
        elif type(event) is PromptEncoded:
            self._read, self._whole = event.reused, event.reused + len(event.tokens)
        elif type(event) is StepDone:
            self._read, self._chunk = self._read + self._chunk, 0
        within = self._chunk * min(self._served, self._layers) // self._layers
        self._told(self._read + within, self._whole)
        if self._read + within >= self._whole:
            raise Unsubscribe
