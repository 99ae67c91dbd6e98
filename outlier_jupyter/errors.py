"""Every error this package raises on purpose, in one tree.

    OutlierError
    ├── OptionError            an option has a value that cannot be used (also a ValueError)
    │   ├── TemplateRefused    the model's chat template refused the messages
    │   ├── TemplateEndless    the model's chat template did not end in time
    │   └── TemplateTooLarge   the model's chat template would take too much memory
    ├── ModelNotFound          no such folder, file or Hugging Face id
    ├── CheckpointError        the bytes on disk are not what their headers promise
    │   ├── ReadFailed         the operating system refused or cut short a read
    │   ├── CheckpointChanged  a file was written to after the model was loaded
    │   └── RepackFailed       repacking experts failed; what was there before is untouched
    ├── TraceError             a saved trace cannot be read or written, or lacks what is needed
    ├── UnsupportedModel       this model cannot be run here
    │   └── NotPageable        the layout of its experts on disk cannot be paged
    ├── EngineClosed           the engine was closed; load the model again
    ├── EngineBusy             another run uses the engine
    └── RankLost               a rank of a spread model died, hung or disagreed; load it again

`run.Interrupted` stands apart: it is a KeyboardInterrupt, raised when the user stops a run.

A message names what was found, what was expected and what to do next, in one or two sentences.
"""

from __future__ import annotations

import os


class OutlierError(Exception):
    """The root of all errors that this package raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: show the message in the cell, not a stack of internals."""
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


class TemplateTooLarge(OptionError):
    """The model's chat template would take too much memory."""

    def __init__(self) -> None:
        super().__init__(
            "the model's chat template would take more memory than a prompt needs and was stopped: "
            "give raw=True, or repair chat_template in the model's folder"
        )


class ModelNotFound(OutlierError):
    """The name is neither `demo`, nor a folder, nor a repository that can be downloaded."""


class CheckpointError(OutlierError):
    """The checkpoint's bytes are missing, truncated or not what their headers promise."""


class ReadFailed(CheckpointError):
    """A read of expert weights failed; the engine stays usable."""


class CheckpointChanged(CheckpointError):
    """A weight file was written to after it was opened, so what is read from it may be wrong.

    The engine makes no more runs; load the model again.
    """


class TraceError(OutlierError):
    """A saved trace cannot be read or written, or lacks what a view of it needs."""


class RepackFailed(CheckpointError):
    """Repacking failed: the model is untouched, and the records already written are kept."""


class UnsupportedModel(OutlierError):
    """The model cannot be built, or run on this machine or device."""


class NotPageable(UnsupportedModel):
    """The experts' layout on disk cannot be paged, and the whole model does not fit in RAM."""


class EngineClosed(OutlierError):
    """The engine was closed; load the model again."""


class EngineBusy(OutlierError):
    """A stream is open on the engine, or the run was stopped while it waited for another one."""


class RankLost(OutlierError):
    """A rank died, hung or disagreed with the others, so all were ended; load the model again."""


def place(path: str | os.PathLike[str], most: int = 90) -> str:
    """`path` as text for a message, cut at the front to `most` characters."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return text if len(text) <= most else "…" + text[1 - most :]


def shown(value: object, most: int = 60) -> str:
    """The repr of `value` for a message, in one line, cut to `most` characters."""
    try:
        text = repr(value)
    except Exception:  # foreign code, or a number of more digits than Python writes
        text = f"a value of type {type(value).__name__}"
    return cut(" ".join(text.split()), most)


def brief(error: BaseException, most: int = 110) -> str:
    """Another library's exception: its type and the beginning of its message."""
    try:
        message = " ".join(str(error).split()).rstrip(".:")
    except Exception:  # foreign code as well
        message = ""
    return cut(f"{type(error).__name__}: {message}" if message else type(error).__name__, most)


def cut(text: str, most: int) -> str:
    """`text`, cut to `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
