"""The number of experts per token: the model's own, and another that the user wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import families
from ..errors import OptionError
from ..paging.install import MoeSwitch


def own_top_k_of(config: dict[str, Any]) -> int | None:
    """The model's own number of experts per token from its config; None if it has none."""
    return top_k_of(config, None, "")[0]


def top_k_of(
    config: dict[str, Any], wanted: int | None, model: str
) -> tuple[int | None, dict[str, Any] | None]:
    """The model's own experts per token, and the config changes that set it to `wanted`."""
    text_config = config.get("text_config")
    inner = text_config if isinstance(text_config, dict) else {}
    for name in families.names("top_k"):
        if isinstance(config.get(name), int):
            return config[name], None if wanted is None else {name: wanted}
        if isinstance(inner.get(name), int):
            changed = {"text_config": {**inner, name: wanted}}
            return inner[name], None if wanted is None else changed
    if wanted is not None:
        raise OptionError(
            f"top_k={wanted} cannot be used: the config of {model} names no number of experts per "
            "token, so leave top_k out"
        )
    return None, None


def check_top_k(wanted: int | None, switches: Sequence[MoeSwitch]) -> None:
    """Raises OptionError: a layer has fewer than the `wanted` experts."""
    fewest = min((switch.experts for switch in switches), default=wanted or 0)
    if wanted is not None and wanted > fewest:
        raise OptionError(
            f"top_k={wanted} is more than the {fewest} experts of a layer: give fewer"
        )
