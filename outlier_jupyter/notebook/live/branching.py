"""Go on from a token of a finished run with another one: a new run, in a live view below the first.

A page sends `{"type": "branch", "token": 12, "choose": 345}`. The run is computed on the engine's
thread for `watch`, so that the message is handled at once and the view is live from the start.
"""

from __future__ import annotations

from ...engine.branch import start_branch
from ...errors import OutlierError
from ...runs.origin import engine_of, quoted
from ...runs.run import Run
from .watch import RunningView
from .widget import LiveView, header


def go_on(view: LiveView, token: int, choose: int) -> str:
    """Start the branch of the run that `view` shows, and show it below.

    Args:
        token: the number of a generated token, from 1.
        choose: the id of the token in its place.

    Returns:
        Why that cannot be, as a sentence; else "".
    """
    run = view.finished_run
    if run is None:
        return "A run goes on from one of its tokens once it is over."
    try:
        engine = engine_of(run)
    except OutlierError as error:
        return f"{error}."
    below = RunningView(
        engine,
        lambda: start_branch(engine, run, token, choose, None, {}),
        header(run.trace.info, run.prompt) | {"branched": _words(run, token, choose)},
    )

    def changed(_: object) -> None:
        if below.over:
            _ended(view, below)

    below.observe(changed, "status")
    view.branches = [*view.branches, below]
    below.begin()
    return ""


def _words(run: Run, token: int, choose: int) -> str:
    """Where a branch leaves its run, as a sentence."""
    chosen, before = quoted(run.piece(choose)), quoted(run.text_of(token))
    instead = f" in place of {before}" if before else ""
    return f"Goes on from token {token:,} with {chosen or f'id {choose}'}{instead}."


def _ended(view: LiveView, below: RunningView) -> None:
    """A branch that never began leaves a sentence; any other is part of what the notebook keeps."""
    if below.run is None:
        view.branches = [each for each in view.branches if each is not below]
        below.close()
        view.send({"type": "branched", "words": f"{below.error}."})
    else:
        view.send({"type": "branched", "words": ""})
        view.keep_run(view.finished_run)
