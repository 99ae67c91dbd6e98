"""What a model's runs chose lately, kept between loads: the next load reads those experts first.

One file for each model in the user's cache folder has the experts of the last tokens, and no text.
`OUTLIER_HISTORY=0` in the environment, or `warm="off"`, keeps nothing and reads nothing.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..errors import OutlierError
from ..options import AUTO
from ..system import files
from ..trace import TraceInfo

KEPT_TOKENS = 2048
"""Tokens whose experts are kept: 2 MB for 60 layers of 8 experts a token."""
LARGEST = 64 << 20
"""Bytes of a file that is read: no model comes near it."""
SAVE_EVERY_S = 60.0
"""Seconds between two saves while the engine is open; closing it saves the rest."""
NAME = "experts"

Experts = npt.NDArray[np.int16]
"""[tokens, layers, k]; -1 for none."""


class RoutingHistory:
    """The experts of a model's last tokens.

    Attributes:
        path: the file; None keeps nothing.
        at_load: tokens that an earlier engine left, and that this one began with.
    """

    def __init__(self, info: TraceInfo, warm: str) -> None:
        """The history of a model that was loaded with the option `warm`."""
        folder, self._warm = user_cache_path("outlier_jupyter") / "routing", warm
        keep = warm != "off" and os.environ.get("OUTLIER_HISTORY") != "0"
        self.path: Path | None = folder / f"{info.model_hash}.safetensors" if keep else None
        self.at_load = 0
        self._sizes = np.array(info.experts_per_layer, np.int16)
        self._new: list[Experts] = []
        self._saved_at = time.monotonic()

    def read(self) -> Experts | None:
        """What earlier engines of this model left, with `warm="auto"`; None if there is nothing."""
        experts = self._stored() if self._warm == AUTO else None
        self.at_load = 0 if experts is None else len(experts)
        return experts

    def add(self, experts: Experts) -> None:
        """Add a run's experts [tokens, layers, k]."""
        if self.path is None or not len(experts) or not len(self._sizes):
            return
        self._new.append(experts[-KEPT_TOKENS:].astype(np.int16))
        if time.monotonic() - self._saved_at > SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write the last tokens of the file and of this engine; on failure the file stays."""
        if self.path is None or not self._new:
            return
        stored = self._stored()
        last = _joined(([] if stored is None else [stored]) + self._new)[-KEPT_TOKENS:]
        self._new, self._saved_at = [], time.monotonic()
        with suppress(OutlierError, OSError):  # a full disk must not end a run
            self.path.parent.mkdir(parents=True, exist_ok=True)
            data = save({NAME: np.ascontiguousarray(last)})
            files.write(self.path, data, OutlierError, "the routing history")

    def forget(self) -> None:
        """Delete the file, and what this engine would add to it."""
        self._new = []
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _stored(self) -> Experts | None:
        """The file's array, if it is one of this model."""
        try:
            if self.path is None or files.regular(self.path).stat().st_size > LARGEST:
                return None
            experts = load(self.path.read_bytes())[NAME]
        except (OSError, SafetensorError, KeyError, ValueError):
            return None
        if experts.dtype != np.int16 or experts.ndim != 3 or not experts.size:
            return None
        fits = experts.shape[1] == len(self._sizes) and (experts < self._sizes[:, None]).all()
        return experts if fits else None


def _joined(parts: list[Experts]) -> Experts:
    """The parts one after the other; a narrower one has -1 for what it lacks."""
    k = max(part.shape[2] for part in parts)
    spare = [((0, 0), (0, 0), (0, k - part.shape[2])) for part in parts]
    return np.concatenate([
        np.pad(part, room, constant_values=-1) for part, room in zip(parts, spare, strict=True)
    ])  # fmt: skip
