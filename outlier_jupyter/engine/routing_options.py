"""What the runs of an engine ask of the routers: their options and, around them, `engine.routing`.

    with engine.routing(mask=["12:37"], boost={(3, 5): 2.0}):
        run = engine.generate("…")

Options that a run gives itself come before those of the block around it. Here they become an
intervention and words; `paging` brings it about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ..errors import OptionError
from ..options import GenerateOptions, make, settled
from ..paging import Intervention, RoutingOverride

NAMES = ("mask", "boost", "force", "top_k", "router_temperature")
"""The options of a run that change the routing."""


class RoutingOptions:
    """The routing of one engine; called, a block in which it is changed.

    Args:
        experts_per_layer: of the MoE layers.
        native: experts per token as the model's config says; `loaded`, as it was loaded.
    """

    def __init__(
        self,
        routing_override: RoutingOverride,
        experts_per_layer: Sequence[int],
        native: int | None,
        loaded: int | None,
    ) -> None:
        self._routing_override = routing_override
        self._experts = tuple(experts_per_layer)
        self._native = native
        self._loaded = loaded or native
        self._around: dict[str, Any] = {}

    @contextmanager
    def __call__(self, **changes: Any) -> Iterator[None]:
        """Change the routing of all runs, and calls of `engine.model`, within the block.

        Args:
            **changes: `mask`, `boost`, `force`, `top_k`, `router_temperature`, as in
                `GenerateOptions`. A block inside another one adds its own.

        Raises:
            OptionError: another option, an expert that there is not, or a router that cannot be
                changed so.
        """
        if other := changes.keys() - set(NAMES):
            raise OptionError(
                f"routing() has no {', '.join(sorted(other))}: give {', '.join(NAMES)}"
            )
        before = self._around
        around = before | settled(GenerateOptions, changes)
        with self.applied(make(GenerateOptions, around)):
            self._around = around
            try:
                yield
            finally:
                self._around = before

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Forget, within the block, what blocks around it say."""
        before, self._around = self._around, {}
        try:
            yield
        finally:
            self._around = before

    @property
    def native(self) -> dict[str, Any]:
        """The options of a run that routes as the model itself does, however it was loaded."""
        return {} if self._loaded == self._native else {"top_k": self._native}

    def given(self, options: dict[str, Any]) -> dict[str, Any]:
        """What a run is asked that was given `options`: what the block around says, and they."""
        return self._around | options

    def options(self, given: dict[str, Any]) -> GenerateOptions:
        """The options of a run that was `given` these, here and now; held against the model.

        Raises:
            OptionError: an option that cannot be used, or not with this model.
        """
        asked = make(GenerateOptions, self.given(given))
        self.asked(asked)
        return asked

    def asked(self, asked: GenerateOptions) -> Intervention:
        """What a run changes, held against the model.

        Raises:
            OptionError: an expert that there is not, or too few left.
        """
        if self._native == 1 and asked.top_k not in (None, 1):
            raise OptionError(
                f"top_k={asked.top_k} cannot be used: this model was made for one expert a token, "
                "and may weigh its input by it"
            )
        return Intervention.of(asked, self._experts, self._loaded)

    def applied(self, asked: GenerateOptions) -> AbstractContextManager[None]:
        """Route as a run asks, within the block."""
        return self._routing_override.applied(self.asked(asked))

    def exact(self) -> AbstractContextManager[None]:
        """Route as the model itself does, within the block, however it was loaded."""
        return self._routing_override.applied(Intervention(**self.native))

    def words(self, asked: GenerateOptions) -> list[str]:
        """Why a run's routing is another than the model's own; empty when it is not."""
        if not self._experts:
            return []
        return Intervention.of(
            asked if asked.top_k else make(GenerateOptions, _routing(asked, self._loaded)),
            self._experts,
        ).words(self._native)


def _routing(asked: GenerateOptions, top_k: int | None) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in NAMES} | {"top_k": top_k}
