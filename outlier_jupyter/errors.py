"""Every error this package raises on purpose, in one tree.

    OutlierError
    ├── OptionError            an option has a value that cannot be used (also a ValueError)
    │   └── TemplateRefused    the model's chat template refused the messages
    ├── ModelNotFound          no such folder, file or Hugging Face id
    ├── CheckpointError        the bytes on disk are not what their headers promise
    │   ├── ReadFailed         the operating system refused or cut short a read
    │   ├── CheckpointChanged  a file was written to after the model was loaded
    │   └── RepackFailed       experts could not be written anew; what was there is still there
    ├── TraceError             a saved trace cannot be read, written or used for what was asked
    ├── UnsupportedModel       this model cannot be run here
    │   └── NotPageable        its experts do not lie on disk as they are multiplied
    ├── EngineClosed           the engine was closed and cannot run any more
    └── EngineBusy             another run holds the engine

`run.Interrupted` stands apart: it is a KeyboardInterrupt, raised when the user stops a run.

A message says what was seen, what was wanted and what to do next, in one sentence or two.
"""

from __future__ import annotations

import os


class OutlierError(Exception):
    """The root: catch this to catch everything this package raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: the sentence in the cell instead of a stack of internals."""
        return [f"{type(self).__name__}: {self}"]


class OptionError(OutlierError, ValueError):
    """An option has a value that cannot be used."""


class TemplateRefused(OptionError):
    """The model's chat template refused the messages."""


class TemplateEndless(OptionError):
    """The model's chat template did not end in time."""

    def __init__(self) -> None:
        super().__init__(
            "the model's chat template took too long and was stopped: it may never end; give "
            "raw=True, or repair chat_template in the model's folder"
        )


class ModelNotFound(OutlierError):
    """The model named is neither `demo`, nor a folder, nor a repository that can be had."""


class CheckpointError(OutlierError):
    """The checkpoint's bytes are missing, truncated or not what their headers promise."""


class ReadFailed(CheckpointError):
    """A read of expert weights failed; the engine stays usable and can be asked again."""


class CheckpointChanged(CheckpointError):
    """A file of weights was written to after it was opened: what is read of it may be wrong.

    The engine makes no more runs; load the model again.
    """


class TraceError(OutlierError):
    """A saved trace cannot be read or written, or lacks what was asked of it."""


class RepackFailed(CheckpointError):
    """Experts could not be rewritten; what was there is untouched, what was done is kept."""


class UnsupportedModel(OutlierError):
    """The model cannot be built, or run on this machine or device."""


class NotPageable(UnsupportedModel):
    """The experts do not lie on disk as they are multiplied, and the whole does not fit in RAM."""


class EngineClosed(OutlierError):
    """The engine was closed; load the model again."""


class EngineBusy(OutlierError):
    """A run was asked for while a stream is open, or gave up its turn."""


def place(path: str | os.PathLike[str], most: int = 90) -> str:
    """A path for a message: printable, and of a long one the end."""
    said = os.fsencode(path).decode("utf-8", "replace")
    return said if len(said) <= most else "…" + said[1 - most :]


def shown(value: object, most: int = 60) -> str:
    """A value for a message, as Python writes it; of a long one the beginning."""
    try:
        said = repr(value)
    except Exception:  # anybody's, or a number of more digits than Python writes
        said = f"a value of type {type(value).__name__}"
    said = " ".join(said.split())
    return said if len(said) <= most else said[: most - 1] + "…"


def brief(error: BaseException, most: int = 110) -> str:
    """Another library's exception in a few words: its type and the beginning of what it says."""
    words = " ".join(str(error).split()).rstrip(".:")
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return said if len(said) <= most else said[: most - 1] + "…"
