"""Routing changes of an engine's runs: the runs' options and the `engine.routing` block.

    with engine.routing(mask=["12:37"], boost={(3, 5): 2.0}):
        run = engine.generate("…")

A run's own options override those of the block. This module turns them into an `Intervention` and
into text; `paging` applies it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

from ..errors import OptionError
from ..options import GenerateOptions, make, settled
from ..paging import Intervention, RoutingOverride

NAMES = ("mask", "boost", "force", "top_k", "router_temperature")
"""The options of a run that change the routing."""


class RoutingOptions:
    """The routing of one engine; calling it opens a block in which the routing is changed.

    Args:
        experts_per_layer: of the MoE layers.
        own_top_k: experts per token from the model's config; `loaded`, from `load(top_k=…)`.
    """

    def __init__(
        self,
        routing_override: RoutingOverride,
        experts_per_layer: Sequence[int],
        own_top_k: int | None,
        loaded: int | None,
    ) -> None:
        self._routing_override = routing_override
        self._experts = tuple(experts_per_layer)
        self._own_top_k = own_top_k
        self._loaded = loaded or own_top_k
        self._around: dict[str, Any] = {}

    @contextmanager
    def __call__(self, **changes: Any) -> Iterator[None]:
        """Change the routing of all runs, and calls of `engine.model`, within the block.

        Args:
            **changes: `mask`, `boost`, `force`, `top_k`, `router_temperature`, as in
                `GenerateOptions`. An inner block adds to the outer one.

        Raises:
            OptionError: another option, an expert that does not exist, or a router that cannot be
                changed this way.
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
        """Ignore the outer `engine.routing` blocks within this block."""
        before, self._around = self._around, {}
        try:
            yield
        finally:
            self._around = before

    @property
    def own(self) -> dict[str, Any]:
        """The run options that restore the model's own routing, whatever `load` changed."""
        return {} if self._loaded == self._own_top_k else {"top_k": self._own_top_k}

    def merged(self, options: dict[str, Any]) -> dict[str, Any]:
        """A run's options, on top of those of the `engine.routing` blocks around it."""
        return self._around | options

    def options(self, values: dict[str, Any]) -> GenerateOptions:
        """The options of a run with these values, merged with the blocks and checked.

        Raises:
            OptionError: an option that cannot be used, or not with this model.
        """
        options = make(GenerateOptions, self.merged(values))
        self._intervention(options)
        return options

    def _intervention(self, options: GenerateOptions) -> Intervention:
        """The routing changes of a run, checked against the model.

        Raises:
            OptionError: an expert that does not exist, or too few are left.
        """
        if self._own_top_k == 1 and options.top_k not in (None, 1):
            raise OptionError(
                f"top_k={options.top_k} cannot be used: this model was made for one expert per "
                "token, and may multiply its input by the router's weight"
            )
        return Intervention.of(options, self._experts, self._loaded)

    def applied(self, options: GenerateOptions) -> AbstractContextManager[None]:
        """Route as a run's options say, within the block."""
        return self._routing_override.applied(self._intervention(options))

    def exact(self) -> AbstractContextManager[None]:
        """Route as the model itself does, within the block, whatever `load` changed."""
        return self._routing_override.applied(Intervention(**self.own))

    def words(self, options: GenerateOptions) -> list[str]:
        """Reasons why a run's routing differs from the model's own; empty if it does not."""
        if not self._experts:
            return []
        if not options.top_k:
            options = replace(options, top_k=self._loaded)
        return Intervention.of(options, self._experts).phrases(self._own_top_k)
